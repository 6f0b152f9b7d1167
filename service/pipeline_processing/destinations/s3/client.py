"""The calls of S3 that the destination needs: typed, limited in time, and with this service's errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from pydantic import SecretStr

from pipeline_processing.destinations.s3.errors import (
    AlreadyThere,
    ObjectMissing,
    Unsupported,
    check_answer,
    translated,
)
from pipeline_processing.destinations.s3.objects import (
    AS_THE_BUCKET_HAS_IT,
    Body,
    checksum_argument,
    crc32_of,
    creation_arguments,
    sha256_of,
)
from pipeline_processing.destinations.s3.options import S3ConnectionOptions, S3ObjectOptions
from pipeline_processing.destinations.s3.session import AddressingStyle, AssumedRole, Keys, Learned, open_client
from pipeline_processing.errors import BucketMissing, DestinationUnavailable, PipelineError
from pipeline_processing.model import UploadedPart, UploadRef
from pipeline_processing.settings.settings import S3Settings

AS_THE_SETTINGS_SAY = S3ConnectionOptions()

# Limits all tries together. botocore limits each one, but not while it sends.
_CALL_SECONDS = 90.0
_SLOWEST_BYTES_PER_SECOND = 256 * 1024


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What the store says of an object. Metadata keys are in lower case; `etag` is None where it can't be an MD5."""

    size: int
    metadata: Mapping[str, str]
    etag: str | None
    crc32: str | None
    sha256: str | None = None


