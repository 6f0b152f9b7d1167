"""Whether a folder keeps what the destination `file` relies on. Everything is written below `_doctor/`, and removed."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pipeline_processing.doctor.checking import Check, Shortfall, Verify
from pipeline_processing.errors import ConflictingObjects, PipelineError
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact, UploadRef
from pipeline_processing.ports import Content, Destination, ManifestStore

_CONTENT = Content("doctor")


class Files(Destination, ManifestStore, Protocol):
    """A folder as a destination."""


class Folder:
    """A place below a destination's folder."""

    def __init__(self, destination: Files, path: Path, *, verify: Verify) -> None:
        self.destination = destination
        self.place = f"_doctor/{uuid4().hex}"
        self.verify = verify
        self._path = path
        self._started: list[UploadRef] = []

    async def remove_all(self) -> None:
        """Remove what the checks have written, as far as possible."""
        for upload in self._started:
            with suppress(PipelineError):
                await self.destination.abort(upload)
        await asyncio.to_thread(shutil.rmtree, self._path / self.place, ignore_errors=True)
        with suppress(OSError):  # another doctor's files are in it
            (self._path / "_doctor").rmdir()

    async def staged(self, name: str, body: bytes) -> tuple[Artifact, UploadRef]:
        """Write an artifact that is not visible yet."""

        async def on_started(upload: UploadRef) -> None:
            self._started.append(upload)

        key = f"{self.place}/{name}"
        async with self.destination.open(key, _CONTENT, metadata={}, on_started=on_started) as upload:
            await upload.write(body)
            sealed = await upload.seal()
        artifact = Artifact(
            key=key,
            dataset="doctor",
            format=FormatName.NDJSON,
            compression=Compression.NONE,
            rows=1,
            size=sealed.size,
            sha256=sealed.sha256,
            staged=sealed.staged,
        )
        return artifact, self._started[-1]


async def _installation(folder: Folder) -> str:
    await folder.verify()
    return "the folder exists, and no other installation writes into it"


async def _published(folder: Folder) -> str:
    artifact, _ = await folder.staged("artifact", b"{}\n")
    await folder.destination.complete(artifact, metadata={})
    if not await folder.destination.exists(artifact.key):
        raise Shortfall("a file that was completed isn't there")
    other, upload = await folder.staged("artifact", b"{}\n{}\n")
    try:
        await folder.destination.complete(other, metadata={})
    except ConflictingObjects:
        await folder.destination.abort(upload)
    else:
        raise Shortfall("a second file replaced the first")
    await folder.destination.delete(artifact, metadata={})
    if await folder.destination.exists(artifact.key):
        raise Shortfall("a file that was deleted is still there")
    return "files appear as a whole, aren't replaced, and can be deleted"


async def _staging(folder: Folder) -> str:
    _, upload = await folder.staged("aborted", b"{}\n")
    if upload not in [each async for each in folder.destination.pending_uploads()]:
        raise Shortfall("a staged file isn't listed")
    await folder.destination.abort(upload)
    if upload in [each async for each in folder.destination.pending_uploads()]:
        raise Shortfall("a staged file that was removed is still listed")
    return "staged files are listed, and can be removed"


CHECKS: Sequence[Check[Folder]] = (
    Check("installation", _installation, "no run can be published"),
    Check(
        "publishes",
        _published,
        "a reader could see half a file, or a worker that was cut off replace one (promises 1 and 4)",
        "Use a file system with hard links, and give user and group the right to write.",
    ),
    Check("staging", _staging, "staged files of lost attempts stay"),
)
