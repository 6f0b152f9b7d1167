"""An upload cuts, bounds and cleans up, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.objects import crc32_of, sha256_of
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.destinations.s3.parts import PartSizes
from pipeline_processing.destinations.s3.upload import S3Upload, Target
from pipeline_processing.errors import ArtifactTooLarge, DestinationUnavailable
from pipeline_processing.plan import InlineContent, MultipartUpload, UploadedPart, UploadRef
from tests.unit.destinations.s3.fake_s3 import FakeS3

TARGET = Target(bucket="b", key="k", object_key="p/k", content_type="text/csv", metadata={})
BODY = bytes(range(256)) * 10


async def ignore(upload: UploadRef) -> None:
    pass


def upload_to(
    client: FakeS3,
    budget: ByteBudget,
    *,
    part: int = 100,
    concurrency: int = 3,
    inline_limit: int = 10,
    target: Target = TARGET,
) -> S3Upload:
    return S3Upload(
        client=client,
        target=target,
        on_started=ignore,
        budget=budget,
        sizes=PartSizes(first=part, largest=part),
        part_concurrency=concurrency,
        inline_limit=inline_limit,
    )


@pytest.mark.parametrize("piece", [1, 7, 100, 101, 1000, len(BODY)])
async def test_pieces_of_any_size_become_the_same_parts(piece: int) -> None:
    """Parts are full but the last, in order, and hashed in order."""
    client, budget = FakeS3(), ByteBudget(1000)
    async with upload_to(client, budget) as upload:
        for start in range(0, len(BODY), piece):
            await upload.write(BODY[start : start + piece])
        sealed = await upload.seal()

    stored = client.uploads["u1"]
    assert [stored[number] for number in sorted(stored)] == [BODY[at : at + 100] for at in range(0, len(BODY), 100)]
    assert (sealed.size, sealed.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert isinstance(sealed.staged, MultipartUpload)
    assert [part.number for part in sealed.staged.parts] == list(range(1, 27))
    assert [part.crc32 for part in sealed.staged.parts] == [crc32_of(stored[n]) for n in sorted(stored)]
    assert sealed.staged.crc32 == crc32_of(BODY)
    assert budget.reserved == 0
    assert budget.peak <= 400
    assert client.most_at_once <= 3


async def test_what_is_written_in_large_pieces_isnt_copied() -> None:
    """Of pieces that end in another part there is a copy: the part would keep alive all of them."""
    pieces = [bytes([number]) * 200_000 for number in range(4)]
    sent: list[list[bytes | bytearray]] = []

    class Watched(FakeS3):
        async def upload_part(self, **arguments: Any) -> UploadedPart:
            sent.append(list(arguments["body"]))
            return await super().upload_part(**arguments)

    async with upload_to(Watched(), ByteBudget(2_000_000), part=500_000) as upload:
        for piece in pieces:
            await upload.write(piece)
        await upload.seal()

    assert [[len(piece) for piece in part] for part in sent] == [[200_000, 200_000, 100_000], [100_000, 200_000]]
    assert [part[0] is piece for part, piece in zip(sent, pieces[::2], strict=True)] == [True, False]


async def test_a_store_that_knows_parts_only_is_told_of_parts_only() -> None:
    """It would take a CRC32 of all bytes for one of the parts' CRC32s."""
    client = FakeS3()
    client.has_whole_crc32 = False
    async with upload_to(client, ByteBudget(1000)) as upload:
        await upload.write(BODY)
        sealed = await upload.seal()
    assert isinstance(sealed.staged, MultipartUpload)
    assert sealed.staged.crc32 is None


async def test_what_fits_into_the_plan_is_never_sent() -> None:
    """One byte less than the limit."""
    client = FakeS3()
    async with upload_to(client, ByteBudget(1000)) as upload:
        await upload.write(b"123456789")
        sealed = await upload.seal()
    assert isinstance(sealed.staged, InlineContent)
    assert b64decode(sealed.staged.content) == b"123456789"
    assert client.started == 0


async def test_nothing_at_all_is_never_sent() -> None:
    """Even where no plan has room: S3 has no upload without parts."""
    client = FakeS3()
    async with upload_to(client, ByteBudget(1000), inline_limit=0) as upload:
        sealed = await upload.seal()
    assert sealed.staged == InlineContent(content="")
    assert client.started == 0


