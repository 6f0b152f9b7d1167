"""What waits in the queue, on Postgres. The SQL is in `waiting.sql`."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline_processing.agency_keys import AgencyId, number_of
from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.rows import agency_of, run_of
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting

QUERIES = load_queries(__package__, "waiting.sql")


class PostgresWaiting(PostgresPort):
    """`QueueReads` on Postgres."""

    async def waiting(self, *, limit: int, agency_id: AgencyId | None = None) -> list[Waiting]:
        rows = await self._database.rows(QUERIES["places"], limit=limit, **_only(agency_id))
        found = {each.run.run_id: each for each in await self.reasons([row["run_id"] for row in rows])}
        return [replace(found[row["run_id"]], place=row["place"]) for row in rows if row["run_id"] in found]

    async def reasons(self, run_ids: Sequence[str]) -> list[Waiting]:
        return [
            Waiting(
                run=run_of(row),
                now=row["now"],
                place=None,
                behind=row["behind"],
                held=tuple(row["held"]),
                last_error=row["last_error"],
            )
            for row in await self._database.rows(QUERIES["reasons"], run_ids=run_ids)
        ]

    async def agencies(self, *, agency_id: AgencyId | None = None) -> list[AgencyQueue]:
        rows = await self._database.rows(QUERIES["agencies"], **_only(agency_id))
        counts = ("due", "later", "running", "prepared", "waiting_since")
        return [AgencyQueue(agency_id=agency_of(row), **{name: row[name] for name in counts}) for row in rows]


def _only(agency_id: AgencyId | None) -> dict[str, int | str | None]:
    """Return the parameters that limit a query to an agency."""
    return {"agency_id": agency_id and number_of(agency_id), "agency": agency_id and str(agency_id)}
