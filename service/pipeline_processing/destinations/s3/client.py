"""The S3 calls that the destination needs: typed, with time limits, and with this service's errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

from opentelemetry.trace import Span, SpanKind
from pydantic import SecretStr

from pipeline_processing.destinations.s3.direct import DirectRequests
from pipeline_processing.destinations.s3.errors import (
    AlreadyThere,
    ObjectMissing,
    UnexpectedAnswer,
    Unsupported,
    check_answer,
    translated,
)
from pipeline_processing.destinations.s3.objects import (
    AS_THE_BUCKET_HAS_IT,
    Body,
    Data,
    checksum_argument,
    crc32_of,
    creation_arguments,
    sha256_of,
)
from pipeline_processing.destinations.s3.options import S3ConnectionOptions, S3ObjectOptions
from pipeline_processing.destinations.s3.session import AddressingStyle, AssumedRole, Keys, Learned, open_client
from pipeline_processing.errors import BucketMissing, DestinationUnavailable, PipelineError, SettingsError
from pipeline_processing.log import get_logger
from pipeline_processing.plan import UploadedPart, UploadRef
from pipeline_processing.settings.settings import S3Settings
from pipeline_processing.telemetry.spans import child_span
from pipeline_processing.usage import current_usage

AS_THE_SETTINGS_SAY = S3ConnectionOptions()

C = TypeVar("C", bound="S3Client")

log = get_logger(__name__)

# Limits all tries together. botocore's timeouts apply to each try, but not while it sends.
_CALL_SECONDS = 90.0
_WHOLE = "FULL_OBJECT"
_CHECKSUMS = frozenset(("ChecksumCRC32", "ChecksumSHA256"))
_SLOWEST_BYTES_PER_SECOND = 256 * 1024


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """An object's properties. Metadata keys are in lower case; `etag` is None where it can't be an MD5."""

    size: int
    metadata: Mapping[str, str]
    etag: str | None
    crc32: str | None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A multipart upload. `has_whole_crc32` says whether the store checks a CRC32 of all bytes at completion."""

    id: str
    has_whole_crc32: bool = False


