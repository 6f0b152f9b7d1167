"""
Whether an S3 store keeps what the destination relies on.

Everything is written below `_doctor/` of the destination's prefix, which readers of tables skip, and removed again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.s3.errors import (
    AlreadyThere,
    ObjectMissing,
    UnexpectedAnswer,
    Unsupported,
    UploadGone,
)
from pipeline_processing.destinations.s3.objects import crc32_of, sha256_of
from pipeline_processing.destinations.s3.options import S3DestinationConfig
from pipeline_processing.destinations.s3.strict import StrictS3Client
from pipeline_processing.doctor.checking import Advice, Check, Shortfall, Skipped, Verify
from pipeline_processing.errors import AccessDenied, DestinationUnavailable, PipelineError, SettingsError, Throttled
from pipeline_processing.log import get_logger
from pipeline_processing.plan import UploadedPart, UploadRef

log = get_logger(__name__)

_METADATA = {"run-id": "doctor", "agency-id": "1", "attempt": "1", "trace-id": "0" * 32}
_FIRST_PART = bytes(5 * 1024 * 1024)
"""The smallest part that S3 accepts before another one."""
_LAST_PART = b"the end\n"
_REFUSALS = (DestinationUnavailable, SettingsError)
"""How a store may refuse bytes that don't match their checksum."""
_SUPPORTING_STORE = "Use a store, or a version of it, that supports it, without a proxy that removes headers."
_CLEAN_UP_SECONDS = 5.0

LongestRun = Callable[[], Awaitable[timedelta | None]]


class Bucket:
    """A place below a destination's prefix, and what was written there."""

    def __init__(
        self, client: StrictS3Client, options: S3DestinationConfig, *, verify: Verify, longest_run: LongestRun
    ) -> None:
        """`verify` raises ForeignPrefix, or Skipped; `longest_run` is the longest run of the history, if known."""
        self.client = client
        self.bucket = options.bucket
        self.prefix = "/".join(filter(None, (options.prefix.strip("/"), "_doctor", uuid4().hex)))
        self.uses_sha256 = options.checksum == "sha256"
        # An archive would charge for months of storage.
        self.options = options.model_copy(update={"storage_class": None})
        self.verify = verify
        self.longest_run = longest_run
        self.left: set[str] = set()
        """Keys of objects that have yet to be deleted."""
        self.has_written = False
        """Whether something may have to be removed."""

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    async def put(self, name: str, body: bytes) -> None:
        self.has_written = True
        self.left.add(self.key(name))
        await self.client.put_object_if_absent(
            bucket=self.bucket,
            key=self.key(name),
            body=body,
            content_type="text/plain",
            metadata=_METADATA,
            options=self.options,
        )

    async def start(self, name: str) -> tuple[str, bool]:
        """Start an upload. Returns its id, and whether the store will check a CRC32 of the whole object."""
        self.has_written = True
        new = await self.client.create_multipart_upload(
            bucket=self.bucket,
            key=self.key(name),
            content_type="text/plain",
            metadata=_METADATA,
            options=self.options,
        )
        return new.id, new.has_whole_crc32

    async def send(self, name: str, upload_id: str, number: int, body: bytes, *, crc32: str = "") -> UploadedPart:
        """Send a part, with a checksum of other bytes if `crc32` is given."""
        sha256 = sha256_of(b"other" if crc32 else body) if self.uses_sha256 else None
        return await self.client.upload_part(
            bucket=self.bucket,
            key=self.key(name),
            upload_id=upload_id,
            number=number,
            body=body,
            crc32=crc32 or crc32_of(body),
            sha256=sha256,
        )

    async def complete(
        self, name: str, upload_id: str, parts: Sequence[UploadedPart], *, crc32: str | None = None
    ) -> None:
        self.left.add(self.key(name))
        await self.client.complete_multipart_upload_if_absent(
            bucket=self.bucket, key=self.key(name), upload_id=upload_id, parts=parts, crc32=crc32
        )

    async def abort(self, name: str, upload_id: str) -> None:
        await self.client.abort_multipart_upload(bucket=self.bucket, key=self.key(name), upload_id=upload_id)

    async def uploads(self) -> list[UploadRef]:
        return [upload async for upload in self.client.pending_uploads(bucket=self.bucket, prefix=f"{self.prefix}/")]

    async def exists(self, name: str) -> bool:
        try:
            await self.client.head_object(bucket=self.bucket, key=self.key(name))
        except ObjectMissing:
            return False
        return True

    async def remove_all(self) -> None:
        """Remove what was written. Raises a PipelineError for the first that can't be removed, after trying all."""
        errors: list[PipelineError] = []
        for key in sorted(self.left):
            try:
                await self.client.delete_object(bucket=self.bucket, key=key)
                self.left.discard(key)
            except PipelineError as error:
                errors.append(error)
        try:
            for upload in await self.uploads():
                with suppress(UploadGone):
                    await self.client.abort_multipart_upload(
                        bucket=self.bucket, key=upload.key, upload_id=upload.upload_id
                    )
        except PipelineError as error:
            errors.append(error)
        if errors:
            raise errors[0]
        self.has_written = False


