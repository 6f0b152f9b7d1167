"""A database for each module, a source that reads it, and a plain connection to prepare and check it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.reading import READERS, postgres, postgres_source
from tests.pgbouncer import POOL_MODES, NewPool


@pytest.fixture(scope="module")
def database(servers: EmbeddedServers, request: pytest.FixtureRequest) -> str:
    name: str = request.module.__name__.rpartition(".")[2]
    servers.postgres.create_database(name)
    return name


@pytest.fixture(scope="module")
def dsn(servers: EmbeddedServers, database: str) -> str:
    return servers.postgres.dsn(database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with postgres(dsn) as opened:
        yield opened


WAYS = [(reader, "direct") for reader in READERS] + [("copy", mode) for mode in POOL_MODES]
"""What reads, and through which pool. Pools make no difference between readers that isn't tested in test_pgbouncer."""


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A reader, and `direct` or the mode of a PgBouncer's pool."""
    way: tuple[str, str] = request.param
    return way


@pytest.fixture(scope="module")
def reader(way: tuple[str, str]) -> str:
    return way[0]


@pytest.fixture(scope="module")
def source_dsn(way: tuple[str, str], dsn: str, database: str, pooled: NewPool) -> str:
    """The DSN of Postgres, or of a PgBouncer in front of it."""
    return dsn if way[1] == "direct" else pooled(way[1]).dsn(database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def source(source_dsn: str, reader: str) -> AsyncIterator[PostgresSource]:
    async with postgres_source(source_dsn, reader=reader) as opened:
        yield opened
