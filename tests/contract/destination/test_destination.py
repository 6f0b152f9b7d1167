"""What every destination promises: in memory, in a folder, and in a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import uuid4

import pytest

from pipeline_processing.errors import ConflictingObjects, ForeignPrefix, UploadMissing
from pipeline_processing.plan import InlineContent, UploadRef
from pipeline_processing.ports import Content
from tests.contract.destination.destination_backends import (
    CONTENT,
    KEY,
    LARGE,
    METADATA,
    SMALL,
    Backend,
    Started,
    stage,
)

EMPTY = b""
SIZES = pytest.mark.parametrize("body", [EMPTY, SMALL, LARGE], ids=["empty", "small", "large"])


class Boom(Exception):
    pass


@SIZES
async def test_an_artifact_appears_only_when_it_is_completed(backend: Backend, started: Started, body: bytes) -> None:
    """Nothing is visible before; then it has the right bytes, size, SHA-256 and metadata."""
    staged = await stage(backend.destination, body, started)
    assert await backend.visible() == set()
    assert not await backend.destination.exists(KEY)

    await backend.destination.complete(staged, metadata=METADATA)

    assert await backend.visible() == {KEY}
    assert await backend.destination.exists(KEY)
    stored, metadata = await backend.read(KEY)
    assert stored == body
    assert (staged.size, staged.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    if backend.keeps_metadata:
        assert metadata == METADATA
    assert await backend.pending() == 0
    assert backend.budget.reserved == 0


@SIZES
async def test_an_artifact_that_has_no_room_in_the_plan_is_stored_elsewhere(
    backend: Backend, started: Started, body: bytes
) -> None:
    """However small it is; nothing at all needs no room."""
    staged = await stage(backend.destination, body, started, content=Content(dataset="records", inline=False))
    if body:
        assert not isinstance(staged.staged, InlineContent)
        assert len(started) == await backend.pending() == 1

    await backend.destination.complete(staged, metadata=METADATA)

    assert (await backend.read(KEY))[0] == body
    assert await backend.pending() == 0


@SIZES
async def test_completing_again_is_harmless(backend: Backend, started: Started, body: bytes) -> None:
    """The same worker may repeat it, and so may another one."""
    staged = await stage(backend.destination, body, started)
    for destination in (backend.destination, backend.destination, backend.another()):
        await destination.complete(staged, metadata=METADATA)

    assert (await backend.read(KEY))[0] == body
    assert await backend.pending() == 0


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
async def test_two_workers_complete_at_once(backend: Backend, started: Started, size: bytes) -> None:
    """A paused worker and its successor may meet here; both find it done."""
    staged = await stage(backend.destination, size, started)
    await asyncio.gather(
        *(
            destination.complete(staged, metadata=METADATA)
            for destination in [backend.destination, backend.another()] * 3
        )
    )
    assert (await backend.read(KEY))[0] == size


async def test_an_upload_is_reported_before_its_first_byte(backend: Backend) -> None:
    """If the report fails, the upload is removed and nothing was sent."""

    async def fail(upload: UploadRef) -> None:
        assert upload.key == KEY
        raise Boom

    with pytest.raises(Boom):
        await stage(backend.destination, LARGE, fail)

    assert await backend.pending() == 0
    assert backend.budget.reserved == 0


@pytest.mark.parametrize("sealed", [False, True])
async def test_an_exception_aborts_the_upload(backend: Backend, started: Started, sealed: bool) -> None:
    """Whether it comes before or after seal(), nothing is left."""

    async def write() -> None:
        async with backend.destination.open(KEY, CONTENT, metadata=METADATA, on_started=started) as upload:
            await upload.write(LARGE)
            if sealed:
                await upload.seal()
            raise Boom

    with pytest.raises(Boom):
        await write()

    assert len(started) == 1
    assert await backend.pending() == 0
    assert await backend.visible() == set()
    assert backend.budget.reserved == 0


async def test_leaving_without_seal_aborts_the_upload(backend: Backend, started: Started) -> None:
    """There is no plan that could ever complete it."""
    async with backend.destination.open(KEY, CONTENT, metadata=METADATA, on_started=started) as upload:
        await upload.write(LARGE)
    assert await backend.pending() == 0
    assert backend.budget.reserved == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20, 80])
async def test_cancelling_aborts_the_upload(backend: Backend, turns: int) -> None:
    """Wherever the cancellation strikes, no upload and no bytes of the budget are left behind."""

    async def started(upload: UploadRef) -> None:
        await asyncio.sleep(0)

    async def write() -> None:
        async with backend.destination.open(KEY, CONTENT, metadata=METADATA, on_started=started) as upload:
            for _ in range(3):
                await upload.write(LARGE)
                await asyncio.sleep(0)
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    for _ in range(turns):
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await backend.pending() == 0
    assert await backend.visible() == set()
    assert backend.budget.reserved == 0


async def test_a_removed_upload_is_missing(backend: Backend, started: Started) -> None:
    """It was aborted from outside, and there is no object: the executor decides what that means."""
    staged = await stage(backend.destination, LARGE, started)
    await backend.destination.abort(started[0])
    await backend.destination.abort(started[0])  # one that is gone is fine

    with pytest.raises(UploadMissing):
        await backend.destination.complete(staged, metadata=METADATA)
    assert await backend.visible() == set()


async def test_aborting_a_completed_upload_leaves_its_object(backend: Backend, started: Started) -> None:
    """A late clean-up can't take away what a reader sees."""
    staged = await stage(backend.destination, LARGE, started)
    await backend.destination.complete(staged, metadata=METADATA)
    await backend.destination.abort(started[0])
    assert (await backend.read(KEY))[0] == LARGE


