"""Messages of the requests topic: what each kind asks for, why one is refused, and what one sent again asks for."""

import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft7Validator, Draft202012Validator
from opentelemetry import trace

from pipeline_processing.errors import InvalidEvent, InvalidJson, InvalidRequest, RequestError, RequestTooLarge
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import JobRequest
from pipeline_processing.published.schemas import schema_files
from pipeline_processing.requests import job_messages
from pipeline_processing.requests.job_messages import (
    MAX_REQUEST_BYTES,
    is_named_by_its_place,
    received,
    request_message,
    resent,
    run_id_of_place,
)

FILES = schema_files()
NOON = datetime(2026, 1, 18, 12, tzinfo=UTC)
TRACE, SPAN = "6f1c0a9d27b84e53a1d2c3b4e5f60718", "a1b2c3d4e5f60718"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/billing", "type": "invoice.paid"}
BINARY = {f"ce_{name}": text for name, text in EVENT.items()}
STRUCTURED = {"content-type": "application/cloudevents+json"}
RUN_ID_OF_EVENT = "ce-" + hashlib.sha256(b"/billing\0e-1").hexdigest()[:32]


def record(value: Any, headers: dict[str, str] | None = None, **fields: Any) -> Record:
    """A message: `value` as it is if it is bytes or None, and else as JSON."""
    return Record(
        **{
            "topic": "agency-jobs.requests",
            "partition": 3,
            "offset": 77,
            "timestamp_ms": 1768730400123,
            "key": b"7",
            "value": value if value is None or isinstance(value, bytes) else json.dumps(value).encode(),
            "headers": tuple((name, text.encode()) for name, text in (headers or {}).items()),
            **fields,
        }
    )


def structured(data: Any, **attributes: Any) -> Record:
    return record({**EVENT, "data": data, **attributes}, STRUCTURED)


def nested(depth: int) -> bytes:
    """A request whose params hold lists within lists."""
    return b'{"agency_id":7,"params":{"a":' + b"[" * depth + b"]" * depth + b"}}"


def reason(message: Record) -> str:
    """Why it becomes a dead letter."""
    with pytest.raises(RequestError) as refused:
        received(message)
    return refused.value.kind


# -- what asks for a run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [record({"agency_id": 7}), record({"agency_id": 7}, BINARY), structured({"agency_id": 7})],
    ids=["bare", "binary", "structured"],
)
def test_the_smallest_request_of_each_kind(message: Record) -> None:
    """Only the agency is needed, and everything else has its default."""
    assert received(message).request == JobRequest(agency_id=7)


def test_all_of_a_request_arrives() -> None:
    """The contract's own example, bare and in an event."""
    asked = {
        "agency_id": 123,
        "run_id": "run-20260118-123",
        "job": "agency_data_job",
        "datasets": ["records"],
        "params": {"n": 2**62, "x": 1.5, "flag": True, "text": "é", "none": None},
        "since": "2026-01-18T10:00:00+01:00",
        "until": None,
        "format": "csv",
        "dry_run": True,
        "requested_by": "billing-service",
        "priority": -3,
        "not_before": None,
        "deadline": "2026-01-19T00:00:00Z",
        "replay_of": "other",
    }
    for message in (record(asked), structured(asked)):
        request = received(message).request
        assert request == JobRequest.model_validate_json(json.dumps(asked))
        assert request.since == datetime(2026, 1, 18, 9, tzinfo=UTC)
        assert type(request.params["n"]) is int


def test_a_run_id_in_the_request_counts() -> None:
    """Whatever else the message could be named by."""
    asked = {"agency_id": 7, "run_id": "mine"}
    for message in (record(asked), record(asked, BINARY), structured(asked)):
        assert received(message).run_id == "mine"


def test_an_event_names_its_run_by_source_and_id() -> None:
    """The first 32 hex digits of SHA-256(source, NUL, id), in either mode, wherever the message stands."""
    binary = record({"agency_id": 7}, BINARY)
    elsewhere = dataclasses.replace(binary, topic="x", partition=0, offset=0, timestamp_ms=0)

    assert [received(each).run_id for each in (binary, elsewhere, structured({"agency_id": 7}))] == [
        RUN_ID_OF_EVENT
    ] * 3
    assert received(record({"agency_id": 7}, BINARY | {"ce_id": "e-2"})).run_id != RUN_ID_OF_EVENT
    assert received(record({"agency_id": 7}, BINARY | {"ce_source": "/other"})).run_id != RUN_ID_OF_EVENT


