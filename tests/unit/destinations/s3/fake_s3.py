"""An S3 client that fails where a test wants it to. What a store really does is tested on a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pipeline_processing.destinations.s3.client import NewUpload, ObjectHead, S3Client
from pipeline_processing.destinations.s3.errors import ObjectMissing, UploadGone
from pipeline_processing.destinations.s3.objects import AS_THE_BUCKET_HAS_IT, Data
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.plan import UploadedPart


class FakeS3(S3Client):
    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.has_whole_crc32 = True
        self.started = 0
        self.most_at_once = 0
        self.at_once = 0
        self.failures: dict[str, Exception] = {}
        self.head: ObjectHead | None = None
        self.sending = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()

    def _fail(self, call: str) -> None:
        if call in self.failures:
            raise self.failures[call]

    async def create_multipart_upload(
        self,
        *,
        bucket: str,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
    ) -> NewUpload:
        await asyncio.sleep(0)
        self._fail("create")
        self.started += 1
        self.uploads[f"u{self.started}"] = {}
        await asyncio.sleep(0)
        return NewUpload(f"u{self.started}", has_whole_crc32=self.has_whole_crc32)

    async def upload_part(
        self,
        *,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        body: Data,
        crc32: str,
        sha256: str | None = None,
    ) -> UploadedPart:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.sending.set()
        try:
            await self.may_send.wait()
            await asyncio.sleep(0)
            self._fail(f"part {number}")
            self.uploads[upload_id][number] = bytes(body)
        finally:
            self.at_once -= 1
        return UploadedPart(number=number, etag=f"e{number}", crc32=crc32, sha256=sha256)

    async def complete_multipart_upload_if_absent(
        self, *, bucket: str, key: str, upload_id: str, parts: Sequence[UploadedPart], crc32: str | None = None
    ) -> None:
        self._fail("complete")

    async def abort_multipart_upload(self, *, bucket: str, key: str, upload_id: str) -> None:
        self._fail("abort")
        if self.uploads.pop(upload_id, None) is None:
            raise UploadGone("gone")

    async def require_bucket(self, *, bucket: str) -> None:
        self._fail("bucket")

    async def head_object(self, *, bucket: str, key: str) -> ObjectHead:
        self._fail("head")
        if self.head is None:
            raise ObjectMissing("missing")
        return self.head
