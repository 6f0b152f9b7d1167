"""What only S3 can promise or get wrong, on a real server."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from typing import cast

import pytest
from pydantic import SecretStr

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.objects import crc32_of
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.errors import AccessDenied, BucketMissing, DestinationUnavailable, PipelineError
from pipeline_processing.model import CsvOptions
from pipeline_processing.plan import InlineContent, MultipartUpload, UploadRef
from pipeline_processing.ports import Destination, ManifestStore
from pipeline_processing.usage import Usage, use
from tests.contract.destination.destination_backends import (
    CONTENT,
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


def destination_of(client: S3Client, bucket: str) -> S3Destination:
    return S3Destination(client=client, bucket=bucket, prefix="p", budget=ByteBudget(64 * MIB))


async def fails(destination: Destination, error: type[PipelineError]) -> None:
    """Both ways of writing, and reading, end in that error, with its remedy and no secret."""
    attempts = [
        stage(destination, LARGE, Started()),
        destination.publish("k", b"x", metadata=METADATA),
    ]
    for attempt in attempts:
        with pytest.raises(error) as caught:
            await attempt
        assert "PIPELINE_" in str(caught.value)
        assert "secret-key" not in str(caught.value)


async def test_small_artifacts_travel_in_the_plan(s3: S3Backend, started: Started) -> None:
    """Below the inline limit nothing is sent before completion, and from it on it is an upload, of one part."""
    limit = 64 * 1024
    destination = s3.another(inline_limit=limit)
    small = await stage(destination, LARGE[: limit - 1], started, key="small")
    assert isinstance(small.staged, InlineContent)
    assert started == []
    large = await stage(destination, LARGE[:limit], started, key="large")
    assert isinstance(large.staged, MultipartUpload)
    assert len(large.staged.parts) == len(started) == 1
    for each in (small, large):
        await destination.complete(each, metadata=METADATA)
        assert (await s3.read(each.key))[0] == LARGE[: each.size]


@pytest.mark.parametrize("first", [None, b"1"])
async def test_an_object_that_changes_while_it_is_replaced(
    s3: S3Backend, monkeypatch: pytest.MonkeyPatch, first: bytes | None
) -> None:
    """The store refuses a write over another version than was read, and it is asked again of what is there."""
    key, others, asked = "a/_latest.json", [b"2", b"9"], []
    if first is not None:
        await s3.put(key, first, METADATA)
    read = s3.client.get_version

    async def interrupted(**place: str) -> tuple[bytes, str]:
        try:
            return await read(**place)
        finally:
            if others:
                await s3.put(key, others.pop(0), METADATA)

    def replaces(there: bytes) -> bool:
        asked.append(there)
        return there < b"5"

    monkeypatch.setattr(s3.client, "get_version", interrupted)
    await s3.another().replace(key, b"5", replaces=replaces, metadata=METADATA)

    assert asked == [*([first] if first else []), b"2", b"9"]
    assert (await s3.read(key))[0] == b"9"


async def test_each_request_is_billed(s3: S3Backend, started: Started) -> None:
    """Those of botocore, and those sent past it: to look, to start an upload, for each part, and to complete it."""
    destination = s3.another(inline_limit=0)
    for number in range(2):
        use(usage := Usage())
        assert not await cast(ManifestStore, destination).exists(f"{number}/manifest")
        large = await stage(destination, LARGE, started, key=f"{number}/large")
        assert isinstance(large.staged, MultipartUpload)
        sent = 2 + len(large.staged.parts)
        assert usage == Usage(s3_requests=sent)
        await destination.complete(large, metadata=METADATA)
        assert usage == Usage(s3_requests=sent + 1)


@pytest.mark.parametrize(
    ("suffix", "content_type"),
    [
        (".ndjson", "application/x-ndjson"),
        (".csv", "text/csv; charset=utf-8"),
        (".parquet", "application/vnd.apache.parquet"),
        (".csv.gz", "application/gzip"),
        (".ndjson.zst", "application/zstd"),
    ],
)
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_objects_say_what_they_are(
    s3: S3Backend, started: Started, suffix: str, content_type: str, body: bytes
) -> None:
    """The content type follows from the key."""
    staged = await stage(s3.destination, body, started, key=f"part{suffix}")
    await s3.destination.complete(staged, metadata=METADATA)
    assert await s3.content_type(staged.key) == content_type


async def test_csv_names_its_encoding(s3: S3Backend, started: Started) -> None:
    """Where it isn't UTF-8. Such artifacts are never stored in the plan, which has only their key."""
    content = replace(CONTENT, csv=CsvOptions(encoding="windows-1252"), inline=False)
    staged = await stage(s3.destination, b"\x80\n", started, key="part.csv", content=content)
    await s3.destination.complete(staged, metadata=METADATA)
    assert await s3.content_type(staged.key) == "text/csv; charset=cp1252"