def test_source_and_id_are_told_apart() -> None:
    """`a` + `bc` isn't `ab` + `c`."""
    ids = {
        received(record({"agency_id": 7}, BINARY | {"ce_source": source, "ce_id": name})).run_id
        for source, name in (("a", "bc"), ("ab", "c"), ("abc", " "))
    }
    assert len(ids) == 3


def test_a_bare_request_is_named_by_its_place_and_time() -> None:
    """Topic, partition, offset, and the record's timestamp in milliseconds."""
    assert received(record({"agency_id": 7})).run_id == "agency-jobs.requests-3-77-1768730400123"
    assert received(record({"agency_id": 7}, timestamp_ms=-1)).run_id == "agency-jobs.requests-3-77--1"


@pytest.mark.parametrize("topic", ["t" * 249, "_internal", ".hidden", "-"])
def test_a_topic_whose_name_no_run_can_have_gives_a_hash(topic: str) -> None:
    """Run ids are shorter than topics may be, and begin otherwise; places are still told apart."""
    one = received(record({"agency_id": 7}, topic=topic)).run_id
    other = received(record({"agency_id": 7}, topic=topic, offset=78)).run_id

    assert re.fullmatch(r"topic-[0-9a-f]{32}", one)
    assert one != other


def test_the_longest_topic_that_fits_stays_readable() -> None:
    """128 characters are a run id, 129 aren't."""
    fits = 128 - len("-3-77-1768730400123")

    assert run_id_of_place(record(b"", topic="t" * fits)) == "t" * fits + "-3-77-1768730400123"
    assert run_id_of_place(record(b"", topic="t" * (fits + 1))).startswith("topic-")


@pytest.mark.parametrize(
    "headers",
    [
        {name.upper(): text for name, text in BINARY.items()},
        {name.title(): text for name, text in BINARY.items()},
        BINARY | {"Content-Type": "application/json"},
        BINARY | {"ce_time": "2026-01-18T10:00:00Z", "ce_subject": "", "ce_myextension": "1", "ce_dataschema": "x"},
    ],
    ids=["upper", "title", "content type", "more attributes"],
)
def test_headers_count_in_any_case_and_more_may_be_there(headers: dict[str, str]) -> None:
    """Bridges and clients spell them as they like."""
    assert received(record({"agency_id": 7}, headers)).run_id == RUN_ID_OF_EVENT


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=utf-8",
        " application/cloudevents",
    ],
)
def test_the_content_type_says_that_an_event_is_structured(content_type: str) -> None:
    """In any spelling that media types have."""
    message = record({**EVENT, "data": {"agency_id": 7}}, {"CONTENT-TYPE": content_type})

    assert received(message).run_id == RUN_ID_OF_EVENT


def test_of_headers_of_one_name_the_last_counts() -> None:
    """As with `Record.header`."""
    headers = [*BINARY.items(), ("ce_id", "e-0"), ("CE_ID", "e-1")]
    bare = record({"agency_id": 7})
    message = dataclasses.replace(bare, headers=tuple((name, text.encode()) for name, text in headers))

    assert received(message).run_id == RUN_ID_OF_EVENT
    assert message.header("ce_id") == b"e-1"


def test_a_structured_event_takes_its_attributes_from_the_value() -> None:
    """Headers of the same names say nothing then."""
    message = record({**EVENT, "data": {"agency_id": 7}}, STRUCTURED | {"ce_id": "other", "ce_specversion": "9"})

    assert received(message).run_id == RUN_ID_OF_EVENT


# -- the trace -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        record({"agency_id": 7}, {"traceparent": TRACEPARENT, "tracestate": "vendor=1,b=2"}),
        record({"agency_id": 7}, {"TraceParent": TRACEPARENT, "Tracestate": "vendor=1,b=2"}),
        record({"agency_id": 7}, BINARY | {"traceparent": TRACEPARENT, "tracestate": "vendor=1,b=2"}),
        record({"agency_id": 7}, BINARY | {"ce_traceparent": TRACEPARENT, "ce_tracestate": "vendor=1,b=2"}),
        structured({"agency_id": 7}, traceparent=TRACEPARENT, tracestate="vendor=1,b=2"),
    ],
    ids=["bare", "odd case", "binary", "extension headers", "extension attributes"],
)
def test_a_trace_is_continued_wherever_it_stands(message: Record) -> None:
    """In W3C's own headers, or in the extension attributes of CloudEvents."""
    asked = received(message)
    parent = trace.get_current_span(asked.parent).get_span_context()

    assert (trace.format_trace_id(parent.trace_id), trace.format_span_id(parent.span_id)) == (TRACE, SPAN)
    assert asked.tracestate == "vendor=1,b=2"


