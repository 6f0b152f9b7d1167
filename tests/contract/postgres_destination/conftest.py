"""One database for all tests here, with a schema for each."""

from collections.abc import AsyncIterator

import pytest

from pipeline_processing.embedded.servers import EmbeddedServers
from tests.contract.postgres_destination.warehouse import Warehouse, warehouse_in
from tests.shared_servers import unique


@pytest.fixture(scope="session")
def dsn(servers: EmbeddedServers) -> str:
    name = unique("warehouse")
    servers.postgres.create_database(name)
    return servers.postgres.dsn(name)


@pytest.fixture
async def warehouse(dsn: str) -> AsyncIterator[Warehouse]:
    async with warehouse_in(dsn, "exports") as opened:
        yield opened
