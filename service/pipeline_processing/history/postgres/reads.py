"""Reads of the run table on Postgres. The SQL is in `reads.sql`."""

from collections.abc import Sequence
from uuid import UUID

from pipeline_processing.agency_keys import AgencyId, number_of
from pipeline_processing.errors import RunUnknown
from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.migrate import check_encoding
from pipeline_processing.history.postgres.rows import attempt_of, dataset_counts_of, filter_values, run_of
from pipeline_processing.model import Attempt, DatasetCounts, DatasetSchema, Run
from pipeline_processing.ports import LastSuccess
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter

QUERIES = load_queries(__package__, "reads.sql")
GET_ALL = QUERIES["get_all"]


class PostgresHistory(PostgresPort):
    """`RunHistory` on Postgres."""

    async def installation_id(self) -> UUID:
        async with self._database.session() as connection:
            await check_encoding(connection)
            return UUID(str(await connection.fetchval(*QUERIES["installation_id"]())))

    async def get(self, run_id: str) -> Run | None:
        return (await self.get_all([run_id])).get(run_id)

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        rows = await self._database.rows(GET_ALL, run_ids=run_ids)
        return {row["run_id"]: run_of(row) for row in rows}

    async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
        rows = await self._database.rows(QUERIES["newest"], **filter_values(wanted), limit=limit)
        return [run_of(row) for row in rows]

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        rows = await self._database.rows(QUERIES["replays"], run_ids=run_ids)
        return {row["replay_of"]: row["replays"] for row in rows}

    async def last_success(self, agency_id: AgencyId, dataset: str) -> LastSuccess | None:
        row = await self._database.row(
            QUERIES["last_success"], agency_id=number_of(agency_id), agency=str(agency_id), dataset=dataset
        )
        if row is None:
            return None
        schema = row["schema"] and DatasetSchema.model_validate_json(row["schema"], extra="ignore")
        return LastSuccess(row["run_id"], row["covered_until"], counts=dataset_counts_of(row), schema=schema)

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        return [dataset_counts_of(row) for row in await self._database.rows(QUERIES["datasets"], run_id=run_id)]

    async def attempts(self, run_id: str) -> list[Attempt]:
        return [attempt_of(row) for row in await self._database.rows(QUERIES["attempts"], run_id=run_id)]

    async def tries(self, run_id: str) -> int:
        tries = await self._database.value(QUERIES["tries"], run_id=run_id)
        if tries is None:
            raise RunUnknown(run_id)
        return int(tries)
