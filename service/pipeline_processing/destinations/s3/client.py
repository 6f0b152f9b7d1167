"""The few calls of S3 that the destination needs, typed, bounded in time, and with errors of our own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, Self

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession, get_session
from botocore.handlers import add_expect_header
from pydantic import SecretStr

from pipeline_processing.destinations.s3.answers import Buckets, check_answer
from pipeline_processing.destinations.s3.body import Body
from pipeline_processing.destinations.s3.checksums import checksum_argument, crc32_of, sha256_of
from pipeline_processing.destinations.s3.creation import AS_THE_BUCKET_HAS_IT, creation_arguments
from pipeline_processing.destinations.s3.errors import (
    AlreadyThere,
    ObjectMissing,
    Unsupported,
    bucket_missing,
    translated,
)
from pipeline_processing.destinations.s3.options import S3ConnectionOptions, S3ObjectOptions
from pipeline_processing.destinations.s3.role import AssumedRole, session_of
from pipeline_processing.errors import SettingsError
from pipeline_processing.model import UploadedPart
from pipeline_processing.settings.settings import S3Settings

AS_THE_SETTINGS_SAY = S3ConnectionOptions()
AddressingStyle = Literal["auto", "path", "virtual"]

# A server that can't be reached is given up after 3 connects of 3 s and 2 pauses of 2 s at most.
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 20.0
_TRIES = 3
# botocore limits each try, and no try while it sends. This limits all of them together.
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


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """An incomplete multipart upload."""

    key: str
    upload_id: str


class S3Client:
    """
    A connection pool to one S3 endpoint, as a block. Keys are whole, buckets are named in every call.

    Every call raises DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError,
    InternalError, or the S3Answer that it names.
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
        learned: Callable[[Iterable[str]], None] = lambda secrets: None,
    ) -> None:
        """
        What is None comes from the usual AWS chain, except that with a key and a secret no token means that there is
        none. With a `role`, the credentials are for assuming it. `connections` is the most that are open at once.
        `learned` is told the secrets among credentials that aren't given here.
        """
        self._learned = learned
        self._endpoint_url = endpoint_url
        self._region = region
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key
        self._session_token = session_token
        self._role = role
        network = {
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
        }
        self._role_config = network
        self._config = {
            **network,
            "s3": {
                "addressing_style": addressing_style,
                # Every body carries a checksum. To sign it as well would take SHA-256 on the event loop, more
                # than all the rest of an upload; against tampering on the way there is TLS.
                "payload_signing_enabled": False,
            },
            "request_checksum_calculation": "when_required",  # ours are there already
            "response_checksum_validation": "when_required",
            "max_pool_connections": connections,
        }
        self._buckets = Buckets()
        self._cleanup = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        url = self._endpoint_url or "S3"
        with translated(doing="open a client for", url=url):
            session, credentials = await self._session()
            try:
                self._client = await self._cleanup.enter_async_context(
                    session.create_client(
                        "s3",
                        endpoint_url=self._endpoint_url,
                        region_name=self._region,
                        config=AioConfig(**self._config),
                        **credentials,
                    )
                )
            except ValueError as error:  # botocore's way to say that a URL isn't one
                raise SettingsError(
                    f"Can't open a client for {url}: {error}. Correct PIPELINE_S3__ENDPOINT_URL, or the destination's "
                    "`endpoint_url`."
                ) from error
        # With `Expect: 100-continue` each part would wait for a reply before it is sent, and for ever if
        # the store never gives one. Access is checked when an upload is created, so it would save nothing.
        self._client.meta.events.unregister("before-call.s3", add_expect_header)
        self._client.meta.events.register("before-call.s3.HeadBucket", _never_redirected)
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
        await self._if_absent("put_object", doing="write", bucket=bucket, key=key, body=body, arguments=arguments)

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
        answer = await self._call(
            "create_multipart_upload",
            doing="start the upload of",
            bucket=bucket,
            key=key,
            needs="UploadId",
            ChecksumAlgorithm=options.checksum.upper(),
            **creation_arguments(content_type=content_type, metadata=metadata, options=options),
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
        answer = await self._call(
            "upload_part",
            doing=f"send part {number} of",
            bucket=bucket,
            key=key,
            body=body,
            needs="ETag",
            UploadId=upload_id,
            PartNumber=number,
            **checksum_argument(crc32=crc32, sha256=sha256),
        )
        return UploadedPart(number=number, etag=answer["ETag"], crc32=crc32, sha256=sha256)

    async def complete_multipart_upload_if_absent(
        self, *, bucket: str, key: str, upload_id: str, parts: Sequence[UploadedPart]
    ) -> None:
        """Make an upload visible unless there is an object. Raises UploadGone, and as the PUT does."""
        named = [
            {
                "PartNumber": part.number,
                "ETag": part.etag,
                **checksum_argument(crc32=part.crc32, sha256=part.sha256),
            }
            for part in parts
        ]
        await self._if_absent(
            "complete_multipart_upload",
            doing="complete the upload of",
            bucket=bucket,
            key=key,
            arguments={"UploadId": upload_id, "MultipartUpload": {"Parts": named}},
        )

    async def abort_multipart_upload(self, *, bucket: str, key: str, upload_id: str) -> None:
        """Remove an upload. Raises UploadGone."""
        await self._call(
            "abort_multipart_upload", doing="abort the upload of", bucket=bucket, key=key, UploadId=upload_id
        )

    async def head_object(self, *, bucket: str, key: str) -> ObjectHead:
        """Raises ObjectMissing."""
        answer = await self._call(
            "head_object", doing="look at", bucket=bucket, key=key, needs="ETag", ChecksumMode="ENABLED"
        )
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
        doing, url = "read", f"s3://{bucket}/{key}"
        try:
            with self._buckets.answering(bucket, doing=doing, url=url):
                async with asyncio.timeout(_CALL_SECONDS):
                    answer = await self._client.get_object(Bucket=bucket, Key=key)
                    async with answer["Body"] as stream:
                        check_answer(answer, needs="ETag", doing=doing, url=url)
                        return bytes(await stream.read())
        except ObjectMissing:
            self._buckets.seen(bucket)
            raise

    async def require_bucket(self, *, bucket: str) -> None:
        """Raises BucketMissing, or DestinationUnavailable where the bucket was there before."""
        url = f"s3://{bucket}"
        with self._buckets.answering(bucket, doing="look at", url=url):
            async with asyncio.timeout(_CALL_SECONDS):
                try:
                    with translated(doing="look at", url=url):
                        answer = await self._client.head_bucket(Bucket=bucket)
                except ObjectMissing as missing:  # HEAD has no code
                    raise bucket_missing(missing) from missing
                check_answer(answer, needs=None, doing="look at", url=url)

    async def delete_object(self, *, bucket: str, key: str) -> None:
        await self._call("delete_object", doing="delete", bucket=bucket, key=key)

    async def pending_uploads(self, *, bucket: str, prefix: str = "") -> AsyncIterator[PendingUpload]:
        """All incomplete uploads whose keys begin with `prefix`, asked for page by page."""
        doing, url = "list the uploads in", f"s3://{bucket}/{prefix}"
        pages = aiter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix))
        while True:
            with self._buckets.answering(bucket, doing=doing, url=url):
                async with asyncio.timeout(_CALL_SECONDS):
                    page = await anext(pages, None)
                if page is None:
                    return
                check_answer(page, needs=None, doing=doing, url=url)
            uploads: Iterable[Mapping[str, Any]] = page.get("Uploads", [])
            for each in uploads:
                check_answer(each, needs="UploadId", doing=doing, url=url)
                check_answer(each, needs="Key", doing=doing, url=url)
                yield PendingUpload(key=each["Key"], upload_id=each["UploadId"])

    async def _session(self) -> tuple[AioSession, Mapping[str, str | None]]:
        """The session to open the client in, and the credentials to do so with; none if the session has its own."""
        key, secret, token = self._access_key_id, _shown(self._secret_access_key), _shown(self._session_token)
        if self._role is None:
            session = get_session()
            if not key and (found := await session.get_credentials()) is not None:
                frozen = await found.get_frozen_credentials()
                self._learned(filter(None, (frozen.secret_key, frozen.token)))
            return session, {
                "aws_access_key_id": key,
                "aws_secret_access_key": secret,
                "aws_session_token": token,
            }
        given = AioCredentials(key, secret, token) if key and secret else None
        return await session_of(
            self._role, credentials=given, region=self._region, config=self._role_config, learned=self._learned
        ), {}

    async def _if_absent(
        self,
        operation: str,
        *,
        doing: str,
        bucket: str,
        key: str,
        arguments: Mapping[str, Any],
        body: bytes | None = None,
    ) -> None:
        try:
            await self._call(
                operation, doing=doing, bucket=bucket, key=key, body=body, needs="ETag", IfNoneMatch="*", **arguments
            )
        except Unsupported:
            # Stores that say so rather than ignore the header: look first. Not atomic, so the promise holds
            # as long as only one installation writes below the prefix, which `_installation.json` guards.
            try:
                await self.head_object(bucket=bucket, key=key)
            except ObjectMissing:
                await self._call(operation, doing=doing, bucket=bucket, key=key, body=body, needs="ETag", **arguments)
            else:
                raise AlreadyThere(f"s3://{bucket}/{key} is there already") from None

    async def _call(
        self,
        operation: str,
        *,
        doing: str,
        bucket: str,
        key: str,
        body: bytes | bytearray | None = None,
        needs: str | None = None,
        **arguments: Any,
    ) -> Any:
        """`needs` names a field that every answer of S3 to this operation has."""
        seconds, url = _CALL_SECONDS, f"s3://{bucket}/{key}"
        if body is not None:
            arguments["Body"] = Body(body)
            seconds += len(body) / _SLOWEST_BYTES_PER_SECOND
        with self._buckets.answering(bucket, doing=doing, url=url):
            async with asyncio.timeout(seconds):
                answer = await getattr(self._client, operation)(Bucket=bucket, Key=key, **arguments)
            check_answer(answer, needs=needs, doing=doing, url=url)
        return answer


def s3_client(
    settings: S3Settings,
    options: S3ConnectionOptions = AS_THE_SETTINGS_SAY,
    *,
    learned: Callable[[Iterable[str]], None] = lambda secrets: None,
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


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _never_redirected(params: Mapping[str, Any], **_: object) -> None:
    """
    botocore answers a redirect by asking HeadBucket for the bucket's region, and a redirect of that by asking again,
    without end: where everything is redirected, as from http to https, or to a portal's page.
    """
    params["context"].get("s3_redirect", {})["redirected"] = True