@pytest.mark.parametrize("size", [5, 100, 250])
async def test_once_sealed_it_holds_nothing(size: int) -> None:
    """However long its block stays open: a run may seal thousands of artifacts before it leaves them."""
    client, budget = FakeS3(), ByteBudget(1000)
    async with upload_to(client, budget) as upload:
        await upload.write(BODY[:size])
        assert budget.reserved > 0
        await upload.seal()
        assert budget.reserved == 0
    assert budget.reserved == 0


async def test_parts_have_a_sha256_only_if_it_is_asked_for() -> None:
    """Each its own, and the whole has one anyway."""
    for checksum in ("crc32", "sha256"):
        client = FakeS3()
        target = replace(TARGET, options=S3ObjectOptions(checksum=checksum))
        async with upload_to(client, ByteBudget(1000), target=target) as upload:
            await upload.write(BODY[:150])
            sealed = await upload.seal()
        assert isinstance(sealed.staged, MultipartUpload)
        expected = [sha256_of(BODY[:100]), sha256_of(BODY[100:150])] if checksum == "sha256" else [None, None]
        assert [part.sha256 for part in sealed.staged.parts] == expected
        assert [part.crc32 for part in sealed.staged.parts] == [crc32_of(BODY[:100]), crc32_of(BODY[100:150])]
        assert sealed.sha256 == hashlib.sha256(BODY[:150]).hexdigest()


async def test_a_part_that_fails_fails_the_next_write() -> None:
    """With its own error, not a group of them; then the upload is aborted."""
    client, budget = FakeS3(), ByteBudget(1000)
    client.failures["part 2"] = DestinationUnavailable("x")

    async def write() -> None:
        async with upload_to(client, budget) as upload:
            for _ in range(100):
                await upload.write(BODY[:50])
                await asyncio.sleep(0.001)

    with pytest.raises(DestinationUnavailable):
        await write()
    assert client.uploads == {}
    assert budget.reserved == 0


@pytest.mark.parametrize("number", [1, 13, 26])
async def test_a_part_that_fails_fails_the_seal(number: int) -> None:
    """No part is missing from what was sealed."""
    client, budget = FakeS3(), ByteBudget(10_000)
    client.failures[f"part {number}"] = DestinationUnavailable("x")

    async def write() -> None:
        async with upload_to(client, budget, concurrency=50) as upload:
            await upload.write(BODY)
            await upload.seal()

    with pytest.raises(DestinationUnavailable):
        await write()
    assert client.uploads == {}
    assert budget.reserved == 0


async def test_an_abort_that_fails_doesnt_hide_the_reason() -> None:
    """It is logged; gc finds the upload by its record."""
    client, budget = FakeS3(), ByteBudget(1000)
    client.failures["abort"] = DestinationUnavailable("x")

    async def write() -> None:
        async with upload_to(client, budget) as upload:
            await upload.write(BODY)
            raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason"):
        await write()
    assert budget.reserved == 0


@pytest.mark.parametrize("turns", range(40))
async def test_cancelled_at_any_turn_it_leaves_nothing(turns: int) -> None:
    """Not even an upload whose creation was under way."""
    client, budget = FakeS3(), ByteBudget(400)

    async def write() -> None:
        async with upload_to(client, budget) as upload:
            await upload.write(BODY)
            await upload.seal()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.uploads == {}
    assert (client.at_once, budget.reserved) == (0, 0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_writer_waits_while_nothing_is_sent() -> None:
    """Backpressure: a store that stands still stops the source, at part_concurrency parts and one more."""
    client, budget = FakeS3(), ByteBudget(10_000)
    client.may_send.clear()

    async def write() -> None:
        async with upload_to(client, budget, concurrency=2) as upload:
            await upload.write(BODY)
            await upload.seal()

    task = asyncio.create_task(write())
    await asyncio.wait_for(client.sending.wait(), 5)
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    assert budget.reserved == 300
    assert client.at_once == 2
    client.may_send.set()
    await asyncio.wait_for(task, 5)
    assert budget.peak <= 300


async def test_an_artifact_that_outgrows_all_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit and the two ways out."""
    monkeypatch.setattr("pipeline_processing.destinations.s3.upload.MOST_PARTS", 5)
    client, budget = FakeS3(), ByteBudget(1000)

    async def write() -> None:
        async with upload_to(client, budget) as upload:
            await upload.write(BODY[:500])
            await upload.write(BODY[500:501])

    with pytest.raises(ArtifactTooLarge, match="split its query"):
        await write()
    assert client.uploads == {}
    assert budget.reserved == 0
