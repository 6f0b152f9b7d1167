"""The run table in Postgres, as far as it is only read. The SQL is in `queries_reading.sql`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import asyncpg

from pipeline_processing.errors import QueryFailed, QueryInvalid, RunUnknown, SourceBusy, StandbyConflict
from pipeline_processing.history.postgres.migrate import check_encoding
from pipeline_processing.history.postgres.rows import attempt_of, dataset_counts_of, last_success_of, run_of
from pipeline_processing.history.postgres.writes import QUERIES, find, of_the_history
from pipeline_processing.model import Attempt, DatasetCounts, Run, RunCompletion, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.postgres.client import DatabaseClient


class HistoryAccess:
    """Sessions in the history's database, whose errors are the history's. Its schema is the search path."""

    def __init__(self, *, database: DatabaseClient, schema: str) -> None:
        if database.search_path != schema:
            raise ValueError(f"the client's search path is {database.search_path!r}, the history's schema {schema!r}")
        self._database = database
        self._schema = schema

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._database.connection() as connection:
                yield connection
        except (SourceBusy, StandbyConflict, QueryInvalid, QueryFailed) as error:
            raise of_the_history(error, self._schema) from error


class PostgresRunHistory(HistoryAccess):
    """The part of `ports.RunStore` that changes nothing."""

    async def installation_id(self) -> UUID:
        async with self._session() as connection:
            await check_encoding(connection)
            return UUID(str(await connection.fetchval(*QUERIES["installation_id"]())))

    async def now(self) -> datetime:
        async with self._session() as connection:
            now = await connection.fetchval(*QUERIES["now"]())
        assert isinstance(now, datetime)
        return now

    async def tries(self, run_id: str) -> int:
        async with self._session() as connection:
            tries = await connection.fetchval(*QUERIES["tries"](run_id=run_id))
        if tries is None:
            raise RunUnknown(run_id)
        return int(tries)

    async def get(self, run_id: str) -> Run | None:
        async with self._session() as connection:
            row = await find(connection, run_id)
        return None if row is None else run_of(row)

    async def history(
        self,
        *,
        agency_id: int | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 50,
    ) -> list[Run]:
        wanted = QUERIES["history"](
            agency_id=agency_id, state=state and state.value, since=since, until=until, limit=limit
        )
        async with self._session() as connection:
            rows = await connection.fetch(*wanted)
        return [run_of(row) for row in rows]

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["get_all"](run_ids=run_ids))
        return {row["run_id"]: run_of(row) for row in rows}

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["replays"](run_ids=run_ids))
        return {row["replay_of"]: row["replays"] for row in rows}

    async def last_success(self, agency_id: int, dataset: str) -> LastSuccess | None:
        async with self._session() as connection:
            row = await connection.fetchrow(*QUERIES["last_success"](agency_id=agency_id, dataset=dataset))
        return None if row is None else last_success_of(row)

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["datasets"](run_id=run_id))
        return [dataset_counts_of(row) for row in rows]

    async def attempts(self, run_id: str) -> list[Attempt]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["attempts"](run_id=run_id))
        return [attempt_of(row) for row in rows]

    async def events(self, run_id: str) -> list[tuple[str, RunCompletion]]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["events"](run_id=run_id))
        return [(row["event_id"], RunCompletion.model_validate_json(row["value"])) for row in rows]
