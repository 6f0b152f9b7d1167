"""The run stores that the contract suite runs against, with access to their internals for tests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.letters import PostgresLetters
from pipeline_processing.history.postgres.migrate import migrate
from pipeline_processing.history.postgres.store import postgres_run_store
from pipeline_processing.messaging.dead_letters import LetterStore
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.store import RunStore
from tests.memory.letters import MemoryLetters
from tests.pgbouncer import POOL_MODES, NewPool

# -- the server ----------------------------------------------------------------------------------


class GivenPostgres:
    """A server that is already running."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self, database: str = "postgres") -> str:
        return urlunsplit(urlsplit(self._dsn)._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Any:
    """The embedded Postgres, or the one of TEST_POSTGRES_DSN."""
    dsn = os.environ.get("TEST_POSTGRES_DSN")
    return GivenPostgres(dsn) if dsn else request.getfixturevalue("servers").postgres


@pytest.fixture(scope="session")
def database(postgres: Any) -> Iterator[str]:
    """The DSN of a database in which every test has its own schema."""
    name = f"runstore_{uuid4().hex}"
    asyncio.run(_execute(postgres.dsn(), f"CREATE DATABASE {name}"))
    yield postgres.dsn(name)
    asyncio.run(_execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.fixture
def schema() -> str:
    """A schema name that needs quoting."""
    return f'Runs "of" {uuid4().hex}'


# -- the backends --------------------------------------------------------------------------------


class FakeClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 18, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Backend(Protocol):
    """A run store and its dead letters, with access to their internals."""

    runs: RunStore
    letters: LetterStore

    def now(self) -> datetime:
        """The store's approximate time."""

    async def age(self, run_id: str, seconds: float) -> None:
        """
        Let time pass for a run, for its lease, `not_before` and deliveries, and for the webhooks.

        It may pass for other runs too.
        """

    async def outbox(self, run_id: str) -> list[OutboxEvent]:
        """All events of the run."""

    async def everything(self) -> Any:
        """Everything stored, for comparison."""


class MemoryBackend:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.table = RunTable(clock=self.clock)
        self.runs = memory_run_store(self.table)
        self.letters: LetterStore = MemoryLetters(clock=self.clock)

    def now(self) -> datetime:
        return self.clock.now()

    async def age(self, run_id: str, seconds: float) -> None:
        await self.clock.sleep(seconds)

    async def outbox(self, run_id: str) -> list[OutboxEvent]:
        return [event for event in self.table.events if event.run_id == run_id]

    async def everything(self) -> Any:
        table = self.table
        stored = (table.events, table.sent, table.asked_again, table.webhooks, table.deliveries)
        return repr(table.records), deepcopy(stored)


EMPTIED = (
    "webhook_deliveries",
    "webhooks",
    "run_datasets",
    "artifacts",
    "uploads",
    "plans",
    "outbox",
    "run_attempts",
    "runs",
    "tombstones",
    "agencies",
    "dead_letters",
)
TABLES = ("runs", "run_attempts", "uploads", "plans", "outbox", "agencies", "installation", "run_datasets",
          "webhook_deliveries", "webhooks", "artifacts", "tombstones")  # fmt: skip


class PostgresBackend:
    def __init__(self, database: DatabaseClient, schema: str) -> None:
        self.database = database
        self.runs = postgres_run_store(database, schema=schema)
        self.letters: LetterStore = PostgresLetters(HistoryDatabase(database, schema=schema))

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def age(self, run_id: str, seconds: float) -> None:
        await self.execute(
            "UPDATE runs SET lease_expires_at = lease_expires_at - $2::interval, not_before = not_before - $2 "
            "WHERE run_id = $1",
            run_id,
            timedelta(seconds=seconds),
        )
        await self.execute(
            "UPDATE webhook_deliveries SET next_at = next_at - $2::interval, first_tried_at = first_tried_at - $2 "
            "WHERE run_id = $1",
            run_id,
            timedelta(seconds=seconds),
        )
        await self.execute(
            "UPDATE webhooks SET configured_at = configured_at - $1::interval", timedelta(seconds=seconds)
        )

    async def outbox(self, run_id: str) -> list[OutboxEvent]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT * FROM outbox WHERE run_id = $1 ORDER BY id", run_id)
        columns = ("event_id", "run_id", "type", "key", "value")
        return [OutboxEvent(**{c: row[c] for c in columns}, headers=json.loads(row["headers"])) for row in rows]

    async def everything(self) -> Any:
        async with self.database.connection() as connection:
            return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]

    async def empty(self) -> None:
        emptied = "".join(f"DELETE FROM {table};" for table in EMPTIED)
        await self.execute(f"{emptied} ALTER TABLE dead_letters ALTER COLUMN number RESTART")

    async def execute(self, sql: str, *arguments: Any) -> None:
        async with self.database.connection() as connection:
            await connection.execute(sql, *arguments)


@asynccontextmanager
async def postgres_backend(dsn: str, schema: str, *, command_seconds: float = 30) -> AsyncIterator[PostgresBackend]:
    async with DatabaseClient(
        dsn=dsn,
        unavailable=HistoryUnavailable,
        application_name="tests",
        max_size=25,
        search_path=schema,
        command_seconds=command_seconds,
    ) as client:
        yield PostgresBackend(client, schema)


@asynccontextmanager
async def migrated(dsn: str, schema: str) -> AsyncIterator[PostgresBackend]:
    async with postgres_backend(dsn, schema) as backend:
        async with backend.database.connection() as connection:
            await migrate(connection, schema)
        yield backend


@pytest.fixture
async def on_postgres(database: str, schema: str) -> AsyncIterator[PostgresBackend]:
    """A separate history, for tests that change more than its rows."""
    async with migrated(database, schema) as backend:
        yield backend


@pytest.fixture(scope="session")
def shared_schema(database: str) -> str:
    """The schema of a history that tests share one after the other, because migrating one for each takes too long."""

    async def create() -> str:
        async with migrated(database, schema := 'Runs "shared"'):
            return schema

    return asyncio.run(create())


@asynccontextmanager
async def shared(dsn: str, schema: str) -> AsyncIterator[PostgresBackend]:
    """The shared history, emptied."""
    async with postgres_backend(dsn, schema) as backend:
        await backend.empty()
        yield backend


@pytest.fixture
async def shared_postgres(database: str, shared_schema: str) -> AsyncIterator[PostgresBackend]:
    async with shared(database, shared_schema) as backend:
        yield backend


@pytest.fixture
async def transaction_pool(database: str, shared_schema: str, pooled: NewPool) -> AsyncIterator[PostgresBackend]:
    """Through PgBouncer in transaction mode."""
    async with shared(pooled("transaction").dsn(database_of(database)), shared_schema) as backend:
        yield backend


@pytest.fixture
async def session_pool(database: str, shared_schema: str, pooled: NewPool) -> AsyncIterator[PostgresBackend]:
    """Through PgBouncer in session mode."""
    async with shared(pooled("session").dsn(database_of(database)), shared_schema) as backend:
        yield backend


def database_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


BACKENDS = {"memory": "memory", "postgres": "shared_postgres"}
if "TEST_POSTGRES_DSN" not in os.environ:
    BACKENDS |= {f"{mode}_pool": f"{mode}_pool" for mode in POOL_MODES}


@pytest.fixture(params=BACKENDS.values(), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    return MemoryBackend() if request.param == "memory" else request.getfixturevalue(request.param)


@pytest.fixture
def runs(backend: Backend) -> RunStore:
    return backend.runs
