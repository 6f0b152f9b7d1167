"""What a database may lack is found: privileges, a migration, an encoding, a pooler's sessions, the right time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.doctor.checking import Check, Finding, examined
from pipeline_processing.doctor.postgres import (
    HISTORY_CHECKS,
    SOURCE_CHECKS,
    Database,
    HistoryDatabase,
    SourceDatabase,
)
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.history.postgres.migrate import check_encoding, migrate, pending
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.source import SESSION_SETTINGS
from tests.pgbouncer import PgBouncer


class SkewedClock(SystemClock):
    """Ten minutes ahead."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=10)


@pytest.fixture(scope="module")
def postgres(servers: EmbeddedServers) -> PostgresServer:
    return servers.postgres


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """A migrated history's database, and a role `NAME_reader` that may only read it."""
    name = f"doctor_{uuid4().hex[:12]}"
    postgres.create_database(name)

    async def prepare() -> None:
        connection = await asyncpg.connect(postgres.dsn(name))
        await migrate(connection, "pipeline")
        await connection.execute(
            f"CREATE ROLE {name}_reader LOGIN; GRANT USAGE ON SCHEMA pipeline TO {name}_reader;"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA pipeline TO {name}_reader;"
            "INSERT INTO pipeline.agencies (agency_id) VALUES (7);"
            "INSERT INTO pipeline.runs (run_id, job, agency_id, state, request, dry_run, finished_at, request_hash,"
            " priority) VALUES ('r', 'j', 7, 'succeeded', '{}', false, now(), 'h', 5)"
        )
        await connection.close()

    asyncio.run(prepare())
    yield name
    postgres.drop_database(name)


def client(dsn: str, **options: Any) -> DatabaseClient:
    return DatabaseClient(dsn=dsn, unavailable=HistoryUnavailable, max_size=2, command_seconds=5, **options)


def history(database: DatabaseClient) -> HistoryDatabase:
    return HistoryDatabase(database, SystemClock(), schema="pipeline", encoding=check_encoding, pending=pending)


def source(database: DatabaseClient, **options: Any) -> SourceDatabase:
    told = {"session_settings": SESSION_SETTINGS, "reader": "by COPY", "copies": True, **options}
    return SourceDatabase(database, SystemClock(), **told)


async def examine(subject: Any, checks: Sequence[Check[Any]]) -> dict[str, Finding]:
    async with subject.client:
        return {each.check: each for each in await examined("db", checks, subject)}


def missing(found: dict[str, Finding]) -> dict[str, int]:
    """The checks that fail, with their exit codes. Each says what it costs."""
    wrong = [each for each in found.values() if each.state == "missing"]
    assert all(each.cost and each.detail for each in wrong)
    return {each.check: each.exit_code for each in wrong}


async def test_nothing_is_missing(postgres: PostgresServer, database: str) -> None:
    """Of the source, too. That the tests' server is quick and not durable is said, and no reason to fail."""
    found = await examine(history(client(postgres.dsn(database))), HISTORY_CHECKS)
    assert missing(found) == {}
    assert (found["durability"].state, found["durability"].exit_code) == ("advice", 0)
    found = await examine(source(client(postgres.dsn(database), server_settings=SESSION_SETTINGS)), SOURCE_CHECKS)
    assert {each.state for each in found.values()} == {"ok"}, found


async def test_a_role_that_may_only_read(postgres: PostgresServer, database: str) -> None:
    """What it lacks is named."""
    parts = urlsplit(postgres.dsn(database))
    reader = urlunsplit(parts._replace(netloc=f"{database}_reader@{parts.hostname}:{parts.port}"))
    found = await examine(history(client(reader)), HISTORY_CHECKS)
    assert missing(found) == {"privileges": 77, "SKIP LOCKED": 77}
    assert 'INSERT on "pipeline".runs' in found["privileges"].detail
    assert 'USAGE on "pipeline".fences' in found["privileges"].detail
    assert "SELECT" not in found["privileges"].detail