def test_the_transport_goes_before_the_event() -> None:
    """The event's own trace is where it began; the header says who handed it on."""
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    for message in (
        record({"agency_id": 7}, BINARY | {"traceparent": TRACEPARENT, "ce_traceparent": other}),
        dataclasses.replace(
            structured({"agency_id": 7}, traceparent=other),
            headers=(*structured({}).headers, ("traceparent", TRACEPARENT.encode())),
        ),
    ):
        parent = trace.get_current_span(received(message).parent).get_span_context()
        assert trace.format_trace_id(parent.trace_id) == TRACE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": ""},
        {"traceparent": "00-zz"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"tracestate": "vendor=1"},
    ],
)
def test_a_trace_that_makes_no_sense_is_none(headers: dict[str, str]) -> None:
    """It never makes a request unusable."""
    asked = received(record({"agency_id": 7}, headers))

    assert not trace.get_current_span(asked.parent).get_span_context().is_valid
    assert asked.tracestate is None


def test_the_trace_of_the_reader_is_not_the_message_s() -> None:
    """What happens to be the current span while reading has nothing to do with it."""
    here = trace.SpanContext(trace_id=1, span_id=2, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(here)):
        asked = received(record({"agency_id": 7}))

    assert not trace.get_current_span(asked.parent).get_span_context().is_valid


# -- what becomes a dead letter ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"no",
        b'{"agency_id":7',
        b'{"agency_id":7} x',
        b'{"agency_id":7,"requested_by":"\xe9"}',
        b'{"agency_id":7,"requested_by":"\\ud800"}',
        '{"agency_id":7}'.encode("utf-16"),
        b'\xef\xbb\xbf{"agency_id":7}',
        nested(100_000),
        b"[" * 100_000,
        b'{"agency_id":' + b"1" * 10_000 + b"}",
        b"\x00\x01\x02",
    ],
    ids=[
        "tombstone", "empty", "blank", "a word", "cut off", "more behind", "not UTF-8", "half a surrogate pair",
        "UTF-16", "byte-order mark", "deep", "deep and cut off", "a number without end", "Avro",
    ],
)  # fmt: skip
def test_what_is_no_json_is_told_so(value: bytes | None) -> None:
    """Bare, and in the envelope of a structured event as well."""
    assert reason(record(value)) == "invalid_json"
    if value is not None:
        envelope = json.dumps({**EVENT, "data": 0}).encode().replace(b'"data": 0', b'"data": ' + value)
        assert reason(record(envelope if value.strip() else value, STRUCTURED)) == "invalid_json"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b'\0\0\0\0\x07{"agency_id":7}', "a schema registry's (00, then schema id 7). Send bare JSON"),
        (b"\0\0\0\0\x07\0\x0e", "a schema registry's (00, then schema id 7). Send bare JSON"),
        (b'\xef\xbb\xbf{"agency_id":7}', "a byte-order mark (EF BB BF). Send UTF-8 without one."),
        ('{"agency_id":7}'.encode("utf-16"), "UTF-16. Send UTF-8."),
        ('{"agency_id":7}'.encode("utf-16-le"), "UTF-16. Send UTF-8."),
        ('{"agency_id":7}'.encode("utf-16-be"), "UTF-16. Send UTF-8."),
        (b'{"agency_id":7', None),
        (b"\0\1\2", None),
    ],
)
@pytest.mark.parametrize("headers", [{}, STRUCTURED], ids=["bare", "structured"])
def test_another_encoding_is_named_by_its_first_bytes(value: bytes, told: str | None, headers: dict[str, str]) -> None:
    """The parser's own words, such as "expected value", don't lead a developer to their serializer."""
    with pytest.raises(InvalidJson) as refused:
        received(record(value, headers))

    assert ("Its first bytes are" in str(refused.value)) == (told is not None)
    assert told is None or told in str(refused.value)


@pytest.mark.parametrize("depth", [50, 199, 200, 201, 500, *range(950, 1010), 3000])
def test_no_depth_of_nesting_is_too_much(depth: int) -> None:
    """Some depth is a broken schema and more of it not JSON, but none is an error that nobody foresaw."""
    for message in (
        record(nested(depth)),
        record(b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":' + nested(depth) + b"}", STRUCTURED),
    ):
        assert reason(message) in ("invalid_json", "invalid_request")
        assert resent(message, topic="t").key == message.key


