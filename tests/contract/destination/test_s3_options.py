"""An s3 destination's options on a real server, as far as it has them; the rest stands in tests/unit/s3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.objects import Fingerprint, crc32_of
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.errors import ConflictingObjects, DestinationUnavailable
from pipeline_processing.plan import InlineContent, MultipartUpload
from pipeline_processing.ports import Destination
from tests.contract.destination.destination_backends import (
    CONTENT,
    KEY,
    LARGE,
    METADATA,
    MIB,
    SMALL,
    S3Backend,
    Started,
    stage,
)

BODIES = pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])


def destination_of(s3: S3Backend, **options: Any) -> Destination:
    return s3.another(options=S3ObjectOptions.model_validate(options))


async def head(s3: S3Backend, key: str = KEY) -> dict[str, Any]:
    answer: dict[str, Any] = await s3.raw.head_object(
        Bucket=s3.bucket, Key=f"{s3.prefix}/{key}", ChecksumMode="ENABLED"
    )
    return answer


async def tags(s3: S3Backend, key: str = KEY) -> dict[str, str]:
    answer = await s3.raw.get_object_tagging(Bucket=s3.bucket, Key=f"{s3.prefix}/{key}")
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


@BODIES
async def test_objects_are_tagged(s3: S3Backend, started: Started, body: bytes) -> None:
    """With what names their run, whatever has to be escaped."""
    destination = destination_of(s3, tags={"team": "a b/é+=@", "run": "{agency_id}:{run_id}"})
    await destination.complete(await stage(destination, body, started), metadata=METADATA)
    await destination.publish("_manifest.json", b"{}", metadata=METADATA)
    expected = {"team": "a b/é+=@", "run": "7:r-1"}
    assert (await tags(s3), await tags(s3, "_manifest.json")) == (expected, expected)


@BODIES
async def test_objects_have_their_storage_class(s3: S3Backend, started: Started, body: bytes) -> None:
    """Small and large ones."""
    destination = destination_of(s3, storage_class="STANDARD_IA")
    await destination.complete(await stage(destination, body, started), metadata=METADATA)
    assert (await head(s3))["StorageClass"] == "STANDARD_IA"


@BODIES
async def test_encrypted_objects_are_known_again(s3: S3Backend, started: Started, body: bytes) -> None:
    """The server encrypts them, and what it reports is still that of the bytes as they were sent."""
    destination = destination_of(s3, sse="AES256")
    staged = await stage(destination, body, started)
    for _ in range(2):
        await destination.complete(staged, metadata=METADATA)
    assert (await head(s3))["ServerSideEncryption"] == "AES256"
    assert (await s3.read(KEY))[0] == body
    await destination.delete(staged, metadata=METADATA)
    assert await s3.visible() == set()


@BODIES
async def test_sha256_instead_of_crc32(s3: S3Backend, started: Started, body: bytes) -> None:
    """The server checks it and keeps it, and by it an object is known again, or told from another."""
    destination = destination_of(s3, checksum="sha256")
    staged = await stage(destination, body, started)
    for _ in range(2):
        await destination.complete(staged, metadata=METADATA)

    assert (await s3.read(KEY))[0] == body
    assert isinstance(staged.staged, InlineContent | MultipartUpload)
    assert (await head(s3))["ChecksumSHA256"] == Fingerprint.of(staged.staged).sha256

    other = await stage(destination, bytes(len(body)), started)
    with pytest.raises(ConflictingObjects, match="checksum"):
        await destination.complete(other, metadata=METADATA)


@pytest.mark.parametrize("checksum", ["crc32", "sha256"])
async def test_a_damaged_part_is_refused(s3: S3Backend, checksum: str) -> None:
    """By the server, whichever checksum it was told."""
    upload = await s3.client.create_multipart_upload(
        bucket=s3.bucket,
        key="k",
        content_type="text/csv",
        metadata={},
        options=S3ObjectOptions.model_validate({"checksum": checksum}),
    )
    wrong = "A" * 43 + "=" if checksum == "sha256" else None
    with pytest.raises(DestinationUnavailable, match="BadDigest"):
        await s3.client.upload_part(
            bucket=s3.bucket,
            key="k",
            upload_id=upload.id,
            number=1,
            body=b"damaged",
            crc32=crc32_of(b"sound"),
            sha256=wrong,
        )


@pytest.mark.parametrize(("runs", "uploads_per_run"), [(1, 3), (3, 3), (2, 5)])
async def test_several_destinations_never_deadlock_over_a_small_budget(
    s3: S3Backend, runs: int, uploads_per_run: int
) -> None:
    """Each run writes the same to all of them in turn, and rejected rows to the first, from the smallest budget."""
    budget = ByteBudget((runs * (uploads_per_run - 1) + 1) * 5 * MIB)
    destinations = [
        S3Destination(
            client=s3.client,
            bucket=s3.bucket,
            prefix=f"{number}",
            budget=budget,
            runs=runs,
            uploads_per_run=uploads_per_run,
        )
        for number in range(uploads_per_run - 1)
    ]

    async def run(number: int) -> None:
        blocks = [
            each.open(f"{number}/rows", CONTENT, metadata=METADATA, on_started=Started()) for each in destinations
        ]
        blocks.append(destinations[0].open(f"{number}/rejected", CONTENT, metadata=METADATA, on_started=Started()))
        uploads = [await block.__aenter__() for block in blocks]
        for start in range(0, len(LARGE), 900_000):
            for upload in uploads:
                await upload.write(LARGE[start : start + 900_000])
        sealed = [await upload.seal() for upload in uploads]
        assert {each.size for each in sealed} == {len(LARGE)}
        for block in blocks:
            await block.__aexit__(None, None, None)

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number in range(runs):
            group.create_task(run(number))

    assert budget.peak <= budget.limit
    assert budget.reserved == 0
