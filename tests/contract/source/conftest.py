"""A database for each module, a source that reads it, and a plain session that says what is in it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.postgres.source import PostgresSource
from tests.contract.source.reading import postgres, postgres_source


@pytest.fixture(scope="module")
def dsn(servers: EmbeddedServers, request: pytest.FixtureRequest) -> str:
    name = request.module.__name__.rpartition(".")[2]
    servers.postgres.create_database(name)
    return servers.postgres.dsn(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with postgres(dsn) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def source(dsn: str) -> AsyncIterator[PostgresSource]:
    async with postgres_source(dsn) as opened:
        yield opened
