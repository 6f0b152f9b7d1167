"""What stores, and whatever answers in their place, say to each request: never a bug, and never taken for a success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.errors import CredentialsExpired
from pipeline_processing.destinations.s3.objects import crc32_of
from pipeline_processing.destinations.s3.parts import MIB
from pipeline_processing.errors import (
    BucketMissing,
    DestinationUnavailable,
    InternalError,
    PipelineError,
    SettingsError,
)
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact, InlineContent, UploadRef
from pipeline_processing.ports import Content
from tests.unit.destinations.s3.recording_store import Answer, RecordingStore

XHTML = "<html><body>Sign in</body></html>"
"""Well-formed, so that no parser objects."""


@pytest.fixture
async def store() -> AsyncIterator[RecordingStore]:
    async with RecordingStore() as running:
        yield running


def destination_of(client: S3Client) -> S3Destination:
    return S3Destination(client=client, bucket="b", prefix="", budget=ByteBudget(64 * MIB), inline_limit=100)


async def ignore(upload: UploadRef) -> None:
    pass


async def write(destination: S3Destination) -> None:
    """One artifact by way of an upload, and a manifest."""
    async with destination.open("k", Content(dataset="d"), metadata={}, on_started=ignore) as upload:
        await upload.write(bytes(1000))
        sealed = await upload.seal()
    await destination.complete(artifact(sealed.staged), metadata={})
    await destination.publish("_manifest.json", b"{}", metadata={})


def artifact(staged: object) -> Artifact:
    return Artifact.model_validate(
        {
            "key": "k",
            "dataset": "d",
            "format": FormatName.CSV,
            "compression": Compression.NONE,
            "rows": 1,
            "size": 1000,
            "sha256": "0" * 64,
            "staged": staged,
        }
    )


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer.page(413), SettingsError, r"HTTP 413: Request Entity Too Large\. .*client_max_body_size"),
        (Answer.error(400, "InvalidRequest"), SettingsError, r"InvalidRequest \(400\): its words\. .*If-None-Match"),
        (Answer.error(400, "InvalidArgument"), SettingsError, r"InvalidArgument \(400\): its words\. .*checksums"),
        (Answer.error(405, "MethodNotAllowed"), SettingsError, r"MethodNotAllowed \(405\): its words"),
        (Answer.error(403, "QuotaExceeded"), DestinationUnavailable, r"QuotaExceeded \(403\): its words\. Raise the"),
        (Answer.error(400, "ExpiredToken"), CredentialsExpired, r"ExpiredToken \(400\): its words\. This is retried"),
        (Answer(200), DestinationUnavailable, "has no ETag"),
        (Answer(200, XHTML, {"Content-Type": "text/html", "ETag": '"e"'}), DestinationUnavailable, "is a web page"),
        (Answer.page(303), DestinationUnavailable, "HTTP 303: See Other"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_the_stores_words_and_what_to_do(
    store: RecordingStore, answer: Answer, kind: type[PipelineError], words: str
) -> None:
    """Whichever step of writing it is."""
    async with store.client() as client:
        for operation in ("UploadPart", "CompleteMultipartUpload", "PutObject"):
            store.answers = {operation: answer}
            with pytest.raises(kind, match=words) as caught:
                await write(destination_of(client))
            assert "a-secret-key" not in str(caught.value)


async def test_a_web_page_is_never_taken_for_the_store(store: RecordingStore) -> None:
    """A portal says 200 to everything: nothing was published, deleted or aborted, nothing is there, or foreign."""
    page = Answer.page(body=XHTML)
    asked = ("PutObject", "HeadObject", "GetObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploads")
    store.answers = dict.fromkeys((*asked, "HeadBucket"), page)
    async with store.client() as client:
        destination = destination_of(client)
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: destination.publish("_manifest.json", b"{}", metadata={}),
            lambda: destination.complete(artifact(InlineContent(content="")), metadata={}),
            lambda: destination.exists("_manifest.json"),
            lambda: destination.verify_installation(uuid4()),
            lambda: destination.delete(artifact(InlineContent(content="")), metadata={}),
            lambda: destination.abort(UploadRef(key="k", upload_id="u")),
            lambda: anext(destination.pending_uploads(), None),
            lambda: client.require_bucket(bucket="b"),
            lambda: client.delete_object(bucket="b", key="k"),
        ]
        for attempt in attempts:
            with pytest.raises(DestinationUnavailable, match="web page"):
                await attempt()


STRANGE = [
    Answer.page(302),
    Answer.page(308),
    Answer(304),
    Answer(400, "<Error/>"),
    Answer(400, "<Error><Code>A</Code><Code>B</Code></Error>"),
    Answer(400, "<Errors><Error>words</Error></Errors>"),
    Answer(400, "\xff"),
    Answer(404, "{}", {"Content-Type": "application/json"}),
    Answer.error(409, "Whatever"),
    Answer(418),
    Answer(204),
    Answer(200, "<a/>", {"Last-Modified": "yesterday", "ETag": "x", "x-amz-mp-parts-count": "many"}),
    Answer(200, "<ListMultipartUploadsResult><Upload><Key>k</Key></Upload></ListMultipartUploadsResult>"),
]


async def test_no_answer_is_a_bug(store: RecordingStore) -> None:
    """Whatever the status and the body, and whatever was asked."""
    async with store.client() as client:
        for operation, ask in calls(client).items():
            for answer in STRANGE:
                store.answers = {operation: answer}
                (outcome,) = await asyncio.gather(ask(), return_exceptions=True)
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, PipelineError), (operation, answer)
                    assert not isinstance(outcome, InternalError), (operation, answer)


@pytest.mark.parametrize(("status", "kind"), [(301, SettingsError), (302, DestinationUnavailable)])
async def test_where_everything_is_redirected_few_requests_are_made(
    store: RecordingStore, status: int, kind: type[PipelineError]
) -> None:
    """As from http to https, or to a portal's page: botocore would go on asking for the bucket's region."""
    store.answers["*"] = Answer(status)
    async with store.client() as client:
        with pytest.raises(kind, match=f"HTTP {status}"):
            await destination_of(client).verify_installation(uuid4())
    assert len(store.requests) < 5


def calls(client: S3Client) -> dict[str, Callable[[], Awaitable[object]]]:
    """A call of each operation."""
    return {
        "PutObject": lambda: client.put_object_if_absent(
            bucket="b", key="k", body=b"x", content_type="text/csv", metadata={}
        ),
        "CreateMultipartUpload": lambda: client.create_multipart_upload(
            bucket="b", key="k", content_type="text/csv", metadata={}
        ),
        "UploadPart": lambda: client.upload_part(
            bucket="b", key="k", upload_id="u", number=1, body=b"x", crc32=crc32_of(b"x")
        ),
        "CompleteMultipartUpload": lambda: client.complete_multipart_upload_if_absent(
            bucket="b", key="k", upload_id="u", parts=[]
        ),
        "AbortMultipartUpload": lambda: client.abort_multipart_upload(bucket="b", key="k", upload_id="u"),
        "HeadObject": lambda: client.head_object(bucket="b", key="k"),
        "GetObject": lambda: client.get_object(bucket="b", key="k"),
        "DeleteObject": lambda: client.delete_object(bucket="b", key="k"),
        "HeadBucket": lambda: client.require_bucket(bucket="b"),
        "ListMultipartUploads": lambda: anext(client.pending_uploads(bucket="b"), None),
    }


async def test_a_bucket_that_was_there_is_waited_for(store: RecordingStore) -> None:
    """Seen by any answer but a refusal. Before that it is missing, which is a matter of settings."""
    missing = Answer.error(404, "NoSuchBucket")
    store.answers = {"GetObject": missing, "UploadPart": missing, "PutObject": missing, "HeadBucket": Answer(404)}
    async with store.client() as client:
        destination = destination_of(client)
        for _ in range(2):
            with pytest.raises(BucketMissing, match="Create the bucket"):
                await destination.verify_installation(uuid4())
        with pytest.raises(BucketMissing):
            await client.require_bucket(bucket="b")

        del store.answers["GetObject"]
        await destination.verify_installation(uuid4())  # there is no mark, but a bucket

        with pytest.raises(DestinationUnavailable, match=r"NoSuchBucket.*existed before"):
            await write(destination)
        with pytest.raises(DestinationUnavailable, match="existed before"):
            await destination.publish("_manifest.json", b"{}", metadata={})
        with pytest.raises(DestinationUnavailable, match="existed before"):
            await client.require_bucket(bucket="b")


async def test_nothing_is_concluded_from_an_object_that_is_missing_with_its_bucket(store: RecordingStore) -> None:
    """HEAD says the same of both: the plan isn't lost, and the objects of a failed run aren't deleted."""
    store.answers = {"CompleteMultipartUpload": Answer.error(404, "NoSuchUpload"), "HeadBucket": Answer(404)}
    async with store.client() as client:
        destination = destination_of(client)
        with pytest.raises(DestinationUnavailable, match="existed before"):
            await write(destination)
        with pytest.raises(DestinationUnavailable, match="existed before"):
            await destination.delete(artifact(InlineContent(content="")), metadata={})
