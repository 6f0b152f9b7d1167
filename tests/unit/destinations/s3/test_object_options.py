"""What a destination's options put into requests: all that create an object, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.objects import crc32_of, sha256_of
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.errors import ConflictingObjects
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact, UploadRef
from pipeline_processing.ports import Content
from tests.unit.destinations.s3.recording_store import Recorded, RecordingStore

METADATA = {"run-id": "r-1", "agency-id": "7", "attempt": "1", "trace-id": "0" * 32}
INSTALLATION = UUID("0192fe62-5a17-7cc0-8a4e-64d3f0a7c001")
MIB = 1024 * 1024
OPTIONS = (
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-tagging",
)
KMS = S3ObjectOptions(sse="aws:kms", kms_key_id="arn:aws:kms:us-east-1:123456789012:key/k")


@pytest.fixture
async def store() -> AsyncIterator[RecordingStore]:
    async with RecordingStore() as running:
        yield running


async def ignore(upload: UploadRef) -> None:
    pass


async def stage(destination: S3Destination, body: bytes, *, key: str = "part-00000.csv") -> Artifact:
    async with destination.open(key, Content(dataset="d"), metadata=METADATA, on_started=ignore) as upload:
        await upload.write(body)
        sealed = await upload.seal()
    return Artifact(
        key=key,
        dataset="d",
        format=FormatName.CSV,
        compression=Compression.NONE,
        rows=1,
        size=sealed.size,
        sha256=sealed.sha256,
        staged=sealed.staged,
    )


async def everything(store: RecordingStore, options: S3ObjectOptions) -> None:
    """All kinds of objects: an upload of two parts, inline content, a manifest and the mark."""
    async with store.client() as client:
        destination = S3Destination(
            client=client,
            bucket="b",
            prefix="p",
            budget=ByteBudget(64 * MIB),
            part_size=5 * MIB,
            options=options,
        )
        await destination.mark_installation(INSTALLATION)
        for body, key in ((bytes(6 * MIB), "large.csv"), (b"a\n1\n", "small.csv")):
            await destination.complete(await stage(destination, body, key=key), metadata=METADATA)
        await destination.publish("_manifest.json", b"{}", metadata=METADATA)


def creating(store: RecordingStore) -> dict[str, Recorded]:
    """The requests that create objects, by key below the prefix."""
    requests = store.asked("CreateMultipartUpload") + store.asked("PutObject")
    return {request.key.removeprefix("p/"): request for request in requests}


ALL = {"large.csv", "small.csv", "_manifest.json", "_installation.json"}


async def test_without_options_everything_is_as_the_bucket_has_it(store: RecordingStore) -> None:
    """No header says anything else."""
    await everything(store, S3ObjectOptions())
    assert creating(store).keys() == ALL
    assert not [name for request in store.requests for name in OPTIONS if name in request.headers]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (S3ObjectOptions(storage_class="STANDARD_IA"), {"x-amz-storage-class": "STANDARD_IA"}),
        (S3ObjectOptions(sse="AES256"), {"x-amz-server-side-encryption": "AES256"}),
        (S3ObjectOptions(sse="aws:kms"), {"x-amz-server-side-encryption": "aws:kms"}),
        (
            KMS,
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": KMS.kms_key_id,
            },
        ),
        (S3ObjectOptions(tags={"team": "a b", "é": ""}), {"x-amz-tagging": "team=a%20b&%C3%A9="}),
    ],
    ids=["storage class", "SSE-S3", "SSE-KMS", "SSE-KMS with a key", "tags"],
)
async def test_every_object_is_created_with_the_options(
    store: RecordingStore, options: S3ObjectOptions, expected: dict[str, str]
) -> None:
    """Parts and completions must not repeat them: S3 refuses that."""
    await everything(store, options)
    assert creating(store).keys() == ALL
    for request in creating(store).values():
        assert {name: request.headers[name] for name in OPTIONS if name in request.headers} == expected
    for request in store.asked("UploadPart") + store.asked("CompleteMultipartUpload"):
        assert not [name for name in OPTIONS if name in request.headers]


async def test_tags_name_the_run(store: RecordingStore) -> None:
    """By what the object's metadata says; the mark is no run's, and has the other tags only."""
    await everything(store, S3ObjectOptions(tags={"agency": "{agency_id}", "run": "x/{run_id}", "team": "a"}))
    tags = {
        key: {name: values[0] for name, values in parse_qs(request.headers["x-amz-tagging"]).items()}
        for key, request in creating(store).items()
    }
    assert tags.pop("_installation.json") == {"team": "a"}
    assert list(tags.values()) == [{"agency": "7", "run": "x/r-1", "team": "a"}] * 3


@pytest.mark.parametrize("archive", ["GLACIER", "DEEP_ARCHIVE"])
async def test_what_is_read_again_stays_out_of_archives(store: RecordingStore, archive: str) -> None:
    """A manifest is compared with when it is published again, and the mark before each run."""
    await everything(store, S3ObjectOptions.model_validate({"storage_class": archive, "sse": "AES256"}))
    classes = {key: request.headers.get("x-amz-storage-class") for key, request in creating(store).items()}
    assert classes == {
        "large.csv": archive,
        "small.csv": archive,
        "_manifest.json": None,
        "_installation.json": None,
    }
    assert all(request.headers["x-amz-server-side-encryption"] == "AES256" for request in creating(store).values())


@pytest.mark.parametrize("checksum", ["crc32", "sha256"])
async def test_every_byte_is_sent_with_its_checksum(store: RecordingStore, checksum: str) -> None:
    """Of one kind throughout, or S3 would refuse the completion; and nothing is ever called encoded."""
    await everything(store, S3ObjectOptions.model_validate({"checksum": checksum}))
    of_bytes = {"crc32": crc32_of, "sha256": sha256_of}[checksum]
    (created,) = store.asked("CreateMultipartUpload")
    assert created.headers["x-amz-checksum-algorithm"] == checksum.upper()
    parts = [request for request in store.asked("UploadPart") if request.body]
    assert sorted(len(part.body) for part in parts) == [MIB, 5 * MIB]
    for request in [*parts, *store.asked("PutObject")]:
        sent = {name: value for name, value in request.headers.items() if name.startswith("x-amz-checksum-")}
        assert sent == {f"x-amz-checksum-{checksum}": of_bytes(request.body)}
    (completed,) = store.asked("CompleteMultipartUpload")
    tag = f"Checksum{checksum.upper()}"
    assert [f"<{tag}>{of_bytes(part.body)}</{tag}>" in completed.body.decode() for part in parts] == [True, True]
    assert completed.body.count(b"<Checksum") == 2
    assert not [request for request in store.requests if "content-encoding" in request.headers]


async def test_content_types_follow_from_the_key(store: RecordingStore) -> None:
    """So that a browser shows the text as UTF-8."""
    await everything(store, S3ObjectOptions())
    types = {key: request.headers["content-type"] for key, request in creating(store).items()}
    assert types == {
        "large.csv": "text/csv; charset=utf-8",
        "small.csv": "text/csv; charset=utf-8",
        "_manifest.json": "application/json",
        "_installation.json": "application/json",
    }


@pytest.mark.parametrize("reports_checksums", [True, False], ids=["with checksums", "without"])
async def test_under_kms_an_object_is_known_without_its_etag(store: RecordingStore, reports_checksums: bool) -> None:
    """It looks like an MD5 there and isn't one; ours means done, and what differs in size doesn't."""
    async with store.client() as client:
        destination = S3Destination(client=client, bucket="b", prefix="p", budget=ByteBudget(64 * MIB), options=KMS)
        artifact = await stage(destination, b"a\n1\n")
        await destination.complete(artifact, metadata=METADATA)
        body, headers = store.objects["p/part-00000.csv"]
        if not reports_checksums:
            headers.pop("x-amz-checksum-crc32")

        await destination.complete(artifact, metadata=METADATA)

        store.objects["p/part-00000.csv"] = (body + b"2\n", headers)
        with pytest.raises(ConflictingObjects, match="bytes"):
            await destination.complete(artifact, metadata=METADATA)


async def test_a_plan_is_completed_as_it_was_made(store: RecordingStore) -> None:
    """The options may have changed since: the parts have the checksums that they were sent with."""

    def destination(checksum: str) -> S3Destination:
        return S3Destination(
            client=client,
            bucket="b",
            prefix="p",
            budget=ByteBudget(64 * MIB),
            options=S3ObjectOptions.model_validate({"checksum": checksum}),
        )

    async with store.client() as client:
        made = await stage(destination("sha256"), bytes(2 * MIB))
        await destination("crc32").complete(made, metadata=METADATA)
    (completed,) = store.asked("CompleteMultipartUpload")
    assert sha256_of(bytes(2 * MIB)) in completed.body.decode()


async def sent_for(store: RecordingStore, body: bytes) -> None:
    """Two uploads, of two parts each, and their completion."""
    async with store.client() as client:
        destination = S3Destination(client=client, bucket="b", prefix="p", budget=ByteBudget(64 * MIB), inline_limit=1)
        for key in ("a.csv", "b.csv"):
            await destination.complete(await stage(destination, body, key=key), metadata=METADATA)


async def test_a_store_that_knows_it_checks_the_crc32_of_all_bytes(store: RecordingStore) -> None:
    """At completion, which names it and its kind."""
    store.knows_whole_crc32 = True
    body = bytes(9 * MIB) + b"end"
    await sent_for(store, body)
    assert [each.headers["x-amz-checksum-type"] for each in store.asked("CreateMultipartUpload")] == ["FULL_OBJECT"] * 2
    for completed in store.asked("CompleteMultipartUpload"):
        assert completed.headers["x-amz-checksum-crc32"] == crc32_of(body)
        assert completed.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    parts = store.asked("UploadPart")
    assert [each.headers["x-amz-checksum-crc32"] for each in parts] == [crc32_of(each.body) for each in parts]


@pytest.mark.parametrize("refusal", [None, (400, "InvalidArgument"), (501, "NotImplemented")])
async def test_a_store_that_doesnt_know_it_is_asked_once(
    store: RecordingStore, refusal: tuple[int, str] | None
) -> None:
    """It checks each part, as all stores do; the log says so once."""
    store.refuses_whole_crc32 = refusal
    with capture_logs() as logs:
        await sent_for(store, bytes(9 * MIB))
    assert [line["event"] for line in logs] == ["s3_checks_parts_only"]
    kinds = [each.headers.get("x-amz-checksum-type") for each in store.asked("CreateMultipartUpload")]
    assert kinds == ["FULL_OBJECT", *([None] if refusal else []), None]
    for completed in store.asked("CompleteMultipartUpload"):
        assert "x-amz-checksum-crc32" not in completed.headers
    parts = store.asked("UploadPart")
    assert [each.headers["x-amz-checksum-crc32"] for each in parts] == [crc32_of(each.body) for each in parts]