@pytest.mark.parametrize(
    "headers",
    [
        *({name: text for name, text in BINARY.items() if name != missing} for missing in BINARY),
        {"ce_id": "e-1"},
        {"ce_traceparent": TRACEPARENT},
        *(BINARY | {name: ""} for name in BINARY),
        BINARY | {"ce_specversion": "0.3"},
        BINARY | {"ce_specversion": "1.0 "},
        BINARY | {"ce_time": "yesterday"},
        BINARY | {"ce_time": "2026-01-18T10:00:00"},
    ],
    ids=lambda headers: ",".join(f"{name[3:]}={text}"[:16] for name, text in headers.items()),
)
def test_attributes_of_an_event_must_be_there_and_right(headers: dict[str, str]) -> None:
    """Half an event is neither an event nor a bare request."""
    assert reason(record({"agency_id": 7}, headers)) == "invalid_event"


@pytest.mark.parametrize(
    "envelope",
    [
        *({name: text for name, text in EVENT.items() if name != missing} | {"data": {}} for missing in EVENT),
        EVENT | {"data": {"agency_id": 7}, "id": 5},
        EVENT | {"data": {"agency_id": 7}, "source": None},
        EVENT | {"data": {"agency_id": 7}, "id": "\ud800"},
        EVENT | {"data": {"agency_id": 7}, "specversion": "1"},
        EVENT | {"data": {"agency_id": 7}, "time": 5},
        EVENT,
        EVENT | {"data_base64": "e30="},
        [EVENT | {"data": {"agency_id": 7}}],
        [],
        "event",
        None,
        {"agency_id": 7},
    ],
)
def test_a_structured_event_must_be_one(envelope: Any) -> None:
    """Whatever else the content type is put on, also by mistake."""
    assert reason(record(json.dumps(envelope).encode(), STRUCTURED)) == "invalid_event"


def test_a_batch_of_events_is_refused() -> None:
    """One message is one request."""
    batch = record([EVENT | {"data": {"agency_id": 7}}], {"content-type": "application/cloudevents-batch+json"})

    assert reason(batch) == "invalid_event"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"agency_id": ""},
        {"agency_id": "a\tb"},
        {"agency_id": " a"},
        {"agency_id": "é" * 34},
        {"agency_id": 0},
        {"agency_id": -1},
        {"agency_id": 7.0},
        {"agency_id": True},
        {"agency_id": None},
        {"agency_id": 2**63},
        {"agency_id": 7, "bucket": "elsewhere"},
        {"agency_id": 7, "run_id": ""},
        {"agency_id": 7, "run_id": "a/b"},
        {"agency_id": 7, "run_id": "a\n"},
        {"agency_id": 7, "run_id": 5},
        {"agency_id": 7, "dry_run": "yes"},
        {"agency_id": 7, "datasets": []},
        {"agency_id": 7, "datasets": ["records", "records"]},
        {"agency_id": 7, "params": {"since": "x"}},
        {"agency_id": 7, "params": {"n": 2**70}},
        {"agency_id": 7, "params": {"n": [1]}},
        {"agency_id": 7, "deadline": 1768730400},
        {"agency_id": 7, "priority": 2**15},
        [],
        "7",
        7,
        None,
    ],
)
def test_a_request_that_breaks_its_schema_is_told_so(asked: Any) -> None:
    """Bare and in an event; nothing is guessed."""
    assert reason(record(json.dumps(asked).encode())) == "invalid_request"
    assert reason(structured(asked)) == "invalid_request"


def test_every_fault_is_told_and_no_value() -> None:
    """One round of mending is enough, and a secret in the wrong place stays out of the dead letter."""
    with pytest.raises(InvalidRequest) as refused:
        received(record({"agency_id": ["hunter2"], "bucket": "hunter2", "dry_run": "hunter2"}))

    assert "hunter2" not in str(refused.value)
    for fault in ("agency_id: ", "bucket: unknown key", "dry_run: "):
        assert fault in str(refused.value)


