"""Finished runs' events → whoever sends them, inside a transaction of the run store's."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from pipeline_processing.history.postgres.writes import QUERIES
from pipeline_processing.runs.completions import OutboxEvent

_LONGEST_SENDING_SECONDS = 120.0
"""After it the server takes whoever is sending for gone. A send that does last longer is only repeated."""


async def take_unsent(connection: asyncpg.Connection, limit: int) -> Sequence[Any]:
    """Records of up to `limit` unsent events, oldest first, which nobody else is given until the transaction ends."""
    await connection.execute(*QUERIES["limit_idleness"](milliseconds=round(_LONGEST_SENDING_SECONDS * 1000)))
    records: Sequence[Any] = await connection.fetch(*QUERIES["take_unsent"](limit=limit))
    return records


async def mark_sent(connection: asyncpg.Connection, records: Sequence[Any]) -> None:
    """Note that all of these were sent. One that was asked for again meanwhile stays unsent."""
    await connection.execute(
        *QUERIES["mark_sent"](
            ids=[record["id"] for record in records],
            run_ids=[record["run_id"] for record in records],
            asked_again=[record["asked_again"] for record in records],
        )
    )


def event_of(record: Any) -> OutboxEvent:
    """A record of `outbox`."""
    return OutboxEvent(
        event_id=record["event_id"],
        run_id=record["run_id"],
        type=record["type"],
        key=record["key"],
        headers=orjson.loads(record["headers"]),
        value=record["value"],
    )
