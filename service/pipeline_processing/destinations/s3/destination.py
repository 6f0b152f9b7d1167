"""The destination `s3`: artifacts in a bucket, below a prefix."""

import posixpath
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.installation import INSTALLATION_KEY, check_mark, mark_of
from pipeline_processing.destinations.s3.client import ObjectHead, S3Client
from pipeline_processing.destinations.s3.errors import (
    AlreadyThere,
    ConditionalConflict,
    ObjectMissing,
    UploadGone,
)
from pipeline_processing.destinations.s3.objects import AS_THE_BUCKET_HAS_IT, Fingerprint
from pipeline_processing.destinations.s3.options import ARCHIVES, S3ObjectOptions
from pipeline_processing.destinations.s3.parts import MIB, PartSizes
from pipeline_processing.destinations.s3.upload import S3Upload, Target
from pipeline_processing.errors import (
    ConflictingObjects,
    DestinationUnavailable,
    PipelineError,
    SettingsError,
    Throttled,
    UploadMissing,
)
from pipeline_processing.log import get_logger
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, UploadRef
from pipeline_processing.ports import Content, Upload, UploadStarted

_CONTENT_TYPES = {
    ".ndjson": "application/x-ndjson",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".gz": "application/gzip",
    ".zst": "application/zstd",
    ".json": "application/json",
}

_REPLACEMENTS = 10
"""Tries to replace an object that others replace at the same time."""

log = get_logger(__name__)