@asynccontextmanager
async def doctors_place(bucket: Bucket) -> AsyncIterator[Bucket]:
    """Remove at the end what the checks have left, also when they are interrupted. Logs what can't be removed."""
    try:
        yield bucket
    finally:
        if bucket.has_written:
            try:
                await shielded(_within(_CLEAN_UP_SECONDS, bucket.remove_all()))
            except (PipelineError, TimeoutError) as error:
                where, why = f"s3://{bucket.bucket}/{bucket.prefix}/", str(error) or "no answer in time"
                log.error("what the checks may have written can't be removed", where=where, error=why)


async def _answers(bucket: Bucket) -> str:
    try:
        await bucket.client.get_object(bucket=bucket.bucket, key=bucket.key("nothing"))
    except ObjectMissing:
        return "the bucket exists, and a missing object is told from one that may not be read"
    raise Shortfall("an object that nobody has written is there")


async def _installation(bucket: Bucket) -> str:
    await bucket.verify()
    return "no other installation writes below the prefix"


async def _conditional_put(bucket: Bucket) -> str:
    try:
        with bucket.client.strictly():
            await bucket.put("put", b"first")
            await bucket.put("put", b"second")
    except AlreadyThere:
        return "a second PUT of a key is refused"
    except Unsupported as error:
        raise Shortfall(f"If-None-Match is refused ({error})") from error
    raise Shortfall("a second PUT with If-None-Match replaced the first one's object")


async def _metadata(bucket: Bucket) -> str:
    await _ensure_put(bucket)
    head = await bucket.client.head_object(bucket=bucket.bucket, key=bucket.key("put"))
    lost = [name for name, value in _METADATA.items() if head.metadata.get(name) != value]
    if lost:
        raise Shortfall(f"an object comes back without its {', '.join(lost)}")
    return "an object comes back with what it was given"


async def _checksums_told(bucket: Bucket) -> str:
    await _ensure_put(bucket)
    head = await bucket.client.head_object(bucket=bucket.bucket, key=bucket.key("put"))
    if head.crc32 is None and head.sha256 is None:
        raise Shortfall("an object comes back without its checksum")
    return "an object comes back with its checksum"


async def _ensure_put(bucket: Bucket) -> None:
    with suppress(AlreadyThere):
        await bucket.put("put", b"first")


async def _part_checksums(bucket: Bucket) -> str:
    upload, _ = await bucket.start("damaged")
    try:
        await bucket.send("damaged", upload, 1, _LAST_PART, crc32=crc32_of(b"other"))
    except Throttled:
        raise
    except _REFUSALS:
        await bucket.send("damaged", upload, 1, _LAST_PART)  # so the refusal was about the checksum
        return "a part that arrives damaged is refused"
    raise Shortfall("a part was accepted with the checksum of other bytes")


async def _multipart(bucket: Bucket) -> str:
    upload, whole = await bucket.start("parts")
    parts = [
        await bucket.send("parts", upload, 1, _FIRST_PART),
        await bucket.send("parts", upload, 2, _LAST_PART),
    ]
    await bucket.complete("parts", upload, parts, crc32=crc32_of(_FIRST_PART + _LAST_PART) if whole else None)
    head = await bucket.client.head_object(bucket=bucket.bucket, key=bucket.key("parts"))
    if head.size != len(_FIRST_PART) + len(_LAST_PART):
        raise Shortfall(f"an object of two parts has {head.size:,} bytes instead of theirs")
    return "two parts become one object"


async def _conditional_complete(bucket: Bucket) -> str:
    await _ensure_put(bucket)
    upload, _ = await bucket.start("put")
    part = await bucket.send("put", upload, 1, _LAST_PART)
    try:
        with bucket.client.strictly():
            await bucket.complete("put", upload, [part])
    except AlreadyThere:
        return "an upload doesn't replace an object"
    except Unsupported as error:
        raise Shortfall(f"If-None-Match is refused when an upload is completed ({error})") from error
    raise Shortfall("an upload that was completed with If-None-Match replaced an object")


async def _whole_checksums(bucket: Bucket) -> str:
    if bucket.uses_sha256:
        raise Skipped("the destination has `checksum: sha256`, which S3 keeps for parts only")
    upload, whole = await bucket.start("mixed-up")
    if not whole:
        raise Shortfall("the store keeps no CRC32 of whole objects, but one of its parts' CRC32s")
    part = await bucket.send("mixed-up", upload, 1, _LAST_PART)
    try:
        await bucket.complete("mixed-up", upload, [part], crc32=crc32_of(b"other"))
    except Throttled:
        raise
    except _REFUSALS:
        if not await bucket.exists("mixed-up"):
            return "an upload is completed only with the right CRC32 of all bytes"
    raise Shortfall("an upload was completed with the CRC32 of other bytes")


