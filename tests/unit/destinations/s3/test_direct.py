"""Requests past botocore are the ones that botocore would send, and botocore has the last word."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from opentelemetry.trace import SpanKind

from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.errors import AlreadyThere, ObjectMissing
from pipeline_processing.destinations.s3.objects import crc32_of
from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.errors import AccessDenied, DestinationUnavailable, PipelineError, Throttled
from pipeline_processing.usage import Usage, use
from tests.unit.destinations.s3 import recording_store
from tests.unit.destinations.s3.recording_store import Answer, RecordingStore
from tests.unit.recorded import Recorded

Ask = Callable[[S3Client, str], Awaitable[None]]

METADATA = {"run-id": "r-1", "trace-id": "0" * 32}
OPTIONS = S3ObjectOptions.model_validate(
    {"storage_class": "STANDARD_IA", "sse": "aws:kms", "kms_key_id": "alias/k", "tags": {"t": "a b/é+=@{run_id}"}}
)


@pytest.fixture
async def store() -> AsyncIterator[RecordingStore]:
    async with RecordingStore() as running:
        yield running


async def put(client: S3Client, key: str, metadata: dict[str, str] = METADATA) -> None:
    await client.put_object_if_absent(
        bucket="b", key=key, body=b"x", content_type="text/csv; charset=utf-8", metadata=metadata, options=OPTIONS
    )


async def look(client: S3Client, key: str) -> None:
    await client.head_object(bucket="b", key=key)


async def send_part(client: S3Client, key: str) -> None:
    body = bytes(2_000_000)
    await client.upload_part(bucket="b", key=key, upload_id="u-1/+ ~", number=7, body=body, crc32=crc32_of(body))


ASKS: list[Ask] = [put, look, send_part]
KEYS = ["plain", "a b/c+d=e&f", "agency_id=7/run_id=r~1/é.csv", "(x)*'!"]


def is_botocores(request: recording_store.Recorded) -> bool:
    return "amz-sdk-invocation-id" in request.headers


def essence(request: recording_store.Recorded) -> dict[str, object]:
    """A request without what differs from one time to the next, or concerns only botocore."""
    left_out = (
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "x-amz-date",
        "x-amz-sdk-checksum-algorithm",
    )
    headers = {name: value for name, value in request.headers.items() if name not in left_out}
    path, _, query = request.target.partition("?")
    return {
        "path": path,
        "query": sorted(query.split("&")),
        "method": request.method,
        "body": request.body,
        "headers": headers,
    }


def signature(request: recording_store.Recorded) -> str:
    """What botocore would sign the request with."""
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    auth = S3SigV4Auth(Credentials("the-user", "a-secret-key"), "s3", "us-east-1")
    rebuilt = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['host']}{request.target}",
        headers={name: request.headers[name] for name in signed},
    )
    rebuilt.context.update(timestamp=request.headers["x-amz-date"], payload_signing_enabled=False)
    return str(auth.signature(auth.string_to_sign(rebuilt, auth.canonical_request(rebuilt)), rebuilt))


@pytest.mark.parametrize("session_token", [None, "a-token"])
async def test_they_equal_botocores(store: RecordingStore, session_token: str | None) -> None:
    """To the header and to the signature, of each kind, whatever the key."""
    async with store.client(session_token=session_token) as client:
        for ask, key in itertools.product(ASKS, KEYS):
            client._direct._routes.clear()  # so that the first request is botocore's again
            store.requests.clear()
            for _ in range(2):
                store.objects = {key: (b"", {})} if ask is look else {}
                await ask(client, key)
            theirs, ours = store.requests
            assert (is_botocores(theirs), is_botocores(ours)) == (True, False)
            assert essence(ours) == essence(theirs)
            assert ours.headers["authorization"].endswith(f"Signature={signature(ours)}")


async def test_an_answer_is_read_as_botocore_reads_it(store: RecordingStore) -> None:
    """What was stored with the object, and its size and checksum."""
    async with store.client() as client:
        await put(client, "k")
        theirs = await client.head_object(bucket="b", key="k")
        client._direct._routes.clear()
        ours = await client.head_object(bucket="b", key="k")
    assert ours == theirs
    assert (ours.size, ours.crc32, ours.metadata) == (1, crc32_of(b"x"), METADATA)


async def test_a_missing_object_is_known_after_one_request(store: RecordingStore) -> None:
    """As before each run, whose manifest isn't there yet."""
    async with store.client() as client:
        for _ in range(2):
            with pytest.raises(ObjectMissing, match=r"404: Not Found"):
                await look(client, "k")
    assert [is_botocores(request) for request in store.requests] == [True, False]


