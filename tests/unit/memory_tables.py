"""A destination that holds tables, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from pipeline_processing.plan import Artifact, MultipartUpload, StagedTable
from pipeline_processing.ports import Content, Sealed, Upload, UploadStarted
from tests.memory.destination import MemoryDestination


class MemoryTables(MemoryDestination):
    """Its `objects` are tables; what stands in one before it is completed is in an upload. There is no manifest."""

    holds_tables = True

    def __init__(self, *, url: str = "memory://tables") -> None:
        super().__init__(url=url, inline_limit=0, handles="table")
        self.contents: list[Content] = []
        """What it was told of each upload."""

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        self.contents.append(content)
        return _TableUpload(super().open(key, content, metadata=metadata, on_started=on_started))

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        assert isinstance(artifact.staged, StagedTable)
        staged = MultipartUpload(upload_id=artifact.staged.table, parts=())
        await super().complete(artifact.model_copy(update={"staged": staged}), metadata=metadata)

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        raise AssertionError("tables have no manifest")

    async def exists(self, key: str) -> bool:
        raise AssertionError("tables have no manifest")


class _TableUpload:
    def __init__(self, real: AbstractAsyncContextManager[Upload]) -> None:
        self._real = real

    async def __aenter__(self) -> _TableUpload:
        self._upload = await self._real.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._real.__aexit__(kind, error, trace)

    async def write(self, data: bytes) -> None:
        await self._upload.write(data)

    async def seal(self) -> Sealed:
        sealed = await self._upload.seal()
        assert isinstance(sealed.staged, MultipartUpload)
        return Sealed(size=sealed.size, sha256=sealed.sha256, staged=StagedTable(table=sealed.staged.upload_id))
