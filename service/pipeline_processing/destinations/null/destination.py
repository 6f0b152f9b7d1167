"""A destination that stores nothing, for dry runs."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

from pipeline_processing.plan import Artifact, InlineContent, UploadRef
from pipeline_processing.ports import Content, Sealed, UploadStarted

_SHA256_OF_NOTHING = hashlib.sha256().hexdigest()


class NullUpload:
    """Counts bytes and discards them. The checksum is that of an empty artifact."""

    def __init__(self) -> None:
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._size += len(data)

    async def seal(self) -> Sealed:
        return Sealed(size=self._size, sha256=_SHA256_OF_NOTHING, staged=InlineContent(content=""))


class NullDestination:
    """Accepts every artifact and stores none, so a plan of its artifacts can't be completed."""

    url = "null:"
    holds_tables = False

    async def verify_installation(self, installation: UUID) -> None:
        """There is no prefix to own."""

    async def mark_installation(self, installation: UUID) -> None:
        """There is no prefix to own."""

    @asynccontextmanager
    async def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AsyncIterator[NullUpload]:
        yield NullUpload()

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        raise AssertionError(f"{artifact.key} was written nowhere")

    async def abort(self, upload: UploadRef) -> None:
        """Nothing was started."""

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """Nothing was written."""

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """Nothing was started."""
        return
        yield  # makes this a generator