class S3Destination:
    """
    A `Destination` on one bucket.

    An artifact of less than `inline_limit` bytes is stored in the plan, if that has room, and PUT when the plan is
    completed. A larger one is a multipart upload.

    The parts of all uploads take their memory from `budget`. It may be shared only with S3 destinations of the same
    runs, with the same `runs` (written concurrently) and `uploads_per_run` (at all of these destinations together):
    see `parts.py`.

    Raises SettingsError if the budget is too small for `runs` and `uploads_per_run`.
    """

    holds_tables = False

    def __init__(
        self,
        *,
        client: S3Client,
        bucket: str,
        prefix: str,
        budget: ByteBudget,
        runs: int = 4,
        uploads_per_run: int = 2,
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
        part_size: int = 8 * MIB,
        part_concurrency: int = 3,
        inline_limit: int = MIB,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._budget = budget
        self._sizes = PartSizes.within(budget, part_size=part_size, runs=runs, uploads_per_run=uploads_per_run)
        self._options = options
        archived = options.storage_class in ARCHIVES
        self._options_to_be_read = options.model_copy(update={"storage_class": None}) if archived else options
        self._part_concurrency = part_concurrency
        self._inline_limit = inline_limit
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")

    async def verify_installation(self, installation: UUID) -> None:
        try:
            mark = await self._client.get_object(bucket=self._bucket, key=self._object_key(INSTALLATION_KEY))
        except ObjectMissing:
            return
        check_mark(mark, installation=installation, url=self.url)

    async def mark_installation(self, installation: UUID) -> None:
        try:
            await self.publish(INSTALLATION_KEY, mark_of(installation), metadata={})
        except ConflictingObjects:
            await self.verify_installation(installation)

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        """See `Destination`. Writing may raise ArtifactTooLarge."""
        return S3Upload(
            client=self._client,
            target=Target(
                bucket=self._bucket,
                key=key,
                object_key=self._object_key(key),
                content_type=_content_type(key, content),
                metadata=metadata,
                options=self._options,
            ),
            on_started=on_started,
            budget=self._budget,
            sizes=self._sizes,
            part_concurrency=self._part_concurrency,
            inline_limit=self._inline_limit if content.inline else 0,
        )

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        staged = artifact.staged
        if not isinstance(staged, MultipartUpload | InlineContent):
            raise SettingsError(
                f"The stored plan of {self._url(artifact.key)} was made for a folder or a table, not for this bucket. "
                "Set PIPELINE_DESTINATION, or the job config's `destinations`, back to what it was until this run has "
                "finished."
            )
        try:
            await self._complete(artifact.key, staged, metadata)
        except (DestinationUnavailable, Throttled) as answer:
            await self._settle(artifact, staged, metadata, answer)

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        try:
            await self._put(key, body, metadata, self._options_to_be_read)
        except (AlreadyThere, ConditionalConflict):
            there = await self._client.get_object(bucket=self._bucket, key=self._object_key(key))
            if there != body:
                raise ConflictingObjects(self._url(key), why="its content differs") from None

    async def replace(
        self, key: str, body: bytes, *, replaces: Callable[[bytes], bool], metadata: Mapping[str, str]
    ) -> None:
        for _ in range(_REPLACEMENTS):
            try:
                await self._replace(key, body, replaces, metadata)
                return
            except (AlreadyThere, ConditionalConflict, ObjectMissing):
                continue  # someone has changed it: what is there now?
        raise DestinationUnavailable(f"Others keep replacing {self._url(key)}. This is retried.")

    async def exists(self, key: str) -> bool:
        return await self._head(key) is not None

    async def abort(self, upload: UploadRef) -> None:
        try:
            await self._client.abort_multipart_upload(
                bucket=self._bucket, key=self._object_key(upload.key), upload_id=upload.upload_id
            )
        except (UploadGone, ObjectMissing):
            return

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        head = await self._head(artifact.key)
        staged = artifact.staged
        if head is None:
            await self._client.require_bucket(bucket=self._bucket)  # HEAD answers the same for a missing bucket
            return
        if not isinstance(staged, MultipartUpload | InlineContent):
            return
        if why := _difference(head, artifact, staged, metadata):
            log.warning("foreign_object_not_deleted", url=self._url(artifact.key), why=why)
            return
        await self._client.delete_object(bucket=self._bucket, key=self._object_key(artifact.key))

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        below = self._object_key("")
        async for upload in self._client.pending_uploads(bucket=self._bucket, prefix=below):
            yield UploadRef(key=upload.key.removeprefix(below), upload_id=upload.upload_id)

    async def _complete(self, key: str, staged: MultipartUpload | InlineContent, metadata: Mapping[str, str]) -> None:
        if isinstance(staged, InlineContent):
            await self._put(key, b64decode(staged.content), metadata, self._options)
        else:
            await self._client.complete_multipart_upload_if_absent(
                bucket=self._bucket,
                key=self._object_key(key),
                upload_id=staged.upload_id,
                parts=staged.parts,
                crc32=staged.crc32,
            )

    async def _settle(
        self,
        artifact: Artifact,
        staged: MultipartUpload | InlineContent,
        metadata: Mapping[str, str],
        answer: PipelineError,
    ) -> None:
        """Decide by the object that exists now: the outcome is unknown, or another worker completed the artifact."""
        head = await self._head(artifact.key)
        if head is not None:
            if why := _difference(head, artifact, staged, metadata):
                raise ConflictingObjects(self._url(artifact.key), why=why) from answer
            return
        if isinstance(answer, UploadGone):
            await self._client.require_bucket(bucket=self._bucket)  # HEAD answers the same for a missing bucket
            raise UploadMissing(self._url(artifact.key)) from answer
        raise answer

    async def _put(self, key: str, body: bytes, metadata: Mapping[str, str], options: S3ObjectOptions) -> None:
        await self._client.put_object_if_absent(
            bucket=self._bucket,
            key=self._object_key(key),
            body=body,
            content_type=_content_type(key),
            metadata=metadata,
            options=options,
        )

    async def _replace(
        self, key: str, body: bytes, replaces: Callable[[bytes], bool], metadata: Mapping[str, str]
    ) -> None:
        """Replace the object once, unless it changes in between: see `S3Client.replace_object`."""
        try:
            there, etag = await self._client.get_version(bucket=self._bucket, key=self._object_key(key))
        except ObjectMissing:
            await self._put(key, body, metadata, self._options_to_be_read)
            return
        if replaces(there):
            await self._client.replace_object(
                bucket=self._bucket,
                key=self._object_key(key),
                body=body,
                etag=etag,
                content_type=_content_type(key),
                metadata=metadata,
                options=self._options_to_be_read,
            )

    async def _head(self, key: str) -> ObjectHead | None:
        try:
            return await self._client.head_object(bucket=self._bucket, key=self._object_key(key))
        except ObjectMissing:
            return None

    def _object_key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _url(self, key: str) -> str:
        return f"{self.url}/{key}"


def _difference(
    head: ObjectHead, artifact: Artifact, staged: MultipartUpload | InlineContent, metadata: Mapping[str, str]
) -> str | None:
    """Return how the object differs from the artifact, or None if it doesn't."""
    for name in ("run-id", "attempt"):
        if head.metadata.get(name) != metadata.get(name):
            return f"its {name} is {head.metadata.get(name)}, not {metadata.get(name)}"
    if head.size != artifact.size:
        return f"it has {head.size:,} bytes, not {artifact.size:,}"
    if not Fingerprint.of(staged).matches(crc32=head.crc32, etag=head.etag, sha256=head.sha256):
        return "its checksum differs"
    return None


def _content_type(key: str, content: Content | None = None) -> str:
    if content is not None and key.endswith(".csv"):
        return f"text/csv; charset={content.csv.encoding}"
    return _CONTENT_TYPES.get(posixpath.splitext(key)[1], "application/octet-stream")