def test_a_message_that_is_too_large_isn_t_even_parsed() -> None:
    """The limit is on the value's bytes, and exactly there."""
    head, tail = b'{"agency_id":7,"requested_by":"', b'"}'
    fits = head + b"x" * (MAX_REQUEST_BYTES - len(head) - len(tail)) + tail

    assert received(record(fits)).request.agency_id == 7
    with pytest.raises(RequestTooLarge, match=r"262,145 bytes, but a request may have 262,144"):
        received(record(fits + b" "))
    assert reason(record(b"\xff" * (MAX_REQUEST_BYTES + 1))) == "too_large"


def test_the_kinds_are_the_reasons_of_the_contract() -> None:
    """What `received` raises, by the names that dead letters have."""
    assert [error.kind for error in (InvalidJson, InvalidEvent, InvalidRequest, RequestTooLarge)] == [
        "invalid_json",
        "invalid_event",
        "invalid_request",
        "too_large",
    ]


# -- agreement with the published schemas --------------------------------------------------------

REQUEST_SCHEMA = Draft202012Validator(json.loads(FILES["job-request.schema.json"]))
ASYNCAPI = yaml.load(FILES["asyncapi.yaml"], yaml.CSafeLoader)
MESSAGES = ASYNCAPI["components"]["messages"]


def in_asyncapi(schema: dict[str, Any]) -> Draft7Validator:
    return Draft7Validator({"allOf": [schema], "components": ASYNCAPI["components"]})


# JSON Schema takes 7.0 for an integer, and the service doesn't.
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
# Nor does it say of params that they have 64 bits.
SCALARS = st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | FRACTIONS
JSON_VALUES = (
    st.integers(-(2**64), 2**64)
    | SCALARS
    | st.text(max_size=5)
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.text(max_size=3), SCALARS)
)
FIELDS = {
    "agency_id": st.integers(1, 2**63 - 1)
    | st.from_regex(r"[a-zé /%A-Z0-9-]{1,20}", fullmatch=True).map(str.strip).filter(bool),
    "run_id": st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    "datasets": st.none() | st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True),
    "params": st.dictionaries(st.sampled_from(["a", "b", "é"]), SCALARS),
    "since": st.none() | st.just("2026-01-18T10:00:00.5Z"),
    "format": st.sampled_from([None, "csv", "ndjson"]),
    "dry_run": st.booleans(),
    "requested_by": st.none() | st.text(max_size=10),
    "labels": st.dictionaries(st.sampled_from(["a", "b/c"]), st.text(st.characters(exclude_categories=["C", "Z"]))),
    "priority": st.integers(-(2**15), 2**15 - 1),
    "deadline": st.none() | st.just("2026-01-18T10:00:00+01:00"),
    "replay_of": st.none() | st.just("r-1"),
}
REQUESTS = st.fixed_dictionaries({"agency_id": FIELDS.pop("agency_id")}, optional=FIELDS)


@given(REQUESTS)
def test_what_the_schema_takes_is_taken(asked: dict[str, Any]) -> None:
    """Bare and as the data of an event, which its own schema takes as well."""
    event = {**EVENT, "data": asked}
    REQUEST_SCHEMA.validate(asked)
    if isinstance(asked["agency_id"], int):  # models of clients are for integers
        in_asyncapi(MESSAGES["jobRequestStructured"]["payload"]).validate(event)

    assert received(record(asked)).request == received(structured(asked)).request


@given(REQUESTS, st.sampled_from(["agency_id", *FIELDS, "other"]), JSON_VALUES)
def test_the_schema_and_the_reader_agree(asked: dict[str, Any], field: str, value: Any) -> None:
    """What the one refuses of a field the other refuses, too."""
    asked = asked | {field: value}
    try:
        received(record(asked))
    except InvalidRequest:
        accepted = False
    else:
        accepted = True

    assert accepted == REQUEST_SCHEMA.is_valid(asked)


def test_what_is_sent_matches_the_published_headers() -> None:
    """A request that this service sends is an event as the AsyncAPI document describes it."""
    message = request_message(
        JobRequest(agency_id=7, run_id="r-1"), topic="t", now=NOON, trace_headers={"traceparent": TRACEPARENT}
    )
    assert message.value is not None

    in_asyncapi(MESSAGES["jobRequest"]["headers"]).validate({name: value.decode() for name, value in message.headers})
    in_asyncapi(MESSAGES["jobRequest"]["payload"]).validate(json.loads(message.value))


# -- sending -------------------------------------------------------------------------------------


