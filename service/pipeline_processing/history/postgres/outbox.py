"""Unsent completion events, on Postgres. The SQL is in `outbox.sql`."""

from typing import Any

import orjson

from pipeline_processing.history.postgres.database import HistoryDatabase, PostgresPort
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.store import Announce

QUERIES = load_queries(__package__, "outbox.sql")

_LONGEST_SENDING_SECONDS = 120.0
"""After this the server ends the sender's transaction. If the sender was still sending, its events are sent again."""


class PostgresOutbox(PostgresPort):
    """`RunOutbox` on Postgres. An open transaction locks the events that are being sent."""

    def __init__(self, database: HistoryDatabase) -> None:
        super().__init__(database)
        self._was_empty = False

    async def announce(self, send: Announce, *, limit: int) -> int:
        if self._was_empty:
            # An idle process looks once a second. This takes a third of the round trips of the transaction.
            (is_any,) = await self._database.row(QUERIES["is_any_unsent"])
            if not is_any:
                return 0
        refused: BaseException | None = None
        try:
            async with self._database.transaction() as connection:
                milliseconds = round(_LONGEST_SENDING_SECONDS * 1000)
                unsent = await connection.fetch(*QUERIES["take_unsent"](limit=limit, milliseconds=milliseconds))
                if unsent:
                    try:
                        await send([event_of(row) for row in unsent])
                    except BaseException as error:
                        refused = error
                        raise
                    # An event that was requested again during the sending stays unsent.
                    await connection.execute(
                        *QUERIES["mark_sent"](
                            ids=[row["id"] for row in unsent],
                            run_ids=[row["run_id"] for row in unsent],
                            asked_again=[row["asked_again"] for row in unsent],
                        )
                    )
        except BaseException:
            if refused is None:
                raise
            raise refused  # noqa: B904 - `send`'s error or cancellation, even if the rollback fails as well
        self._was_empty = not unsent
        return len(unsent)


def event_of(row: Any) -> OutboxEvent:
    """Convert a record of `outbox`."""
    return OutboxEvent(
        event_id=row["event_id"],
        run_id=row["run_id"],
        type=row["type"],
        key=row["key"],
        headers=orjson.loads(row["headers"]),
        value=row["value"],
    )