@pytest.mark.parametrize(
    ("answer", "error", "requests"),
    [
        (Answer.error(503, "SlowDown"), Throttled, [False, True, True, True]),
        (Answer.error(500, "InternalError"), DestinationUnavailable, [False, True, True, True]),
        (Answer.error(412, "PreconditionFailed"), AlreadyThere, [False]),
        (Answer.error(403, "AccessDenied"), AccessDenied, [False, True]),
    ],
    ids=["throttled", "failing", "taken", "denied"],
)
async def test_botocore_has_the_last_word_on_failures(
    store: RecordingStore, answer: Answer, error: type[PipelineError], requests: list[bool]
) -> None:
    """It repeats the request as often as it does any other. A condition that isn't met is no failure."""
    async with store.client() as client:
        await put(client, "first")
        store.requests.clear()
        store.answers = {"PutObject": answer}
        with pytest.raises(error):
            await put(client, "k")
    assert [is_botocores(request) for request in store.requests] == requests


async def test_retries_of_parts_are_counted(store: RecordingStore) -> None:
    """Botocore's, and its first request after one past it. Other requests, and parts that arrive at once, are none."""
    use(usage := Usage())
    async with store.client() as client:
        for key in ("1", "2"):
            await put(client, key)
            await send_part(client, key)
        assert (usage.s3_requests, usage.part_retries) == (4, 0)

        store.answers = {"UploadPart": Answer.error(503, "SlowDown")}
        with pytest.raises(Throttled):
            await send_part(client, "k")
    assert (usage.s3_requests, usage.part_retries) == (8, 3)


async def test_after_three_refusals_in_a_row_all_is_botocores(store: RecordingStore) -> None:
    """A store that takes its requests and refuses ours would be asked twice each time."""
    async with store.client() as client:
        await put(client, "first")
        store.answers = {"PutObject": Answer.error(403, "SignatureDoesNotMatch")}
        for _ in range(2):
            with pytest.raises(AccessDenied):
                await put(client, "k")
        store.answers.clear()
        await put(client, "second")
        await put(client, "third")
        assert not is_botocores(store.requests[-1])

        store.answers = {"PutObject": Answer.error(403, "SignatureDoesNotMatch")}
        for _ in range(3):
            with pytest.raises(AccessDenied):
                await put(client, "k")
        store.answers.clear()
        for key in ("fourth", "fifth"):
            await put(client, key)
            assert is_botocores(store.requests[-1])


async def test_what_needs_botocores_care_is_left_to_it(store: RecordingStore) -> None:
    """Values that are signed in another form than they are sent in, or that can't be sent."""
    async with store.client() as client:
        await put(client, "first")
        for label in ("é", "two  spaces", " around ", "tab\there", "line\nbreak"):
            store.requests.clear()
            store.objects.clear()
            with contextlib.suppress(PipelineError):  # botocore refuses some
                await put(client, "k", {**METADATA, "label": label})
            assert all(is_botocores(request) for request in store.requests)


async def test_each_call_is_one_span_whoever_makes_it(store: RecordingStore) -> None:
    """Named by the semantic conventions. That an object isn't there is an answer; requests sent again are events."""
    recorded = Recorded()
    async with store.client() as client:
        with recorded, recorded.tracer.start_as_current_span("run"):
            for key in ("first", "k"):
                await put(client, key)
            await send_part(client, "part")
            with pytest.raises(ObjectMissing):
                await look(client, "missing")
            store.answers = {"PutObject": Answer.error(503, "SlowDown")}
            with pytest.raises(Throttled):
                await put(client, "refused")

    assert [is_botocores(request) for request in store.requests[:4]] == [True, False, False, False]
    *spans, _ = recorded.spans
    methods = ["PutObject", "PutObject", "UploadPart", "HeadObject", "PutObject"]
    assert [span.name for span in spans] == [f"S3.{method}" for method in methods]
    assert {span.kind for span in spans} == {SpanKind.CLIENT}
    first, second, part, missing, refused = (dict(span.attributes or {}) for span in spans)
    common = {"rpc.system.name": "aws-api", "rpc.method": "S3/PutObject", "aws.s3.bucket": "b"}
    assert first == common | {"aws.s3.key": "first", "http.request.body.size": 1}
    assert second == first | {"aws.s3.key": "k"}
    assert (part["aws.s3.part_number"], part["http.request.body.size"]) == (7, 2_000_000)
    assert "error.type" not in missing
    assert refused["error.type"] == "throttled"
    assert [span.status.is_ok for span in spans] == [True, True, True, True, False]
    retries = [dict(event.attributes or {}) for event in spans[-1].events if event.name == "retry"]
    assert retries == [
        {"http.response.status_code": 503},
        {"http.request.resend_count": 1},
        {"http.request.resend_count": 2},
    ]
