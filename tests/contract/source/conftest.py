"""A database for each module, a source that reads it, and a plain connection to prepare and check it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.reading import postgres, postgres_source
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


@pytest.fixture(scope="module", params=["direct", *POOL_MODES])
def source_dsn(request: pytest.FixtureRequest, dsn: str, database: str, pooled: NewPool) -> str:
    """The DSN of Postgres, or of a PgBouncer in front of it, by pool mode."""
    return dsn if request.param == "direct" else pooled(request.param).dsn(database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def source(source_dsn: str) -> AsyncIterator[PostgresSource]:
    async with postgres_source(source_dsn) as opened:
        yield opened