def standing(message: Outgoing, **place: Any) -> Record:
    """The message in a topic."""
    return Record(
        **{"partition": 0, "offset": 0, "timestamp_ms": 5, **place},
        topic=message.topic,
        key=message.key,
        value=message.value,
        headers=message.headers,
    )


def test_a_sent_request_is_an_event_named_by_its_run() -> None:
    """Keyed by the agency, without what is only a default."""
    request = JobRequest(agency_id=7, run_id="r-1", priority=3)
    message = request_message(request, topic="t", now=NOON, trace_headers={"traceparent": TRACEPARENT})

    assert (message.topic, message.key, message.timestamp_ms) == ("t", b"7", None)
    assert json.loads(message.value or b"") == {"agency_id": 7, "run_id": "r-1", "priority": 3}
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"r-1",
        "ce_source": b"/pipeline-processing",
        "ce_type": b"agency.run.requested",
        "ce_time": b"2026-01-18T12:00:00+00:00",
        "content-type": b"application/json",
        "traceparent": TRACEPARENT.encode(),
    }


@given(REQUESTS)
def test_what_is_sent_arrives(asked: dict[str, Any]) -> None:
    """The same request, by its digest too."""
    request = JobRequest.model_validate_json(json.dumps(asked | {"run_id": "r-1"}))
    back = received(standing(request_message(request, topic="t", now=NOON, trace_headers={})))

    assert back.request == request
    assert back.request.digest() == request.digest()
    assert back.run_id == "r-1"


# -- sending again -------------------------------------------------------------------------------


@given(REQUESTS, st.sampled_from(["bare", "binary", "structured"]), st.integers(0, 5), st.integers(0, 2**40))
def test_a_message_sent_again_asks_for_the_same_run(
    asked: dict[str, Any], kind: str, partition: int, place: int
) -> None:
    """Wherever it will stand, and however often."""
    message = {
        "bare": lambda: record(asked),
        "binary": lambda: record(asked, BINARY),
        "structured": lambda: structured(asked),
    }[kind]()
    first = received(message)
    again = standing(resent(message, topic="other"), partition=partition, offset=place, timestamp_ms=place)
    once_more = standing(resent(again, topic="third"), partition=partition + 1, offset=place + 1)

    for each in (again, once_more):
        assert received(each).run_id == first.run_id
        assert received(each).request.digest() == first.request.digest()
    assert (once_more.key, once_more.value, once_more.headers) == (again.key, again.value, again.headers)


@pytest.mark.parametrize(
    "message",
    [
        record({"agency_id": 7, "run_id": "mine"}),
        record({"agency_id": 7}, BINARY),
        record({"agency_id": 7}, {"ce_id": "half an event"}),
        structured({"agency_id": 7}),
        record(None),
        record(b"no JSON"),
        record('{"agency_id":7}'.encode("utf-16")),
        record(b'{"agency_id":7,"requested_by":"\xe9"}'),
        record(b"[1]"),
        record(nested(100_000)),
        record({"agency_id": 7, "run_id": 5}),
    ],
)
def test_all_else_is_sent_again_as_it_is(message: Record) -> None:
    """Only a bare request that is nothing but its place gets a run id; useless messages stay as useless."""
    again = resent(message, topic="t")

    assert (again.key, again.value, again.headers) == (message.key, message.value, message.headers)
    assert not is_named_by_its_place(message)


def test_a_bare_request_sent_again_keeps_its_headers_and_every_digit() -> None:
    """Its value alone changes, by the run id."""
    value = b'{"params": {"n": 9223372036854775807, "x": 0.1}, "agency_id": 7, "run_id": null}'
    message = record(value, {"Traceparent": TRACEPARENT, "x-other": "é"})
    again = resent(message, topic="t")

    assert again.headers == message.headers
    assert json.loads(again.value or b"") == {
        "agency_id": 7,
        "params": {"n": 9223372036854775807, "x": 0.1},
        "run_id": "agency-jobs.requests-3-77-1768730400123",
    }
    assert is_named_by_its_place(message)


def test_an_invalid_bare_request_keeps_its_place_too() -> None:
    """It may be valid for a later version: then it is to be the same run however often it was sent again."""
    asked = {"agency_id": 7, "unknown": 1}
    again = standing(resent(record(asked), topic="t"))

    assert json.loads(again.value or b"")["run_id"] == run_id_of_place(record(asked))
    assert reason(again) == "invalid_request"


def test_the_limit_is_the_documented_one() -> None:
    """256 KiB."""
    assert job_messages.MAX_REQUEST_BYTES == 262_144
