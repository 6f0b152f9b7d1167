"""One database for all tests here, with a schema for each."""

from collections.abc import AsyncIterator

import pytest

from pipeline_processing.embedded.servers import EmbeddedServers
from tests.contract.postgres_destination.warehouse import Warehouse, warehouse_in


@pytest.fixture(scope="session")
def dsn(servers: EmbeddedServers) -> str:
    servers.postgres.create_database("warehouse")
    return servers.postgres.dsn("warehouse")


@pytest.fixture
async def warehouse(dsn: str) -> AsyncIterator[Warehouse]:
    async with warehouse_in(dsn, "exports") as opened:
        yield opened
