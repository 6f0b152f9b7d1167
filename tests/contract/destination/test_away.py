"""A folder or bucket that was there, goes away, and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.errors import BucketMissing, DestinationUnavailable
from pipeline_processing.ports import Destination
from tests.contract.destination.destination_backends import (
    LARGE,
    METADATA,
    SMALL,
    Backend,
    FileBackend,
    Started,
    s3_backend,
    stage,
)

INSTALLATION = UUID("0192fe62-5a17-7cc0-8a4e-64d3f0a7c001")

Away = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture(params=["file", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Backend, Away]]:
    """A destination, and a block in which its folder or bucket is away."""
    if request.param == "file":
        root, aside = tmp_path / "root", tmp_path / "aside"
        root.mkdir()

        @asynccontextmanager
        async def unmounted() -> AsyncIterator[None]:
            root.rename(aside)
            yield
            assert not root.exists()
            aside.rename(root)

        yield FileBackend(root), unmounted
        return
    seaweedfs: SeaweedFSServer = request.getfixturevalue("seaweedfs")
    async with s3_backend(seaweedfs) as backend:

        @asynccontextmanager
        async def deleted() -> AsyncIterator[None]:
            await backend.raw.delete_bucket(Bucket=backend.bucket)
            yield
            seaweedfs.create_bucket(backend.bucket)

        yield backend, deleted


def uses(destination: Destination, started: Started) -> list[Callable[[], Awaitable[object]]]:
    """All ways to use it that would notice."""
    return [
        lambda: destination.verify_installation(INSTALLATION),
        lambda: destination.mark_installation(INSTALLATION),
        lambda: stage(destination, LARGE, started),
        lambda: destination.publish("_manifest.json", b"{}", metadata=METADATA),
    ]


async def test_before_it_was_there_it_is_missing(place: tuple[Backend, Away]) -> None:
    """As at the start of a worker: somebody has to mend a setting."""
    backend, away = place
    async with away():
        destination = backend.another()
        for use in uses(destination, Started()):
            with pytest.raises(BucketMissing, match="PIPELINE_DESTINATION"):
                await use()


async def test_once_it_was_there_it_is_waited_for(place: tuple[Backend, Away]) -> None:
    """Whatever is done while it is away may be tried again; nothing is made in its place, and then all goes on."""
    backend, away = place
    destination = backend.another()
    await destination.verify_installation(INSTALLATION)
    small = await stage(destination, SMALL, Started(), key="small")

    async with away():
        for use in uses(destination, Started()):
            with pytest.raises(DestinationUnavailable, match="existed before"):
                await use()
        with pytest.raises(DestinationUnavailable):
            await destination.complete(small, metadata=METADATA)
        with pytest.raises(DestinationUnavailable):
            await destination.delete(small, metadata=METADATA)

    for use in uses(destination, Started()):
        await use()
    await destination.complete(small, metadata=METADATA)
    assert "small" in await backend.visible()