async def _listing(bucket: Bucket) -> str:
    upload, _ = await bucket.start("listed")
    found = [each.upload_id for each in await bucket.uploads()]
    if upload not in found:
        raise Shortfall("an incomplete upload isn't listed")
    return "incomplete uploads are listed by prefix"


async def _abort(bucket: Bucket) -> str:
    upload, _ = await bucket.start("aborted")
    await bucket.abort("aborted", upload)
    try:
        await bucket.send("aborted", upload, 1, _LAST_PART)
    except (UploadGone, ObjectMissing):
        return "an aborted upload is gone"
    raise Shortfall("an aborted upload still takes parts")


async def _lifecycle(bucket: Bucket) -> str:
    try:
        rules = await bucket.client.abort_rules(bucket=bucket.bucket)
    except AccessDenied:
        raise Skipped("the rules may not be read: it takes s3:GetLifecycleConfiguration") from None
    except (Unsupported, ObjectMissing):
        rules = []
    days = min((rule.days for rule in rules if f"{bucket.prefix}/".startswith(rule.prefix)), default=None)
    if days is None:
        raise Advice("the bucket has no rule for incomplete uploads")
    longest = await bucket.longest_run()
    if longest is not None and longest >= timedelta(days=days):
        hours = longest / timedelta(hours=1)
        raise Shortfall(
            f"a rule removes incomplete uploads after {days} d, and the longest run took {hours:,.0f} h",
            remedy="Give the rule more days than the longest run takes.",
        )
    return f"a rule removes incomplete uploads after {days} d"


async def _delete(bucket: Bucket) -> str:
    """Also proves that nothing of the doctor's is left."""
    await _ensure_put(bucket)
    await bucket.remove_all()
    if await bucket.exists("put"):
        raise Shortfall(f"an object that was deleted is still there: s3://{bucket.bucket}/{bucket.key('put')}")
    if left := await bucket.uploads():
        raise Shortfall(f"uploads that were aborted are still listed: {', '.join(each.key for each in left)}")
    return "the objects and uploads of these checks are gone"


def _judged(check: Check[Bucket]) -> Check[Bucket]:
    """Return the check, for which an answer that contradicts earlier ones is a shortfall, not an outage."""

    async def run(bucket: Bucket) -> str:
        try:
            return await check.run(bucket)
        except UnexpectedAnswer as error:
            raise Shortfall(str(error)) from error

    return replace(check, run=run)


async def _within(seconds: float, work: Awaitable[None]) -> None:
    async with asyncio.timeout(seconds):
        await work


_CHECKS: Sequence[Check[Bucket]] = (
    Check("reads", _answers, "no run can be published"),
    Check(
        "installation",
        _installation,
        "two histories would publish below one prefix, and replace or remove each other's objects",
    ),
    Check(
        "conditional put",
        _conditional_put,
        "a worker that was cut off could replace a manifest or a small artifact after another has published it "
        "(promises 1 and 4); they hold only while a single installation, without lost workers, writes below the prefix",
        _SUPPORTING_STORE,
    ),
    Check(
        "metadata",
        _metadata,
        "a run can't tell its objects from another's: after a lost reply, it fails with `conflicting_objects`",
        _SUPPORTING_STORE,
    ),
    Check(
        "checksums told",
        _checksums_told,
        "after a lost reply, an object with the right size and other bytes counts as the run's own (promise 1)",
        _SUPPORTING_STORE,
    ),
    Check(
        "multipart",
        _multipart,
        "artifacts of 1 MiB and more can't be published",
        "Allow multipart uploads, and bodies of 64 MiB in every proxy on the way.",
    ),
    Check(
        "part checksums",
        _part_checksums,
        "a part that was damaged on its way is published unnoticed; the manifest's SHA-256 shows it only to readers "
        "who compare it (promise 1)",
        _SUPPORTING_STORE,
    ),
    Check(
        "whole checksums",
        _whole_checksums,
        "parts are checked one by one, but not their order and number when they become an object (promise 1)",
        _SUPPORTING_STORE,
    ),
    Check(
        "conditional complete",
        _conditional_complete,
        "a worker that was cut off could replace a large artifact after another has published it (promises 1 and 4)",
        _SUPPORTING_STORE,
    ),
    Check(
        "listing",
        _listing,
        "`gc` doesn't find the uploads of lost workers, which are paid for",
        "Grant s3:ListBucketMultipartUploads.",
    ),
    Check(
        "abort",
        _abort,
        "uploads of lost and cancelled attempts stay and are paid for",
        "Grant s3:AbortMultipartUpload.",
    ),
    Check(
        "lifecycle",
        _lifecycle,
        "uploads that no history knows stay and are paid for; with fewer days than a run takes, its own are removed",
        "Give the bucket a rule AbortIncompleteMultipartUpload that is longer than the longest run, such as 7 days.",
    ),
    Check(
        "delete",
        _delete,
        "the objects of a run that fails while it is published stay visible",
        "Grant s3:DeleteObject on the prefix.",
    ),
)

CHECKS: Sequence[Check[Bucket]] = tuple(map(_judged, _CHECKS))