@pytest.mark.parametrize("runs", [1, 3, 8])
async def test_uploads_never_deadlock_over_a_small_budget(s3: S3Backend, runs: int) -> None:
    """Each run writes two uploads in turn, as with rejected rows, and the budget is the least that is allowed."""
    budget = ByteBudget((runs + 1) * 5 * MIB)
    destination = S3Destination(client=s3.client, bucket=s3.bucket, prefix="", budget=budget, runs=runs)

    async def run(number: int) -> None:
        async with (
            destination.open(f"{number}/a", CONTENT, metadata=METADATA, on_started=Started()) as rows,
            destination.open(f"{number}/b", CONTENT, metadata=METADATA, on_started=Started()) as rejected,
        ):
            for start in range(0, len(LARGE), 900_000):
                await rows.write(LARGE[start : start + 900_000])
                await rejected.write(LARGE[start : start + 600_000])
            await rows.seal()
            await rejected.seal()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(runs):
            group.create_task(run(number))

    assert budget.peak <= budget.limit
    assert budget.reserved == 0


async def test_more_uploads_than_the_budget_was_made_for_complete_too(s3: S3Backend) -> None:
    """As long as they don't wait for one another: the first ones end, and make room."""
    budget = ByteBudget(10 * MIB)
    destination = S3Destination(client=s3.client, bucket=s3.bucket, prefix="", budget=budget, runs=1)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(stage(destination, LARGE, Started(), key=str(number)))
    assert budget.peak <= budget.limit
    assert budget.reserved == 0


async def test_pending_uploads_are_listed_over_many_pages(s3: S3Backend) -> None:
    """A page of S3's has a thousand; those of a neighbour whose prefix begins alike are left out."""

    async def start(key: str) -> UploadRef:
        upload = await s3.client.create_multipart_upload(
            bucket=s3.bucket, key=key, content_type="text/csv", metadata={}
        )
        return UploadRef(key=key.removeprefix(f"{s3.prefix}/"), upload_id=upload.id)

    keys = [f"{s3.prefix}/run_id=r-{n % 99}/{n}" for n in range(1050)] + [f"{s3.prefix}/run_id=r-1/same"] * 10
    ours = [await start(key) for key in keys]
    neighbour = await start(f"{s3.prefix}-2/run_id=r-1/0")

    found = [each async for each in s3.destination.pending_uploads()]

    assert len(found) == len(ours)
    assert set(map(repr, found)) == set(map(repr, ours))
    whole_bucket = S3Destination(client=s3.client, bucket=s3.bucket, prefix="", budget=s3.budget)
    assert neighbour in [each async for each in whole_bucket.pending_uploads()]


async def test_listing_uploads_needs_a_bucket(seaweedfs: SeaweedFSServer) -> None:
    """As everything else does: the remedy is named."""
    async with client_of(seaweedfs) as client:
        with pytest.raises(BucketMissing, match="PIPELINE_DESTINATION"):
            await anext(aiter(destination_of(client, "no-such-bucket").pending_uploads()))