class S3Client:
    """
    A connection pool to one S3 endpoint, as a block. Keys are whole, buckets are named in every call.

    Every call raises DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError or InternalError. A
    call names the subclasses of these that a caller may handle.
    """

    def __init__(
        self,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: SecretStr | None = None,
        session_token: SecretStr | None = None,
        addressing_style: AddressingStyle = "auto",
        role: AssumedRole | None = None,
        connections: int = 64,
        learned: Learned = lambda secrets: None,
    ) -> None:
        """
        What is None comes from the usual AWS chain; but with a key and a secret, no token means that there is none.
        With a `role`, the credentials are for assuming it. `connections` limits how many are open at once. `learned` is
        told secrets of credentials that aren't given here.
        """
        self._open = partial(
            open_client,
            endpoint_url=endpoint_url,
            region=region,
            keys=Keys(access_key_id, secret_access_key, session_token),
            addressing_style=addressing_style,
            role=role,
            connections=connections,
            learned=learned,
        )
        self._seen: set[str] = set()
        """Buckets that were there. One of them that is missing may come back."""
        self._cleanup = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        self._client = await self._cleanup.enter_async_context(self._open())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cleanup.aclose()

    async def put_object_if_absent(
        self,
        *,
        bucket: str,
        key: str,
        body: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
    ) -> None:
        """Write a small object unless there is one. Raises AlreadyThere, ConditionalConflict."""
        sha256 = sha256_of(body) if options.checksum == "sha256" else None
        arguments = {
            **creation_arguments(content_type=content_type, metadata=metadata, options=options),
            **checksum_argument(crc32=crc32_of(body), sha256=sha256),
        }
        await self._if_absent("put_object", "write", bucket, key, body=body, **arguments)

    async def create_multipart_upload(
        self,
        *,
        bucket: str,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
    ) -> str:
        """Start an upload; its id."""
        arguments = creation_arguments(content_type=content_type, metadata=metadata, options=options)
        arguments["ChecksumAlgorithm"] = options.checksum.upper()
        answer = await self._call(
            "create_multipart_upload", "start the upload of", bucket, key, needs="UploadId", **arguments
        )
        return str(answer["UploadId"])

    async def upload_part(
        self,
        *,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        body: bytes | bytearray,
        crc32: str,
        sha256: str | None = None,
    ) -> UploadedPart:
        """Send one part, which the store checks against `sha256`, or `crc32` without one. Raises UploadGone."""
        arguments = {"UploadId": upload_id, "PartNumber": number, **checksum_argument(crc32=crc32, sha256=sha256)}
        doing = f"send part {number} of"
        answer = await self._call("upload_part", doing, bucket, key, body=body, needs="ETag", **arguments)
        return UploadedPart(number=number, etag=answer["ETag"], crc32=crc32, sha256=sha256)

    async def complete_multipart_upload_if_absent(
        self, *, bucket: str, key: str, upload_id: str, parts: Sequence[UploadedPart]
    ) -> None:
        """Make an upload visible unless there is an object. Raises UploadGone, and as the PUT does."""
        named = [
            {"PartNumber": part.number, "ETag": part.etag, **checksum_argument(crc32=part.crc32, sha256=part.sha256)}
            for part in parts
        ]
        arguments: dict[str, Any] = {"UploadId": upload_id, "MultipartUpload": {"Parts": named}}
        await self._if_absent("complete_multipart_upload", "complete the upload of", bucket, key, **arguments)

    async def abort_multipart_upload(self, *, bucket: str, key: str, upload_id: str) -> None:
        """Remove an upload. Raises UploadGone."""
        await self._call("abort_multipart_upload", "abort the upload of", bucket, key, UploadId=upload_id)

    async def head_object(self, *, bucket: str, key: str) -> ObjectHead:
        """Raises ObjectMissing."""
        answer = await self._call("head_object", "look at", bucket, key, needs="ETag", ChecksumMode="ENABLED")
        return ObjectHead(
            size=answer.get("ContentLength", 0),  # an empty object may go without
            metadata={name.lower(): value for name, value in answer["Metadata"].items()},
            # Under KMS it may look like an MD5, and isn't one of the bytes.
            etag=None if "kms" in answer.get("ServerSideEncryption", "") else answer["ETag"],
            crc32=answer.get("ChecksumCRC32"),
            sha256=answer.get("ChecksumSHA256"),
        )

    async def get_object(self, *, bucket: str, key: str) -> bytes:
        """The whole of a small object. Raises ObjectMissing."""

        async def read() -> dict[str, Any]:
            answer: dict[str, Any] = await self._client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as stream:
                return {**answer, "Body": bytes(await stream.read())}

        try:
            answer = await self._answer(read(), "read", bucket, key, needs="ETag")
        except ObjectMissing:
            self._seen.add(bucket)
            raise
        return bytes(answer["Body"])

    async def require_bucket(self, *, bucket: str) -> None:
        """Raises BucketMissing, or DestinationUnavailable where the bucket was there before."""
        # HEAD has no code.
        await self._answer(self._client.head_bucket(Bucket=bucket), "look at", bucket, missing=BucketMissing)

    async def delete_object(self, *, bucket: str, key: str) -> None:
        await self._call("delete_object", "delete", bucket, key)

    async def pending_uploads(self, *, bucket: str, prefix: str = "") -> AsyncIterator[UploadRef]:
        """All incomplete uploads whose keys begin with `prefix`, asked for page by page."""
        pages = aiter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix))
        while page := await self._answer(anext(pages, {}), "list the uploads in", bucket, prefix):
            for upload in page.get("Uploads", []):
                for field in ("UploadId", "Key"):
                    check_answer(upload, needs=field, doing="list the uploads in", url=f"s3://{bucket}/{prefix}")
                yield UploadRef(key=upload["Key"], upload_id=upload["UploadId"])

    async def _if_absent(
        self, operation: str, doing: str, bucket: str, key: str, *, body: bytes | None = None, **arguments: Any
    ) -> None:
        arguments = {"body": body, "needs": "ETag", **arguments}
        try:
            await self._call(operation, doing, bucket, key, IfNoneMatch="*", **arguments)
        except Unsupported:
            # A store that says so instead of ignoring the header: look first. That isn't atomic, so the promise holds
            # only while one installation writes below the prefix, which `_installation.json` guards.
            try:
                await self.head_object(bucket=bucket, key=key)
            except ObjectMissing:
                await self._call(operation, doing, bucket, key, **arguments)
            else:
                raise AlreadyThere(f"s3://{bucket}/{key} is there already") from None

    async def _call(
        self,
        operation: str,
        doing: str,
        bucket: str,
        key: str,
        *,
        body: bytes | bytearray | None = None,
        needs: str | None = None,
        **arguments: Any,
    ) -> Any:
        """One operation on an object. See `_answer`."""
        seconds = _CALL_SECONDS
        if body is not None:
            arguments["Body"] = Body(body)
            seconds += len(body) / _SLOWEST_BYTES_PER_SECOND
        question = getattr(self._client, operation)(Bucket=bucket, Key=key, **arguments)
        return await self._answer(question, doing, bucket, key, needs=needs, seconds=seconds)

    async def _answer(
        self,
        question: Awaitable[Any],
        doing: str,
        bucket: str,
        key: str | None = None,
        *,
        needs: str | None = None,
        seconds: float = _CALL_SECONDS,
        missing: type[PipelineError] = ObjectMissing,
    ) -> Any:
        """
        The answer to a request, which is limited in time. Raises as `translated` does.

        `needs` names a field that every answer of S3 to this request has.
        """
        url = f"s3://{bucket}" if key is None else f"s3://{bucket}/{key}"
        try:
            with translated(doing=doing, url=url, missing=missing):
                async with asyncio.timeout(seconds):
                    answer = await question
        except BucketMissing as error:
            if bucket not in self._seen:
                raise
            raise DestinationUnavailable(f"{error} The bucket was there before, so it is tried again.") from error
        check_answer(answer, needs=needs, doing=doing, url=url)
        self._seen.add(bucket)
        return answer


def s3_client(
    settings: S3Settings,
    options: S3ConnectionOptions = AS_THE_SETTINGS_SAY,
    *,
    learned: Learned = lambda secrets: None,
) -> S3Client:
    """The pool that the settings and a destination's own options describe; `learned` as in `S3Client`."""
    role = options.role_arn and AssumedRole(
        arn=options.role_arn, session_name=options.role_session_name, external_id=options.external_id
    )
    return S3Client(
        endpoint_url=options.endpoint_url or settings.endpoint_url,
        region=options.region or settings.region,
        access_key_id=settings.access_key_id.get_secret_value() if settings.access_key_id else None,
        secret_access_key=settings.secret_access_key,
        session_token=settings.session_token,
        addressing_style=options.addressing_style or settings.addressing_style,
        role=role or None,
        learned=learned,
    )
