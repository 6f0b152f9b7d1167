"""Removal of old runs, on Postgres. The SQL is in `pruning.sql`."""

from datetime import datetime

from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.pruning import FinishedPlace, Judged, Kept

QUERIES = load_queries(__package__, "pruning.sql")

_WAIT_MILLISECONDS = 2000


class PostgresPruning(PostgresPort):
    """`RunPruning` on Postgres."""

    async def prune(
        self, before: datetime, *, after: FinishedPlace | None, limit: int, dry_run: bool = False
    ) -> list[Judged]:
        async with self._database.transaction() as connection:
            if not dry_run:
                await connection.execute(*QUERIES["limit_waiting"](milliseconds=_WAIT_MILLISECONDS))
                await connection.execute(*QUERIES["lock_runs"]())
            rows = await connection.fetch(
                *QUERIES["judge"](
                    before=before,
                    after_time=after and after.finished_at,
                    after_id=after and after.run_id,
                    limit=limit,
                )
            )
            if not dry_run:
                await connection.execute(*QUERIES["bury"](run_ids=[row["run_id"] for row in rows if not row["kept"]]))
        return [
            Judged(FinishedPlace(row["finished_at"], row["run_id"]), row["kept"] and Kept(row["kept"])) for row in rows
        ]
