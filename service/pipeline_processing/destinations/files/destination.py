"""The destination `file`: artifacts in a folder."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from pipeline_processing.destinations.files.staging import (
    STAGING,
    Folder,
    P,
    T,
    has_content,
    name_of_staged,
    sync_folder,
    write_durably,
)
from pipeline_processing.destinations.files.upload import FileUpload
from pipeline_processing.destinations.installation import INSTALLATION_KEY, check_mark, mark_of
from pipeline_processing.errors import ConflictingObjects, SettingsError, UploadMissing
from pipeline_processing.log import get_logger
from pipeline_processing.plan import Artifact, StagedFile, UploadRef
from pipeline_processing.ports import Content, Upload, UploadStarted

log = get_logger(__name__)


class FileDestination:
    """
    A `Destination` in a folder that exists, on a file system with hard links.

    Every artifact is staged as a file, even a small one. Files carry no metadata, so a file belongs to a run if it is
    the run's staged file, or has the same size and SHA-256.
    """

    holds_tables = False

    def __init__(self, *, path: Path, new_id: Callable[[], str] = lambda: uuid4().hex) -> None:
        """`new_id` names staged files."""
        self._folder = Folder(path)
        self._new_id = new_id
        self.url = path.as_uri()

    async def verify_installation(self, installation: UUID) -> None:
        mark = await self._run("read", INSTALLATION_KEY, self._read, INSTALLATION_KEY)
        if mark is not None:
            check_mark(mark, installation=installation, url=self.url)

    async def mark_installation(self, installation: UUID) -> None:
        try:
            await self.publish(INSTALLATION_KEY, mark_of(installation), metadata={})
        except ConflictingObjects:
            await self.verify_installation(installation)

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        self._folder.path(key)
        return FileUpload(
            folder=self._folder,
            ref=UploadRef(key=key, upload_id=name_of_staged(key, upload=self._new_id())),
            url=self._url(key),
            on_started=on_started,
        )

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        if not isinstance(artifact.staged, StagedFile):
            raise SettingsError(
                f"The stored plan of {self._url(artifact.key)} was made for a bucket, not for this folder. "
                "Set PIPELINE_DESTINATION back to what it was until this run has finished."
            )
        await self._run("complete", artifact.key, self._complete, artifact, artifact.staged)

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        await self._run("write", key, self._publish, key, body)

    async def replace(
        self, key: str, body: bytes, *, replaces: Callable[[bytes], bool], metadata: Mapping[str, str]
    ) -> None:
        await self._run("replace", key, self._replace, key, body, replaces)

    async def exists(self, key: str) -> bool:
        return await self._run("look at", key, os.path.lexists, self._folder.path(key))

    async def abort(self, upload: UploadRef) -> None:
        await self._run("abort the upload of", upload.key, self._folder.discard, self._folder.staged(upload.upload_id))

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        await self._run("delete", artifact.key, self._delete, artifact)

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """See `Destination`. Files staged by `publish` aren't uploads."""
        for key, name in await self._run("list the uploads in", STAGING, self._folder.uploads):
            yield UploadRef(key=key, upload_id=name)

    async def _run(self, doing: str, key: str, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._folder.run(doing, self._url(key), self._in_folder, partial(work, *args, **kwargs))

    def _in_folder(self, work: Callable[[], T]) -> T:
        self._folder.require()
        try:
            return work()
        finally:
            self._folder.require()  # if the file was missing, find out whether the whole folder is

    def _complete(self, artifact: Artifact, staged_file: StagedFile) -> None:
        path, staged = self._folder.path(artifact.key), self._folder.staged(staged_file.path)
        try:
            self._folder.link(staged, path)
        except FileExistsError:
            if not self._is_ours(path, staged, artifact):
                raise ConflictingObjects(self._url(artifact.key), why="its content differs") from None
            sync_folder(path.parent)  # the process that linked it may have died before it synced
        except FileNotFoundError:
            if staged.exists():
                raise
            if not os.path.lexists(path):
                raise UploadMissing(self._url(artifact.key)) from None
            if not has_content(path, size=artifact.size, sha256=artifact.sha256):
                raise ConflictingObjects(self._url(artifact.key), why="its content differs") from None
        self._folder.discard(staged)

    def _is_ours(self, path: Path, staged: Path, artifact: Artifact) -> bool:
        # Another process that completes the artifact may remove the staged name at any moment.
        with suppress(FileNotFoundError):
            if staged.samefile(path):
                return True
        return has_content(path, size=artifact.size, sha256=artifact.sha256)

    def _publish(self, key: str, body: bytes) -> None:
        path = self._folder.path(key)
        staged = self._folder.staged(f"{STAGING}/{self._new_id()}")
        self._folder.prepare()
        try:
            write_durably(staged, body)
            self._folder.link(staged, path)
        except FileExistsError:
            if not has_content(path, size=len(body), sha256=hashlib.sha256(body).hexdigest()):
                raise ConflictingObjects(self._url(key), why="its content differs") from None
            sync_folder(path.parent)
        finally:
            self._folder.discard(staged)

    def _replace(self, key: str, body: bytes, replaces: Callable[[bytes], bool]) -> None:
        path = self._folder.path(key)
        self._folder.prepare()
        with self._folder.locked():
            there = self._read(key)
            if there is not None and not replaces(there):
                return
            staged = self._folder.staged(f"{STAGING}/{self._new_id()}")
            try:
                write_durably(staged, body)
                self._folder.make_parents(path)
                staged.replace(path)
                sync_folder(path.parent)
            finally:
                self._folder.discard(staged)

    def _delete(self, artifact: Artifact) -> None:
        path = self._folder.path(artifact.key)
        if not os.path.lexists(path):
            return
        if not has_content(path, size=artifact.size, sha256=artifact.sha256):
            log.warning("foreign_object_not_deleted", url=self._url(artifact.key), why="its content differs")
            return
        path.unlink()
        sync_folder(path.parent)

    def _read(self, key: str) -> bytes | None:
        try:
            return self._folder.path(key).read_bytes()
        except FileNotFoundError:
            return None

    def _url(self, key: str) -> str:
        return f"{self.url}/{key}"