async def test_a_reader_may_not_write(seaweedfs: SeaweedFSServer, s3: S3Backend) -> None:
    """An identity without the right to write is told which rights are needed."""
    async with client_of(seaweedfs, readonly=True) as client:
        await fails(destination_of(client, s3.bucket), AccessDenied)


async def test_an_unknown_identity_is_denied(seaweedfs: SeaweedFSServer, s3: S3Backend) -> None:
    """Also where the answer has no body, as with HEAD."""
    client = S3Client(
        endpoint_url=seaweedfs.endpoint_url,
        region=seaweedfs.region,
        access_key_id="nobody",
        secret_access_key=SecretStr("a-secret-key"),
    )
    async with client:
        await fails(destination_of(client, s3.bucket), AccessDenied)
        with pytest.raises(AccessDenied):
            await destination_of(client, s3.bucket).exists(KEY)


async def test_a_missing_bucket_is_named(seaweedfs: SeaweedFSServer) -> None:
    """Nothing creates buckets on the way."""
    async with client_of(seaweedfs) as client:
        await fails(destination_of(client, "no-such-bucket"), BucketMissing)


async def test_a_server_that_is_down_is_unavailable() -> None:
    """Nobody listens: known within seconds."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = S3Client(
        endpoint_url=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key_id="a",
        secret_access_key=SecretStr("a-secret-key"),
    )
    start = time.monotonic()
    async with client:
        await fails(destination_of(client, "exports"), DestinationUnavailable)
    assert time.monotonic() - start < 15


async def test_a_server_that_drops_packets_is_unavailable() -> None:
    """The connect never ends by itself: given up within 15 s."""
    with socket.socket() as full:
        # A backlog that is full drops further connects, as a firewall does.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        client = S3Client(
            endpoint_url=f"http://127.0.0.1:{address[1]}",
            region="us-east-1",
            access_key_id="a",
            secret_access_key=SecretStr("a-secret-key"),
        )
        start = time.monotonic()
        async with client:
            with pytest.raises(DestinationUnavailable):
                await destination_of(client, "exports").exists(KEY)
        assert time.monotonic() - start < 15
        for filler in fillers:
            filler.close()


async def test_the_store_takes_requests_that_arent_botocores(s3: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first one it needs no help of botocore's: their signatures are right."""
    metadata = {**METADATA, "label": "a=b, c"}
    keys = [f"agency_id=7/run_id=r~{n}/a b+(é)/part-00000.csv" for n in range(2)]
    await s3.destination.publish(keys[0], b"x", metadata=metadata)
    upload = await s3.client.create_multipart_upload(
        bucket=s3.bucket, key=keys[1], content_type="text/csv", metadata={}
    )
    monkeypatch.setattr(s3.raw, "_make_api_call", None)

    await s3.destination.publish(keys[1], SMALL, metadata=metadata)
    assert await s3.destination.exists(keys[1])
    assert not await s3.destination.exists("nothing")
    part = await s3.client.upload_part(
        bucket=s3.bucket, key=keys[1], upload_id=upload.id, number=1, body=LARGE, crc32=crc32_of(LARGE)
    )
    assert part.etag
    head = await s3.client.head_object(bucket=s3.bucket, key=f"{s3.prefix}/{keys[1]}")
    assert (head.size, head.crc32, head.metadata) == (len(SMALL), crc32_of(SMALL), metadata)


async def test_a_part_that_fails_fails_the_upload(s3: S3Backend, started: Started) -> None:
    """Someone removes the upload while it is written: a later attempt exports again."""

    async def write() -> None:
        async with s3.destination.open(KEY, CONTENT, metadata=METADATA, on_started=started) as upload:
            await upload.write(LARGE)
            await s3.destination.abort(started[0])
            for _ in range(20):
                await upload.write(LARGE)
            await upload.seal()

    with pytest.raises(DestinationUnavailable):
        await write()
    assert await s3.pending() == 0
    assert s3.budget.reserved == 0
