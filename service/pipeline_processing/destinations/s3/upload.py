"""The upload of one artifact to S3."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from isal.isal_zlib import crc32, crc32_combine

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.s3.client import NewUpload, S3Client
from pipeline_processing.destinations.s3.errors import UploadGone
from pipeline_processing.destinations.s3.objects import AS_THE_BUCKET_HAS_IT, Pieces, encoded_crc32, sha256_of
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.destinations.s3.parts import LARGEST_OBJECT, MIB, MOST_PARTS, PartSizes
from pipeline_processing.errors import ArtifactTooLarge, PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.plan import InlineContent, MultipartUpload, UploadedPart, UploadRef
from pipeline_processing.ports import Sealed, UploadStarted

_ABORT_SECONDS = 15.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes. `key` is relative to the destination, `object_key` to the bucket."""

    bucket: str
    key: str
    object_key: str
    content_type: str
    metadata: Mapping[str, str]
    options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.object_key}"


class S3Upload:
    """
    Splits the bytes into parts, and sends up to `part_concurrency` of them while the next one is filled.

    An artifact of less than `inline_limit` bytes, or an empty one, isn't sent but returned as inline content. A part's
    bytes are reserved in the budget before it is filled, and released when it is sent. A sealed upload holds none. See
    `parts.py` for why that can't deadlock.
    """

    def __init__(
        self,
        *,
        client: S3Client,
        target: Target,
        on_started: UploadStarted,
        budget: ByteBudget,
        sizes: PartSizes,
        part_concurrency: int,
        inline_limit: int,
    ) -> None:
        self._client = client
        self._target = target
        self._on_started = on_started
        self._budget = budget
        self._sizes = sizes
        self._inline_limit = inline_limit
        self._slots = asyncio.Semaphore(part_concurrency)
        self._hashing = asyncio.Lock()
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self._size = 0
        self._buffer: Pieces | None = None
        self._buffer_size = 0  # bytes reserved for the buffer
        self._upload: NewUpload | None = None
        self._sending: list[asyncio.Task[UploadedPart]] = []
        self._failure: BaseException | None = None
        self._sealed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await shielded(self._close(keep=self._sealed and kind is None))

    async def write(self, data: bytes) -> None:
        """Raises ArtifactTooLarge, or the error of a part that could not be sent."""
        assert not self._sealed, "nothing can be written after seal()"
        rest = memoryview(data)
        while rest:
            if self._buffer is None:
                await self._begin_part()
            assert self._buffer is not None
            piece = rest[: self._buffer_size - len(self._buffer)]
            self._buffer.append(data if len(piece) == len(data) else piece)
            self._size += len(piece)
            rest = rest[len(piece) :]
            if len(self._buffer) == self._buffer_size:
                await self._send_part()

    async def seal(self) -> Sealed:
        """Raises the error of a part that could not be sent."""
        if self._upload is None and (self._size < self._inline_limit or self._size == 0):
            content = bytes(self._buffer or b"")
            self._give_back()
            self._sealed = True
            return Sealed(
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                staged=InlineContent(content=b64encode(content).decode()),
            )
        if self._buffer is not None:
            await self._send_part()
        if self._sending:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_EXCEPTION)
        self._raise_failure()
        assert self._upload is not None
        parts = tuple(task.result() for task in self._sending)
        self._sending.clear()
        self._sealed = True
        return Sealed(
            size=self._size,
            sha256=self._sha256.hexdigest(),
            staged=MultipartUpload(
                upload_id=self._upload.id,
                parts=parts,
                crc32=encoded_crc32(self._crc32) if self._upload.has_whole_crc32 else None,
            ),
        )

    async def _begin_part(self) -> None:
        number = len(self._sending) + 1
        if number > MOST_PARTS or self._size >= LARGEST_OBJECT:
            raise ArtifactTooLarge(
                f"{self._target.url} outgrew the {self._sizes.largest_artifact / 1024 / MIB:,.0f} GiB that "
                f"{MOST_PARTS:,} parts can hold within this worker's memory budget. Raise "
                "PIPELINE_WORKER__MEMORY_BUDGET_MIB, compress the dataset, or split its query."
            )
        self._raise_failure()
        size = self._sizes.of(number)
        await self._budget.acquire(size)
        self._buffer, self._buffer_size = Pieces(), size

    async def _send_part(self) -> None:
        # The buffer stays in place until a slot is acquired, so that _close() finds it after a cancellation.
        if self._upload is None:
            await self._start()
        await self._slots.acquire()
        assert self._buffer is not None
        body, reserved = self._buffer, self._buffer_size
        self._buffer, self._buffer_size = None, 0
        task = asyncio.create_task(self._send(number=len(self._sending) + 1, body=body))
        # Not `finally` in the task: a task that is cancelled before its first step never reaches it.
        task.add_done_callback(lambda sent: self._part_ended(sent, reserved=reserved))
        self._sending.append(task)
        del body
        self._raise_failure()

    async def _start(self) -> None:
        # Shielded: if a cancellation lost the reply, the upload's id would be unknown.
        await shielded(self._create())
        assert self._upload is not None
        await self._on_started(UploadRef(key=self._target.key, upload_id=self._upload.id))

    async def _create(self) -> None:
        self._upload = await self._client.create_multipart_upload(
            bucket=self._target.bucket,
            key=self._target.object_key,
            content_type=self._target.content_type,
            metadata=self._target.metadata,
            options=self._target.options,
        )

    async def _send(self, *, number: int, body: Pieces) -> UploadedPart:
        # Tasks start in the order of their creation, and the lock is fair, so parts are hashed in order.
        async with self._hashing:
            crc32, sha256 = await asyncio.to_thread(self._digest, body)
        assert self._upload is not None
        return await self._client.upload_part(
            bucket=self._target.bucket,
            key=self._target.object_key,
            upload_id=self._upload.id,
            number=number,
            body=body,
            crc32=crc32,
            sha256=sha256,
        )

    def _digest(self, body: Pieces) -> tuple[str, str | None]:
        part = 0
        for piece in body:
            self._sha256.update(piece)
            part = crc32(piece, part)
        self._crc32 = crc32_combine(self._crc32, part, len(body))
        return encoded_crc32(part), sha256_of(bytes(body)) if self._target.options.checksum == "sha256" else None

    def _part_ended(self, task: asyncio.Task[UploadedPart], *, reserved: int) -> None:
        self._budget.release(reserved)
        self._slots.release()
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _close(self, *, keep: bool) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._give_back()
        if self._upload is not None and not keep:
            await self._abort(self._upload.id)

    def _give_back(self) -> None:
        if self._buffer is not None:
            self._budget.release(self._buffer_size)
            self._buffer = None

    async def _abort(self, upload_id: str) -> None:
        # A failure here must not hide why the upload was given up. The upload is recorded, so gc can remove it later.
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._client.abort_multipart_upload(
                    bucket=self._target.bucket, key=self._target.object_key, upload_id=upload_id
                )
        except UploadGone:
            pass
        except (PipelineError, TimeoutError) as error:
            log.warning("upload_not_aborted", url=self._target.url, upload_id=upload_id, error=str(error))