@SIZES
@pytest.mark.parametrize("there", [b"other", b'{"id": 2}\n' * 1000], ids=["other size", "other bytes"])
async def test_another_object_is_never_overwritten(
    backend: Backend, started: Started, body: bytes, there: bytes
) -> None:
    """Not even one that claims to be of the same run and attempt."""
    staged = await stage(backend.destination, body, started)
    await backend.put(KEY, there, METADATA)

    with pytest.raises(ConflictingObjects, match="Nothing was overwritten"):
        await backend.destination.complete(staged, metadata=METADATA)
    assert (await backend.read(KEY))[0] == there


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_the_object_of_another_attempt_is_not_ours(backend: Backend, started: Started, body: bytes) -> None:
    """Equal bytes from another attempt are a conflict, where the destination can tell."""
    if not backend.keeps_metadata:
        return
    first = await stage(backend.destination, body, started)
    second = await stage(backend.destination, body, started, metadata={**METADATA, "attempt": "2"})
    await backend.destination.complete(first, metadata=METADATA)
    with pytest.raises(ConflictingObjects, match="attempt"):
        await backend.destination.complete(second, metadata={**METADATA, "attempt": "2"})


async def test_publishing_again_is_harmless_with_equal_bytes_only(backend: Backend) -> None:
    """A manifest never changes."""
    for destination in (backend.destination, backend.another()):
        await destination.publish("run/_manifest.json", b"{}", metadata=METADATA)
    with pytest.raises(ConflictingObjects):
        await backend.destination.publish("run/_manifest.json", b"[]", metadata=METADATA)

    assert (await backend.read("run/_manifest.json"))[0] == b"{}"
    assert await backend.pending() == 0


async def test_two_workers_publish_at_once(backend: Backend) -> None:
    """Of different bytes exactly one wins; the others are told."""
    outcomes = await asyncio.gather(
        *(backend.another().publish("run/_manifest.json", bytes([n]), metadata=METADATA) for n in range(4)),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConflictingObjects) for outcome in outcomes) == 3


async def test_the_newest_of_many_replacements_stays(backend: Backend) -> None:
    """Whoever comes last, and also if all write at once: none undoes what a newer one has written."""
    numbers = [3, 1, 4, 2, 6, 5]

    async def replace(destination: Any, number: int) -> None:
        body = b"%d" % number
        await destination.replace("a/_latest.json", body, replaces=lambda there: there < body, metadata=METADATA)

    await asyncio.gather(*(replace(backend.another(), number) for number in numbers))
    assert (await backend.read("a/_latest.json"))[0] == b"6"
    await replace(backend.destination, 5)
    assert (await backend.read("a/_latest.json"))[0] == b"6"
    await replace(backend.destination, 7)
    body, metadata = await backend.read("a/_latest.json")
    assert body == b"7"
    if backend.keeps_metadata:
        assert metadata == METADATA
    assert await backend.visible() == {"a/_latest.json"}
    assert await backend.pending() == 0