async def test_a_history_that_is_not_migrated(postgres: PostgresServer, database: str) -> None:
    """And one whose transactions are read-only, as behind a wrong address."""
    nothing = replace(history(client(postgres.dsn(database))), schema="elsewhere")
    assert missing(await examine(nothing, HISTORY_CHECKS)) == {"schema version": 78}
    read_only = client(postgres.dsn(database), server_settings={"transaction_read_only": "on"})
    found = missing(await examine(history(read_only), HISTORY_CHECKS))
    assert found["takes writes"] == 78


async def test_an_encoding_that_can_not_hold_every_request(postgres: PostgresServer, database: str) -> None:
    """The same words as `migrate` has."""
    name = f"{database}_ascii"
    connection = await asyncpg.connect(postgres.dsn())
    await connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        found = await examine(history(client(postgres.dsn(name))), HISTORY_CHECKS)
        assert missing(found)["encoding"] == 78
        assert "has the encoding SQL_ASCII" in found["encoding"].detail
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


async def test_another_time(postgres: PostgresServer, database: str) -> None:
    """Of either."""
    for subject, checks in (
        (history(client(postgres.dsn(database))), HISTORY_CHECKS),
        (source(client(postgres.dsn(database), server_settings=SESSION_SETTINGS)), SOURCE_CHECKS),
    ):
        skewed: Database = replace(subject, clock=SkewedClock())
        found = await examine(skewed, checks)
        assert missing(found) == {"clock": 78}
        assert found["clock"].detail == "its clock is 600 s behind this machine's"


async def test_sessions_that_are_not_as_set(postgres: PostgresServer, database: str) -> None:
    """As behind a pooler that resets them, and with rows that are read by cursors, or not for long."""
    lost = source(client(postgres.dsn(database), server_settings={"TimeZone": "Asia/Tokyo"}))
    found = await examine(lost, SOURCE_CHECKS)
    assert missing(found) == {"session settings": 78}
    assert "TimeZone is Asia/Tokyo" in found["session settings"].detail

    limits = SESSION_SETTINGS | {"idle_in_transaction_session_timeout": "10min"}
    slow = source(client(postgres.dsn(database), server_settings=limits), copies=False, reader="by cursors")
    found = await examine(slow, SOURCE_CHECKS)
    assert missing(found) == {}
    assert {name: each.detail for name, each in found.items() if each.state == "advice"} == {
        "COPY": "by cursors",
        "time limits": "idle_in_transaction_session_timeout is 10min",
    }


async def test_a_pooler_that_keeps_no_transaction(postgres: PostgresServer, database: str) -> None:
    """PgBouncer in statement mode: snapshots are impossible. In transaction mode all is well."""
    for mode, wrong in (("statement", True), ("transaction", False)):
        with PgBouncer(dsn=postgres.dsn(), pool_mode=mode) as pool:
            subject = source(client(pool.dsn(database), server_settings=SESSION_SETTINGS))
            found = await examine(subject, SOURCE_CHECKS)
        assert bool(missing(found)) == wrong, found
        assert wrong or "through a pooler" in found["connects"].detail


async def test_a_database_that_ignores_locks(postgres: PostgresServer, database: str) -> None:
    """As some do that speak Postgres's protocol."""

    class Unlocked:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        async def fetchval(self, query: str, *arguments: Any) -> Any:
            return await self._connection.fetchval(query.partition("FOR NO KEY UPDATE")[0], *arguments)

    class Ignorant(DatabaseClient):
        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Any]:
            async with super().connection() as connection:
                yield Unlocked(connection)

    ignorant = Ignorant(dsn=postgres.dsn(database), unavailable=HistoryUnavailable)
    assert missing(await examine(history(ignorant), HISTORY_CHECKS)) == {"SKIP LOCKED": 78}


async def test_nobody_answers() -> None:
    """Said once, and nothing else is tried."""
    found = await examine(history(client("postgresql://a@127.0.0.1:1/b")), HISTORY_CHECKS)
    assert missing(found) == {"connects": 69}
    assert {each.state for each in found.values()} == {"missing", "skipped"}