class S3Client:
    """
    A connection pool to one S3 endpoint, opened and closed by a block. Keys include the destination's prefix.

    Every call may raise DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError or InternalError.
    Each call's docstring names the subclasses of these that a caller may handle.
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
        learned: Learned = lambda secrets: None,
    ) -> None:
        """
        Values that are None come from the usual AWS chain; but with a key and a secret, None means no token. With a
        `role`, the credentials are used to assume it. `learned` is called with the secrets of credentials that aren't
        given here.
        """
        self._open = partial(
            open_client,
            endpoint_url=endpoint_url,
            region=region,
            keys=Keys(access_key_id, secret_access_key, session_token),
            addressing_style=addressing_style,
            role=role,
            learned=learned,
        )
        self._keeps_composites = False
        """Whether the store keeps no CRC32 of the whole object, but one of its parts' CRC32s."""
        self._seen: set[str] = set()
        """Buckets that existed before. If one is missing now, it may come back."""
        self._cleanup = AsyncExitStack()
        self._client: Any = None
        self._direct: DirectRequests

    async def __aenter__(self) -> Self:
        self._client, self._direct = await self._cleanup.enter_async_context(self._open())
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
        """Write a small object unless the key is taken. Raises AlreadyThere, ConditionalConflict."""
        arguments = creation_arguments(content_type=content_type, metadata=metadata, options=options)
        arguments |= _checksum_of(body, options)
        await self._if_absent("put_object", "write", bucket, key, body=body, **arguments)

    async def replace_object(
        self,
        *,
        bucket: str,
        key: str,
        body: bytes,
        etag: str,
        content_type: str,
        metadata: Mapping[str, str],
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
    ) -> None:
        """
        Write a small object over the one with this ETag.

        Raises AlreadyThere if there is another one, ObjectMissing if there is none, or ConditionalConflict.
        """
        arguments = creation_arguments(content_type=content_type, metadata=metadata, options=options)
        arguments |= _checksum_of(body, options)
        put = partial(self._call, "put_object", "replace", bucket, key, body=body, needs="ETag", **arguments)
        try:
            await put(IfMatch=etag)
        except Unsupported:  # as in `_if_absent`, it isn't atomic then
            await put()

    async def create_multipart_upload(
        self,
        *,
        bucket: str,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT,
    ) -> NewUpload:
        """Start an upload, if possible of an object whose CRC32 is that of all its bytes."""
        arguments = creation_arguments(content_type=content_type, metadata=metadata, options=options)
        arguments |= {"ChecksumAlgorithm": options.checksum.upper(), "needs": "UploadId"}
        call = partial(self._call, "create_multipart_upload", "start the upload of", bucket, key)
        if options.checksum != "crc32" or self._keeps_composites:
            return NewUpload((await call(**arguments))["UploadId"])
        try:
            answer = await call(**arguments, ChecksumType=_WHOLE)
        except SettingsError:
            answer = await call(**arguments)  # refused again if the reason was another
        upload = NewUpload(answer["UploadId"], has_whole_crc32=answer.get("ChecksumType") == _WHOLE)
        if not upload.has_whole_crc32 and not self._keeps_composites:
            self._keeps_composites = True
            log.info("s3_checks_parts_only", url=f"s3://{bucket}", endpoint=self._client.meta.endpoint_url)
        return upload

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
        """Send one part, which the store checks against `sha256`, or else `crc32`. Raises UploadGone."""
        arguments = {"UploadId": upload_id, "PartNumber": number, **checksum_argument(crc32=crc32, sha256=sha256)}
        doing = f"send part {number} of"
        current_usage().part_retries -= 1  # the first request is none
        answer = await self._call("upload_part", doing, bucket, key, body=body, needs="ETag", **arguments)
        return UploadedPart(number=number, etag=answer["ETag"], crc32=crc32, sha256=sha256)

    async def complete_multipart_upload_if_absent(
        self, *, bucket: str, key: str, upload_id: str, parts: Sequence[UploadedPart], crc32: str | None = None
    ) -> None:
        """
        Make an upload visible unless the key is taken, or its bytes don't have this CRC32.

        Raises UploadGone, AlreadyThere, ConditionalConflict, or UnexpectedAnswer if the store has other bytes.
        """
        named = [
            {"PartNumber": part.number, "ETag": part.etag, **checksum_argument(crc32=part.crc32, sha256=part.sha256)}
            for part in parts
        ]
        arguments: dict[str, Any] = {"UploadId": upload_id, "MultipartUpload": {"Parts": named}}
        if crc32 is not None:
            arguments |= {"ChecksumType": _WHOLE, "ChecksumCRC32": crc32}
        await self._if_absent("complete_multipart_upload", "complete the upload of", bucket, key, **arguments)

    async def abort_multipart_upload(self, *, bucket: str, key: str, upload_id: str) -> None:
        """Remove an upload. Raises UploadGone."""
        await self._call("abort_multipart_upload", "abort the upload of", bucket, key, UploadId=upload_id)

    async def head_object(self, *, bucket: str, key: str) -> ObjectHead:
        """Return an object's properties. Raises ObjectMissing."""
        answer = await self._call("head_object", "look at", bucket, key, needs="ETag", ChecksumMode="ENABLED")
        return ObjectHead(
            size=answer.get("ContentLength", 0),  # some stores omit it for an empty object
            metadata={name.lower(): value for name, value in answer["Metadata"].items()},
            # Under KMS it may look like an MD5, but isn't the MD5 of the content.
            etag=None if "kms" in answer.get("ServerSideEncryption", "") else answer["ETag"],
            crc32=answer.get("ChecksumCRC32"),
            sha256=answer.get("ChecksumSHA256"),
        )

    async def get_object(self, *, bucket: str, key: str) -> bytes:
        """Return the content of a small object. Raises ObjectMissing."""
        body, _ = await self.get_version(bucket=bucket, key=key)
        return body

    async def get_version(self, *, bucket: str, key: str) -> tuple[bytes, str]:
        """Return the content of a small object, and its ETag. Raises ObjectMissing."""

        async def read() -> dict[str, Any]:
            answer: dict[str, Any] = await self._client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as stream:
                return {**answer, "Body": bytes(await stream.read())}

        try:
            with self._span("get_object", bucket, key):
                answer = await self._answer(read(), "read", bucket, key, needs="ETag")
        except ObjectMissing:
            self._seen.add(bucket)
            raise
        return bytes(answer["Body"]), str(answer["ETag"])

    async def require_bucket(self, *, bucket: str) -> None:
        """Raise BucketMissing if the bucket doesn't exist, or DestinationUnavailable if it existed before."""
        # The answer to HEAD has no error code.
        with self._span("head_bucket", bucket):
            await self._answer(self._client.head_bucket(Bucket=bucket), "look at", bucket, missing=BucketMissing)

    async def delete_object(self, *, bucket: str, key: str) -> None:
        await self._call("delete_object", "delete", bucket, key)

    async def pending_uploads(self, *, bucket: str, prefix: str = "") -> AsyncIterator[UploadRef]:
        """Yield all incomplete uploads whose keys begin with `prefix`, fetched page by page."""
        pages = aiter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix))
        while page := await self._answer(anext(pages, {}), "list the uploads in", bucket, prefix):
            for upload in page.get("Uploads", []):
                for field in ("UploadId", "Key"):
                    check_answer(upload, needs=field, doing="list the uploads in", url=f"s3://{bucket}/{prefix}")
                yield UploadRef(key=upload["Key"], upload_id=upload["UploadId"])

    async def _if_absent(
        self, operation: str, doing: str, bucket: str, key: str, *, body: bytes | None = None, **arguments: Any
    ) -> Any:
        arguments = {"body": body, "needs": "ETag", **arguments}
        try:
            return await self._call(operation, doing, bucket, key, IfNoneMatch="*", **arguments)
        except Unsupported:
            # The store rejects If-None-Match, so look first. That isn't atomic: it is safe only as long as a single
            # installation writes below the prefix, which `_installation.json` guards.
            try:
                await self.head_object(bucket=bucket, key=key)
            except ObjectMissing:
                return await self._call(operation, doing, bucket, key, **arguments)
            raise AlreadyThere(f"s3://{bucket}/{key} already exists") from None

    async def _call(
        self,
        operation: str,
        doing: str,
        bucket: str,
        key: str,
        *,
        body: Data | None = None,
        needs: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Run one operation on an object. See `_answer`. Raises UnexpectedAnswer if the store got other bytes."""
        seconds = _CALL_SECONDS
        if body is not None:
            seconds += len(body) / _SLOWEST_BYTES_PER_SECOND

        async def ask() -> Any:
            answer = await self._direct.send(operation, bucket, key, body=body, arguments=arguments)
            if answer is not None:
                return answer
            content = {} if body is None else {"Body": Body(body)}
            return await getattr(self._client, operation)(Bucket=bucket, Key=key, **content, **arguments)

        with self._span(operation, bucket, key) as span:
            if span.is_recording():
                if body is not None:
                    span.set_attribute("http.request.body.size", len(body))
                if (number := arguments.get("PartNumber")) is not None:
                    span.set_attribute("aws.s3.part_number", number)
            answer = await self._answer(ask(), doing, bucket, key, needs=needs, seconds=seconds)
        for name in _CHECKSUMS & arguments.keys():
            if answer.get(name, arguments[name]) != arguments[name]:  # many stores report none
                cause = "the store received other bytes than it was sent"
                raise UnexpectedAnswer(f"Can't {doing} s3://{bucket}/{key}: {cause}. This is retried.")
        return answer

    def _span(self, operation: str, bucket: str, key: str = "") -> AbstractContextManager[Span]:
        """Record a request. That an object doesn't exist is an answer, not a failure."""
        method: str = self._client.meta.method_to_api_mapping[operation]
        attributes = {"rpc.system.name": "aws-api", "rpc.method": f"S3/{method}", "aws.s3.bucket": bucket}
        if key:
            attributes["aws.s3.key"] = key
        return child_span(f"S3.{method}", kind=SpanKind.CLIENT, attributes=attributes, expected=ObjectMissing)

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
        Await the answer to a request, for at most `seconds`. Raises the errors of `translated`.

        `needs` names a field that S3 includes in every answer to this request.
        """
        url = f"s3://{bucket}" if key is None else f"s3://{bucket}/{key}"
        try:
            with translated(doing=doing, url=url, missing=missing):
                async with asyncio.timeout(seconds):
                    answer = await question
        except BucketMissing as error:
            if bucket not in self._seen:
                raise
            raise DestinationUnavailable(f"{error} The bucket existed before, so this is retried.") from error
        check_answer(answer, needs=needs, doing=doing, url=url)
        self._seen.add(bucket)
        return answer


def _checksum_of(body: bytes, options: S3ObjectOptions) -> dict[str, str]:
    sha256 = sha256_of(body) if options.checksum == "sha256" else None
    return checksum_argument(crc32=crc32_of(body), sha256=sha256)


def s3_client(
    settings: S3Settings,
    options: S3ConnectionOptions = AS_THE_SETTINGS_SAY,
    *,
    learned: Learned = lambda secrets: None,
    kind: Callable[..., C] = S3Client,  # type: ignore[assignment]  # mypy: C is S3Client only by default
) -> C:
    """Return the client that the settings and a destination's options describe; `learned` as in `S3Client`."""
    role = options.role_arn and AssumedRole(
        arn=options.role_arn, session_name=options.role_session_name, external_id=options.external_id
    )
    return kind(
        endpoint_url=options.endpoint_url or settings.endpoint_url,
        region=options.region or settings.region,
        access_key_id=settings.access_key_id.get_secret_value() if settings.access_key_id else None,
        secret_access_key=settings.secret_access_key,
        session_token=settings.session_token,
        addressing_style=options.addressing_style or settings.addressing_style,
        role=role or None,
        learned=learned,
    )
