"""A folder as a destination: paths, and what the operating system refuses."""

from __future__ import annotations

import errno
import os
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.errors import AccessDenied, BucketMissing, DestinationUnavailable, SettingsError, UploadMissing
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact, InlineContent, StagedFile, UploadRef
from pipeline_processing.ports import Content

CONTENT = Content(dataset="records")


async def ignore(upload: UploadRef) -> None:
    pass


def artifact(staged: StagedFile | InlineContent) -> Artifact:
    return Artifact(
        key="a/b",
        dataset="d",
        format=FormatName.CSV,
        compression=Compression.NONE,
        rows=1,
        size=1,
        sha256="0" * 64,
        staged=staged,
    )


def test_its_url_is_the_folders(tmp_path: Path) -> None:
    """As in PIPELINE_DESTINATION."""
    assert FileDestination(path=Path("/srv/exports")).url == "file:///srv/exports"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "", ".staging/x", "a/.staging/x", "a\0b"])
async def test_no_key_leads_out_of_the_root(tmp_path: Path, key: str) -> None:
    """Or into the staging folder."""
    destination = FileDestination(path=tmp_path)
    with pytest.raises(ValueError, match="isn't a key"):
        destination.open(key, CONTENT, metadata={}, on_started=ignore)
    with pytest.raises(ValueError, match="isn't a key"):
        await destination.publish(key, b"", metadata={})


@pytest.mark.parametrize("name", ["../x", ".staging/../x", ".staging/a/b", "/etc/x", "x", ".staging/.."])
async def test_no_staged_name_leads_out_of_the_staging_folder(tmp_path: Path, name: str) -> None:
    """Neither to complete nor to abort."""
    destination = FileDestination(path=tmp_path)
    with pytest.raises(ValueError, match="isn't a staged file"):
        await destination.complete(artifact(StagedFile(path=name)), metadata={})
    with pytest.raises(ValueError, match="isn't a staged file"):
        await destination.abort(UploadRef(key="a", upload_id=name))


async def test_a_missing_root_is_not_made(tmp_path: Path) -> None:
    """It may be a volume that isn't mounted."""
    destination = FileDestination(path=tmp_path / "absent")
    with pytest.raises(BucketMissing, match="PIPELINE_DESTINATION"):
        await destination.publish("k", b"x", metadata={})
    with pytest.raises(BucketMissing):
        await destination.complete(artifact(StagedFile(path=".staging/x")), metadata={})
    assert not (tmp_path / "absent").exists()