@SIZES
async def test_only_our_own_object_is_deleted(backend: Backend, started: Started, body: bytes) -> None:
    """Deleting is for runs that have failed for good; it is repeatable, and leaves other objects alone."""
    staged = await stage(backend.destination, body, started)
    await backend.destination.complete(staged, metadata=METADATA)
    for _ in range(2):
        await backend.destination.delete(staged, metadata=METADATA)
        assert await backend.visible() == set()

    await backend.put(KEY, b"another", METADATA)
    await backend.destination.delete(staged, metadata=METADATA)
    assert await backend.visible() == {KEY}


async def test_pending_uploads_are_found_by_whoever_looks(backend: Backend, started: Started) -> None:
    """Sealed or still being written, by the handles that were recorded, until they are completed or aborted."""
    other = "agency_id=7/run_id=r-2/records/part-00000.csv.gz"
    staged = await stage(backend.destination, LARGE, started)
    async with backend.destination.open(other, CONTENT, metadata=METADATA, on_started=started) as upload:
        await upload.write(LARGE)

        found = [each async for each in backend.another().pending_uploads()]

        assert {each.key for each in found} == {KEY, other}
        assert sorted(found, key=str) == sorted(started, key=str)
    await backend.destination.complete(staged, metadata=METADATA)
    assert [each async for each in backend.another().pending_uploads()] == []


async def test_a_pending_upload_can_be_aborted_as_it_was_found(backend: Backend, started: Started) -> None:
    """Nothing else is needed than what the destination itself tells, and the others stay."""
    staged = await stage(backend.destination, LARGE, started)
    await stage(backend.destination, LARGE, started, key="agency_id=7/run_id=r-2/records/part-00000.ndjson")

    for each in [each async for each in backend.destination.pending_uploads()]:
        if each.key == KEY:
            await backend.another().abort(each)

    assert [each async for each in backend.destination.pending_uploads()] == started[1:]
    assert await backend.pending() == 1
    with pytest.raises(UploadMissing):
        await backend.destination.complete(staged, metadata=METADATA)


async def test_where_nothing_was_uploaded_nothing_is_pending(backend: Backend) -> None:
    """Neither at first, nor for what is published."""
    assert [each async for each in backend.destination.pending_uploads()] == []
    await backend.destination.publish("run/_manifest.json", b"{}", metadata=METADATA)
    assert [each async for each in backend.destination.pending_uploads()] == []


async def test_a_prefix_belongs_to_one_installation(backend: Backend) -> None:
    """Checking writes nothing; the first mark stays."""
    ours, theirs = uuid4(), uuid4()
    await backend.destination.verify_installation(ours)
    assert await backend.visible() == set()

    for _ in range(2):
        await backend.destination.mark_installation(ours)
        await backend.destination.verify_installation(ours)
    for check in (backend.another().verify_installation, backend.another().mark_installation):
        with pytest.raises(ForeignPrefix, match=str(ours)):
            await check(theirs)
    assert await backend.visible() == {"_installation.json"}


async def test_a_broken_mark_is_nobodys(backend: Backend) -> None:
    """Better to stop than to write below a prefix that may be another's."""
    await backend.put("_installation.json", b"{", {})
    with pytest.raises(ForeignPrefix, match="isn't an installation's mark"):
        await backend.destination.verify_installation(uuid4())


async def test_uploads_side_by_side_keep_their_bytes_apart(backend: Backend) -> None:
    """Several at once, in one process, each with its own bytes."""
    bodies = {f"run/part-{n:05}.csv": LARGE[n:] for n in range(4)}
    staged = await asyncio.gather(
        *(stage(backend.destination, body, Started(), key=key) for key, body in bodies.items())
    )
    for each in staged:
        await backend.destination.complete(each, metadata=METADATA)
    for key, body in bodies.items():
        assert (await backend.read(key))[0] == body
    assert backend.budget.peak <= backend.budget.limit
    assert backend.budget.reserved == 0
