"""The upload of one artifact to a folder."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Self

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.files.staging import Folder, sync_folder
from pipeline_processing.log import get_logger
from pipeline_processing.plan import StagedFile, UploadRef
from pipeline_processing.ports import Sealed, UploadStarted

log = get_logger(__name__)


class FileUpload:
    """
    Writes one staged file. Nothing is buffered: a write returns when the operating system has the bytes.
    """

    def __init__(self, *, folder: Folder, ref: UploadRef, url: str, on_started: UploadStarted) -> None:
        self._folder = folder
        self._ref = ref
        self._url = url
        self._on_started = on_started
        self._path: Path = folder.staged(ref.upload_id)
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._sealed = False

    async def __aenter__(self) -> Self:
        await self._folder.run("write", self._url, self._folder.prepare)
        await self._on_started(self._ref)
        try:
            await self._folder.run("write", self._url, self._create)
        except BaseException:  # cancelled while the file was created: __aexit__ won't be called
            await shielded(asyncio.to_thread(self._close, keep=False))
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await shielded(asyncio.to_thread(self._close, keep=self._sealed and kind is None))

    async def write(self, data: bytes) -> None:
        assert not self._sealed, "nothing can be written after seal()"
        await self._folder.run("write", self._url, self._append, data)

    async def seal(self) -> Sealed:
        await self._folder.run("write", self._url, self._finish)
        self._sealed = True
        return Sealed(size=self._size, sha256=self._sha256.hexdigest(), staged=StagedFile(path=self._ref.upload_id))

    def _create(self) -> None:
        self._file = self._path.open("xb")

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)

    def _finish(self) -> None:
        assert self._file is not None
        self._folder.require()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()  # now, as the block lasts until the plan is stored, and a dataset may have many files
        self._file = None
        sync_folder(self._path.parent)

    def _close(self, *, keep: bool) -> None:
        # A failure here must not hide why the upload was given up. The upload is recorded, so gc can remove it later.
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:  # close() flushes, which may fail
            log.warning("staged_file_not_closed", url=self._url, error=str(error))
        if keep:
            return
        try:
            self._folder.discard(self._path)
        except OSError as error:
            log.warning("upload_not_aborted", url=self._url, upload_id=self._ref.upload_id, error=str(error))