async def test_a_missing_upload_leaves_no_folders(tmp_path: Path) -> None:
    """Nothing of a lost attempt is visible, not even where it would have been."""
    with pytest.raises(UploadMissing):
        await FileDestination(path=tmp_path).complete(artifact(StagedFile(path=".staging/x")), metadata={})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.ENOSPC, DestinationUnavailable),
        (errno.EIO, DestinationUnavailable),
        (errno.EDQUOT, DestinationUnavailable),
        (errno.ENOTSUP, SettingsError),
    ],
)
async def test_what_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    """The type says what to do next, and nothing is left in the staging folder."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pipeline_processing.destinations.files.staging.os.link", refuse)
    destination = FileDestination(path=tmp_path)
    with pytest.raises(error, match="file://"):
        await destination.publish("k", b"x", metadata={})
    assert os.listdir(tmp_path / ".staging") == []


async def test_a_plan_for_a_bucket_isnt_completed_in_a_folder(tmp_path: Path) -> None:
    """The destination was changed while the run was prepared."""
    with pytest.raises(SettingsError, match="PIPELINE_DESTINATION"):
        await FileDestination(path=tmp_path).complete(artifact(InlineContent(content="")), metadata={})


@pytest.mark.parametrize("fails", [False, True])
async def test_a_sealed_file_is_closed(tmp_path: Path, fails: bool) -> None:
    """A dataset in many files keeps their blocks open to its end; an exception there still discards them all."""
    destination = FileDestination(path=tmp_path)
    open_before = len(os.listdir("/proc/self/fd"))
    with nullcontext() if not fails else pytest.raises(RuntimeError, match="later"):
        async with AsyncExitStack() as stack:
            for number in range(50):
                opened = destination.open(f"part-{number}", CONTENT, metadata={}, on_started=ignore)
                upload = await stack.enter_async_context(opened)
                await upload.write(b"1")
                await upload.seal()
            assert len(os.listdir("/proc/self/fd")) < open_before + 10
            assert len(os.listdir(tmp_path / ".staging")) == 50
            if fails:
                raise RuntimeError("later")
    assert len(os.listdir(tmp_path / ".staging")) == (0 if fails else 50)


async def pending(destination: FileDestination) -> list[UploadRef]:
    return [upload async for upload in destination.pending_uploads()]


@pytest.mark.parametrize("key", ["a", "a/b", "a+b/c d/é%2F.csv.gz", f"{'r' * 128}/{'d' * 63}/part-00000.ndjson.zst"])
async def test_a_staged_file_says_its_key(tmp_path: Path, key: str) -> None:
    """Whatever is in the key, in a name of one path segment."""
    destination = FileDestination(path=tmp_path, new_id=lambda: "0" * 32)
    async with destination.open(key, CONTENT, metadata={}, on_started=ignore):
        (found,) = await pending(destination)
        assert found.key == key
        assert [f".staging/{name}" for name in os.listdir(tmp_path / ".staging")] == [found.upload_id]


async def test_a_key_that_is_too_long_for_the_staged_files_name_is_left_out(tmp_path: Path) -> None:
    """The upload works all the same, and whoever has its handle can abort it."""
    started: list[UploadRef] = []

    async def on_started(upload: UploadRef) -> None:
        started.append(upload)

    destination = FileDestination(path=tmp_path)
    async with destination.open(f"{'r' * 230}/part.csv", CONTENT, metadata={}, on_started=on_started) as upload:
        await upload.write(b"1")
        await upload.seal()
    assert await pending(destination) == []
    await destination.abort(started[0])
    assert os.listdir(tmp_path / ".staging") == []


async def test_what_isnt_an_upload_isnt_pending(tmp_path: Path) -> None:
    """A manifest on its way has no key in its name: it is its writer's own. Nor is what isn't named by us."""
    (tmp_path / ".staging").mkdir()
    (tmp_path / ".staging" / ("0" * 32)).write_bytes(b"{}")
    (tmp_path / ".staging" / os.fsdecode(b"\xff.a")).write_bytes(b"")
    assert await pending(FileDestination(path=tmp_path)) == []


async def test_uploads_of_a_missing_root_arent_none(tmp_path: Path) -> None:
    """Or a volume that isn't mounted would look clean."""
    with pytest.raises(BucketMissing, match="PIPELINE_DESTINATION"):
        await pending(FileDestination(path=tmp_path / "absent"))


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The file system that is mounted at tmp_path, as its last number."""
    numbers = [1]
    monkeypatch.setattr("pipeline_processing.destinations.files.staging._device_of", lambda folder: numbers[-1])
    return numbers


async def test_nothing_is_written_where_a_volume_was(tmp_path: Path, mounted: list[int]) -> None:
    """Unmounted, there is the empty folder that it was mounted on: not written to, and no plan is lost for it."""
    destination = FileDestination(path=tmp_path)
    await destination.verify_installation(uuid4())
    mounted.append(2)

    attempts = [
        destination.publish("k", b"x", metadata={}),
        destination.complete(artifact(StagedFile(path=".staging/x")), metadata={}),
        destination.delete(artifact(StagedFile(path=".staging/x")), metadata={}),
        destination.abort(UploadRef(key="k", upload_id=".staging/x")),
        destination.exists("k"),
        destination.open("k", CONTENT, metadata={}, on_started=ignore).__aenter__(),
        pending(destination),
    ]
    for attempt in attempts:
        with pytest.raises(DestinationUnavailable, match="unmounted"):
            await attempt
    assert os.listdir(tmp_path) == []

    mounted.append(1)
    await destination.publish("k", b"x", metadata={})


async def test_a_volume_that_goes_away_while_it_is_written_to(tmp_path: Path, mounted: list[int]) -> None:
    """What was written isn't taken for sealed, wherever it went."""
    destination = FileDestination(path=tmp_path)

    async def write() -> None:
        async with destination.open("k", CONTENT, metadata={}, on_started=ignore) as upload:
            await upload.write(b"1")
            mounted.append(2)
            await upload.seal()

    with pytest.raises(DestinationUnavailable, match="unmounted"):
        await write()


async def test_a_volume_is_known_again_by_its_mark(tmp_path: Path, mounted: list[int]) -> None:
    """The number of its file system may be another one after it was mounted anew."""
    destination = FileDestination(path=tmp_path)
    await destination.mark_installation(uuid4())
    mounted.append(2)
    await destination.publish("k", b"x", metadata={})
    assert await destination.exists("k")
