"""An in-memory destination for tests."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self
from uuid import UUID

from pipeline_processing.destinations.installation import INSTALLATION_KEY, check_mark, mark_of
from pipeline_processing.errors import ConflictingObjects, DestinationUnavailable, UploadMissing
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, UploadRef
from pipeline_processing.ports import Content, Sealed, Upload, UploadStarted

_RUN = ("run-id", "attempt")


class MemoryDestination:
    """
    A `Destination` that behaves like S3: small artifacts are inline, larger ones are uploads until they are completed.
    With `inline_limit=0`, every artifact is an upload.
    """

    holds_tables = False

    def __init__(
        self, *, url: str = "memory://destination", inline_limit: int = 1024 * 1024, handles: str = "upload"
    ) -> None:
        """`handles` is the prefix of upload handles, which must differ between destinations."""
        self.url = url
        self.objects: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        """Visible objects: key → bytes and metadata."""
        self.open_uploads: list[UploadRef] = []
        """Uploads that are neither completed nor aborted."""
        self._inline_limit = inline_limit
        self._handles = handles
        self._stored: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        self._started = 0

    async def verify_installation(self, installation: UUID) -> None:
        if INSTALLATION_KEY in self.objects:
            check_mark(self.objects[INSTALLATION_KEY][0], installation=installation, url=self.url)

    async def mark_installation(self, installation: UUID) -> None:
        await self.verify_installation(installation)
        self.objects[INSTALLATION_KEY] = (mark_of(installation), {})

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        return _MemoryUpload(self, key=key, inline=content.inline, metadata=metadata, on_started=on_started)

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        there = self.objects.get(artifact.key)
        if there is not None:
            if why := _difference(there, artifact, metadata):
                raise ConflictingObjects(self._url(artifact.key), why=why)
            return
        if isinstance(artifact.staged, InlineContent):
            self.objects[artifact.key] = (b64decode(artifact.staged.content), dict(metadata))
            return
        assert isinstance(artifact.staged, MultipartUpload)
        stored = self._stored.get(artifact.staged.upload_id)
        if stored is None:
            raise UploadMissing(self._url(artifact.key))
        self.objects[artifact.key] = stored
        await self.abort(UploadRef(key=artifact.key, upload_id=artifact.staged.upload_id))

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        if self.objects.setdefault(key, (body, dict(metadata)))[0] != body:
            raise ConflictingObjects(self._url(key), why="its content differs")

    async def replace(
        self, key: str, body: bytes, *, replaces: Callable[[bytes], bool], metadata: Mapping[str, str]
    ) -> None:
        if key not in self.objects or replaces(self.objects[key][0]):
            self.objects[key] = (body, dict(metadata))

    async def exists(self, key: str) -> bool:
        return key in self.objects

    async def abort(self, upload: UploadRef) -> None:
        self._stored.pop(upload.upload_id, None)
        self.open_uploads[:] = [each for each in self.open_uploads if each.upload_id != upload.upload_id]

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        there = self.objects.get(artifact.key)
        if there is not None and not _difference(there, artifact, metadata):
            del self.objects[artifact.key]

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        for upload in list(self.open_uploads):
            yield upload

    def start(self, key: str) -> UploadRef:
        """Start a new upload, for `open`."""
        self._started += 1
        self.open_uploads.append(upload := UploadRef(key=key, upload_id=f"{self._handles}-{self._started}"))
        return upload

    def store(self, upload: UploadRef, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store all bytes of an upload, for `seal`. As on S3, raises DestinationUnavailable if it was aborted."""
        if upload not in self.open_uploads:
            raise DestinationUnavailable(f"The upload of {self._url(upload.key)} is gone.")
        self._stored[upload.upload_id] = (body, dict(metadata))

    def inlines(self, size: int, *, room: bool) -> bool:
        """Whether an artifact of this size goes into the plan; an empty one always does."""
        return size < self._inline_limit if room else size == 0

    def _url(self, key: str) -> str:
        return f"{self.url}/{key}"


class _MemoryUpload:
    def __init__(
        self,
        destination: MemoryDestination,
        *,
        key: str,
        inline: bool,
        metadata: Mapping[str, str],
        on_started: UploadStarted,
    ) -> None:
        self._destination = destination
        self._key = key
        self._inline = inline
        self._metadata = metadata
        self._on_started = on_started
        self._body = bytearray()
        self._upload: UploadRef | None = None
        self._sealed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upload is not None and not (self._sealed and error is None):
            await self._destination.abort(self._upload)

    async def write(self, data: bytes) -> None:
        assert not self._sealed, "nothing can be written after seal()"
        self._body += data
        if not self._destination.inlines(len(self._body), room=self._inline):
            await self._start()

    async def seal(self) -> Sealed:
        body = bytes(self._body)
        sha256 = hashlib.sha256(body).hexdigest()
        if self._destination.inlines(len(body), room=self._inline):
            content = b64encode(body).decode()
            self._sealed = True
            return Sealed(size=len(body), sha256=sha256, staged=InlineContent(content=content))
        upload = await self._start()
        self._destination.store(upload, body, self._metadata)
        self._sealed = True
        return Sealed(size=len(body), sha256=sha256, staged=MultipartUpload(upload_id=upload.upload_id, parts=()))

    async def _start(self) -> UploadRef:
        if self._upload is None:
            self._upload = self._destination.start(self._key)
            await self._on_started(self._upload)
        return self._upload


def _difference(there: tuple[bytes, Mapping[str, str]], artifact: Artifact, metadata: Mapping[str, str]) -> str | None:
    body, its = there
    if any(its.get(name) != metadata.get(name) for name in _RUN):
        return "another run or attempt wrote it"
    if hashlib.sha256(body).hexdigest() != artifact.sha256:
        return "its content differs"
    return None
