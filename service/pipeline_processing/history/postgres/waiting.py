"""What waits in the queue, on Postgres. The SQL is in `waiting.sql`."""

from collections.abc import Sequence

from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.rows import run_of
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting

QUERIES = load_queries(__package__, "waiting.sql")


class PostgresWaiting:
    """`QueueReads` on Postgres."""

    def __init__(self, database: HistoryDatabase) -> None:
        self._database = database

    async def waiting(
        self, *, limit: int, agency_id: int | None = None, run_ids: Sequence[str] | None = None
    ) -> list[Waiting]:
        rows = await self._database.rows(QUERIES["waiting"], limit=limit, agency_id=agency_id, run_ids=run_ids)
        return [
            Waiting(
                run=run_of(row),
                now=row["now"],
                place=row["place"],
                behind=row["behind"],
                held=tuple(row["held"]),
                last_error=row["last_error"],
            )
            for row in rows
        ]

    async def agencies(self, *, agency_id: int | None = None) -> list[AgencyQueue]:
        return [AgencyQueue(**dict(row)) for row in await self._database.rows(QUERIES["agencies"], agency_id=agency_id)]
