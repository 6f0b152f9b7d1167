"""What lost attempts and failed plans left behind, on Postgres. The SQL is in `leftovers.sql`."""

from collections.abc import Sequence

from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.rows import plan_of
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.postgres.queries import load_queries

QUERIES = load_queries(__package__, "leftovers.sql")


class PostgresLeftovers(PostgresPort):
    """`RunLeftovers` on Postgres."""

    async def runs_to_clean_up(self) -> list[str]:
        return [row["run_id"] for row in await self._database.rows(QUERIES["runs_to_clean_up"])]

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        return [UploadRef(**row) for row in await self._database.rows(QUERIES["lost_uploads"], run_id=run_id)]

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        rows = await self._database.rows(QUERIES["lost_of"], run_id=run_id, **_handles(listed))
        return [listed[row["number"] - 1] for row in rows]

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        await self._database.execute(QUERIES["forget_uploads"], run_id=run_id, **_handles(uploads))

    async def failed_plan(self, run_id: str) -> Plan | None:
        plan = await self._database.value(QUERIES["failed_plan"], run_id=run_id)
        return None if plan is None else plan_of(plan)

    async def forget_failed_plan(self, run_id: str) -> None:
        await self._database.execute(QUERIES["forget_failed_plan"], run_id=run_id)


def _handles(uploads: Sequence[UploadRef]) -> dict[str, list[str]]:
    """Return the columns that identify these uploads within their run."""
    return {"keys": [upload.key for upload in uploads], "upload_ids": [upload.upload_id for upload in uploads]}
