"""The whole service on real servers. Each test has its own database and bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.history.postgres.migrate import migrate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import TABLES, NewService, Service


@pytest.fixture(scope="session")
def template(servers: EmbeddedServers) -> str:
    """A database with sample data and a migrated history, for copying."""
    name = f"acceptance_template_{uuid4().hex[:8]}"
    create_template(servers, name)
    return name


def create_template(servers: EmbeddedServers, name: str) -> None:
    """Create such a database on other servers."""
    servers.postgres.create_database(name)

    async def load() -> None:
        connection = await asyncpg.connect(servers.postgres.dsn(name))
        try:
            await connection.execute(TABLES)
            await migrate(connection, "pipeline")
        finally:
            await connection.close()

    asyncio.run(load())


@pytest.fixture(scope="session")
def new_service(servers: EmbeddedServers, template: str) -> NewService:
    """Opens a service with its own database and bucket."""

    @contextmanager
    def opened(folder: Path, *, warm: bool = True) -> Iterator[Service]:
        name = f"acceptance-{uuid4().hex[:12]}"
        servers.postgres.create_database(name, template=template)
        servers.seaweedfs.create_bucket(name)
        service = Service(servers=servers, database=name, bucket=name, folder=folder, warm=warm)
        try:
            yield service
        finally:
            service.close()
            servers.postgres.drop_database(name)

    return opened


@pytest.fixture
def service(new_service: NewService, tmp_path: Path) -> Iterator[Service]:
    """A service for this test only."""
    with new_service(tmp_path) as opened:
        yield opened


@pytest.fixture
def messages(kafka: KafkaServer, service: Service) -> Iterator[Messages]:
    """Topics and a consumer group for this test only, which its service uses."""
    with Messages(kafka.bootstrap_servers) as opened:
        service.environment.update(opened.environment)
        yield opened
