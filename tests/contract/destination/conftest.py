"""The destinations that the contract suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.servers import EmbeddedServers
from tests.contract.destination.destination_backends import (
    Backend,
    FileBackend,
    MemoryBackend,
    S3Backend,
    Started,
    s3_backend,
)


@pytest.fixture(scope="session")
def seaweedfs(servers: EmbeddedServers) -> SeaweedFSServer:
    return servers.seaweedfs


@pytest.fixture
async def s3(seaweedfs: SeaweedFSServer) -> AsyncIterator[S3Backend]:
    async with s3_backend(seaweedfs) as backend:
        yield backend


@pytest.fixture(params=["memory", "file", "s3"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
    elif request.param == "file":
        yield FileBackend(tmp_path)
    else:
        async with s3_backend(request.getfixturevalue("seaweedfs")) as opened:
            yield opened


@pytest.fixture
def started() -> Started:
    return Started()
