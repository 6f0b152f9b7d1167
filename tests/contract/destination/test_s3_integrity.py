"""Bytes that change on the way to the store, or in it, never become an object, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.objects import crc32_of
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.errors import DestinationUnavailable
from pipeline_processing.plan import MultipartUpload
from tests.acceptance.fault_proxy import FaultProxy
from tests.contract.destination.destination_backends import (
    KEY,
    LARGE,
    METADATA,
    MIB,
    SMALL,
    S3Backend,
    Started,
    client_of,
    stage,
)


@pytest.fixture
def proxy(seaweedfs: SeaweedFSServer) -> Iterator[FaultProxy]:
    with FaultProxy(seaweedfs.port) as running:
        yield running


@pytest.fixture
async def destination(seaweedfs: SeaweedFSServer, proxy: FaultProxy, s3: S3Backend) -> AsyncIterator[S3Destination]:
    """Behind the proxy, and warm: its first request is done."""
    async with client_of(seaweedfs, port=proxy.port) as client:
        made = S3Destination(
            client=client, bucket=s3.bucket, prefix=s3.prefix, budget=ByteBudget(64 * MIB), part_size=5 * MIB
        )
        await made.exists(KEY)
        yield made


async def test_an_upload_has_the_crc32_of_all_its_bytes(s3: S3Backend, started: Started) -> None:
    """So one HEAD shows that an object is whole, without knowing its parts."""
    artifact = await stage(s3.destination, LARGE, started)
    assert isinstance(artifact.staged, MultipartUpload)
    assert len(artifact.staged.parts) > 1
    assert artifact.staged.crc32 == crc32_of(LARGE)
    await s3.destination.complete(artifact, metadata=METADATA)
    head = await s3.raw.head_object(Bucket=s3.bucket, Key=f"{s3.prefix}/{KEY}", ChecksumMode="ENABLED")
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (crc32_of(LARGE), "FULL_OBJECT")
    await s3.destination.complete(artifact, metadata=METADATA)  # recognised by it


async def test_an_object_of_other_bytes_is_never_completed(s3: S3Backend, started: Started) -> None:
    """The store compares its own CRC32 with the plan's."""
    artifact = await stage(s3.destination, LARGE, started)
    assert isinstance(artifact.staged, MultipartUpload)
    other = artifact.staged.model_copy(update={"crc32": crc32_of(b"other")})
    with pytest.raises(DestinationUnavailable, match="BadDigest"):
        await s3.destination.complete(artifact.model_copy(update={"staged": other}), metadata=METADATA)
    assert await s3.visible() == set()


async def test_damaged_parts_are_refused(
    destination: S3Destination, proxy: FaultProxy, s3: S3Backend, started: Started
) -> None:
    """The run is tried again, and nothing is left."""
    with proxy.damaging(), pytest.raises(DestinationUnavailable, match="BadDigest"):
        await stage(destination, LARGE, started)
    assert await s3.pending() == 0
    await destination.complete(await stage(destination, LARGE, started), metadata=METADATA)
    assert (await s3.read(KEY))[0] == LARGE


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_what_is_damaged_once_is_sent_again(
    destination: S3Destination, proxy: FaultProxy, s3: S3Backend, started: Started, body: bytes
) -> None:
    """And arrives as it was."""
    with proxy.damaging(times=1):
        artifact = await stage(destination, body, started)
        await destination.complete(artifact, metadata=METADATA)
    assert (await s3.read(KEY))[0] == body


async def test_damaged_objects_are_refused(destination: S3Destination, proxy: FaultProxy, s3: S3Backend) -> None:
    """A manifest, or content that was stored in the plan."""
    artifact = await stage(destination, SMALL, Started())
    with proxy.damaging():
        with pytest.raises(DestinationUnavailable, match="BadDigest"):
            await destination.complete(artifact, metadata=METADATA)
        with pytest.raises(DestinationUnavailable, match="BadDigest"):
            await destination.publish("_manifest.json", SMALL, metadata=METADATA)
    assert await s3.visible() == set()
