"""Upstream events: what is read from a record, which triggers it matches, and when it is a dead letter."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.agency_data_job.params import ParamConfig
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import InvalidEvent
from pipeline_processing.messaging.port import Record
from pipeline_processing.triggers.config import EventTrigger
from pipeline_processing.triggers.events import MAX_EVENT_BYTES, read_event, value_at
from pipeline_processing.triggers.matching import Terms, mismatch, occurrences
from tests.properties import examples

NOW = datetime(2026, 1, 18, 12, tzinfo=UTC)
TRACEPARENT = "00-6f1c0a9d27b84e53a1d2c3b4e5f60718-a1b2c3d4e5f60718-01"
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/agencies", "type": "agency.updated"}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


def record(value: Any, headers: dict[str, str] | None = None, **fields: Any) -> Record:
    return Record(
        **{
            "topic": "agencies.events",
            "partition": 3,
            "offset": 77,
            "timestamp_ms": int((NOW - timedelta(minutes=1)).timestamp() * 1000),
            "key": b"7",
            "value": value if value is None or isinstance(value, bytes) else json.dumps(value).encode(),
            "headers": tuple((name, text.encode()) for name, text in (headers or {}).items()),
            **fields,
        }
    )


def binary(data: Any, **attributes: str) -> Record:
    return record(data, {f"ce_{name}": text for name, text in {**EVENT, **attributes}.items()})


def structured(data: Any, **attributes: Any) -> Record:
    return record({**EVENT, "data": data, **attributes}, STRUCTURED)


def trigger(**changes: Any) -> EventTrigger:
    written = {"name": "t", "topic": "agencies.events", "agency_id": "data.agency_id"}
    return EventTrigger.model_validate({**written, **changes})


UPDATED = trigger(match={"type": "agency.updated"})


def found(each: Record, *triggers: EventTrigger) -> list[int]:
    return [each.agency_id for each in occurrences(each, triggers or (UPDATED,), now=NOW)]


def fault(each: Record, *triggers: EventTrigger) -> str:
    with pytest.raises(InvalidEvent) as raised:
        occurrences(each, triggers or (UPDATED,), now=NOW)
    assert raised.value.kind == "invalid_event"
    return str(raised.value)


@pytest.mark.parametrize("event", [binary, structured])
def test_an_event_in_either_mode_says_the_same(event: Any) -> None:
    """Agency, params, time, trace, source and id."""
    asking = trigger(match={"type": "agency.updated"}, params={"region": {"from": "data.place.region"}, "kind": "full"})
    each = event(
        {"agency_id": 12, "place": {"region": "eu"}}, time="2026-01-18T12:30:00.5+01:00", traceparent=TRACEPARENT
    )
    (found,) = occurrences(each, [asking], now=NOW)
    assert (found.trigger, found.agency_id) == ("t", 12)
    assert found.params == {"region": "eu", "kind": "full"}
    assert found.time == datetime(2026, 1, 18, 11, 30, 0, 500_000, tzinfo=UTC)
    assert found.trace == {"traceparent": TRACEPARENT}
    assert (found.source, found.event_id) == ("/agencies", "e-1")


def test_plain_json_is_an_event_without_a_type() -> None:
    """Its time is the record's; a trigger without a type takes it."""
    plain = record({"agency_id": 12}, {"traceparent": TRACEPARENT})
    assert found(plain) == []
    (each,) = occurrences(plain, [trigger()], now=NOW)
    assert (each.agency_id, each.time) == (12, NOW - timedelta(minutes=1))
    assert (each.source, each.event_id, each.trace) == (None, None, {"traceparent": TRACEPARENT})


@pytest.mark.parametrize(
    ("agency_id", "value"),
    [
        ("data.agency_id", {"agency_id": "12"}),
        ("key", b"not JSON"),
        ("subject", None),
        ("data", 12),
        ("data.0.id", [{"id": 12}]),
        ("tenant", {}),
    ],
)
def test_the_agency_may_stand_anywhere(agency_id: str, value: Any) -> None:
    """In the body, which isn't parsed for the others, in the key, or in an attribute."""
    headers = {f"ce_{name}": text for name, text in {**EVENT, "subject": "12", "tenant": "12"}.items()}
    assert found(record(value, headers, key=b"12"), trigger(agency_id=agency_id)) == [12]


UUID = "018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5"


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [("uuid", UUID, UUID), ("uuid", UUID.upper(), UUID), ("text", "acme/eu", "acme/eu"), ("text", 7, "7")],
)
def test_agencies_may_be_uuids_or_texts(kind: str, value: Any, key: str) -> None:
    """As the job config says; what an event writes otherwise gets the one spelling that requests have."""
    (each,) = occurrences(binary({"agency_id": value}), [UPDATED], now=NOW, terms=Terms(agency_key=AgencyKey(kind)))
    assert each.agency_id == key


@pytest.mark.parametrize(("kind", "told"), [("uuid", "a UUID"), ("text", "text, which must have")])
def test_what_is_no_key_is_told(kind: str, told: str) -> None:
    """With what it must be."""
    with pytest.raises(InvalidEvent, match=f"looks there for the agency's id: {told}"):
        occurrences(binary({"agency_id": ""}), [UPDATED], now=NOW, terms=Terms(agency_key=AgencyKey(kind)))


@pytest.mark.parametrize("value", [0, -1, 2**63, 1.0, True, None, "", "x", "+1", " 1", "1.0", "٣", "9" * 30, [1], {}])
def test_what_is_no_agency_id_is_told(value: Any) -> None:
    """With what stood there instead."""
    assert "looks there for the agency's id" in fault(binary({"agency_id": value}))


@pytest.mark.parametrize(("value", "told"), [({"name": "Ada"}, "an object"), ([["Ada"]], "a list")])
def test_only_scalars_of_an_event_are_quoted(value: Any, told: str) -> None:
    """Faults are logged, and an object may hold personal data."""
    assert fault(binary({"agency_id": value})).startswith(f"data.agency_id of the event is {told}, and trigger 't'")
    asking = trigger(params={"region": {"from": "data.region"}})
    assert (
        fault(binary({"agency_id": 1, "region": value}), asking)
        == "Trigger 't' can't use the event: params: region must be text, a number, true, false or null."
    )


@pytest.mark.parametrize("body", [None, {}, [], "text", 7, {"agency": {"agency_id": 7}}])
def test_an_event_without_an_agency_is_told(body: Any) -> None:
    """With the path where it should stand."""
    assert fault(structured(body)) == "The event has no data.agency_id, where trigger 't' looks for the agency's id."


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (binary(b"{"), "isn't JSON"),
        (binary(b"\xff"), "isn't UTF-8"),
        (binary(b"[" * 100_000), "isn't JSON"),
        (binary(b" " * (MAX_EVENT_BYTES + 1)), "an event may have 1,048,576 at most"),
        (record(b" " * (MAX_EVENT_BYTES + 1), STRUCTURED), "an event may have 1,048,576 at most"),
        (record(b"{", STRUCTURED), "isn't JSON"),
        (record([], STRUCTURED), "the value isn't an object"),
        (replace(binary({"agency_id": 1}), timestamp_ms=1_768_737_600_000_000), "set it in milliseconds since 1970"),
        (replace(binary({"agency_id": 1}), timestamp_ms=2**63 - 1), "set it in milliseconds since 1970"),
        (binary({"agency_id": 1}, specversion="0.3"), "attributes aren't valid"),
        (binary({"agency_id": 1}, id=""), "attributes aren't valid"),
        (structured({"agency_id": 1}, source=7), "attributes aren't valid"),
        (binary({"agency_id": 1}, time="yesterday"), "attributes aren't valid"),
        (binary({"agency_id": 1}, time="2026-02-30T00:00:00Z"), "2026-02-30T00:00:00Z, doesn't exist"),
        (binary({"agency_id": 1}, time="0001-01-01T00:00:00+10:00"), "doesn't exist"),
        (binary({"agency_id": 1}, time="2026-01-18T12:06:00Z"), "more than 5 minutes in the future"),
    ],
)
def test_an_event_that_matches_and_cant_be_used_is_told(each: Record, message: str) -> None:
    """It becomes a dead letter."""
    assert message in fault(each)


@pytest.mark.parametrize("value", [b"\x00\x00Avro", b"{", b" " * (MAX_EVENT_BYTES + 1), None])
def test_an_event_of_another_type_is_skipped_unread(value: bytes | None) -> None:
    """Whatever its body is: other services' events share the topic."""
    assert found(binary(value, type="agency.deleted", time="never")) == []


def test_a_time_a_little_ahead_counts_as_now() -> None:
    """Clocks differ; a late event keeps its time."""
    late = "1999-12-31T23:59:59Z"
    assert occurrences(binary({"agency_id": 1}, time="2026-01-18T12:04:00Z"), [UPDATED], now=NOW)[0].time == NOW
    assert occurrences(binary({"agency_id": 1}, time=late), [UPDATED], now=NOW)[0].time.year == 1999


@pytest.mark.parametrize(
    ("match", "body", "why"),
    [
        ({"type": "agency.created"}, {}, "its type is agency.updated, not agency.created"),
        ({"type": ["a", "b"]}, {}, "its type is agency.updated, not a or b"),
        ({"body": {"status": "final"}}, {}, 'its body has no status, which must be "final"'),
        (
            {"body": {"status": ["final", None]}},
            {"status": "draft"},
            'status in its body is "draft", not "final" or null',
        ),
        ({"body": {"n": 1}}, {"n": True}, "n in its body is true, not 1"),
        ({"body": {"n": 1}}, {"n": "1"}, 'n in its body is "1", not 1'),
        ({"body": {"n": True}}, {"n": 1}, "n in its body is 1, not true"),
        ({"body": {"n": None}}, {}, "its body has no n, which must be null"),
        ({"body": {"a.b": 1}}, {"a": 1}, "its body has no a.b, which must be 1"),
        ({"type": "agency.updated"}, {}, None),
        ({"type": ["x", "agency.updated"], "body": {"a.b": 1, "c": ["x", "y"]}}, {"a": {"b": 1.0}, "c": "y"}, None),
        ({"body": {"n": None}}, {"n": None}, None),
        ({}, {}, None),
    ],
)
def test_all_conditions_must_hold(match: dict[str, Any], body: Any, why: str | None) -> None:
    """And the first that doesn't is told."""
    assert mismatch(read_event(binary(body)), trigger(match=match)) == why


def test_an_event_may_match_several_triggers() -> None:
    """Each of its topic; others never see it."""
    several = [UPDATED, trigger(name="u"), trigger(name="v", topic="others"), trigger(name="w", match={"type": "x"})]
    assert [each.trigger for each in occurrences(binary({"agency_id": 1}), several, now=NOW)] == ["t", "u"]


def test_all_triggers_faults_are_told_at_once() -> None:
    """One that could use the event gets it with the others, once the event is sent again."""
    told = fault(
        binary({"agency_id": 1}),
        UPDATED,
        trigger(name="u", agency_id="data.id"),
        trigger(name="v", params={"p": {"from": "subject"}}),
    )
    assert "trigger 'u' looks for the agency's id" in told
    assert "trigger 'v' looks for the param p" in told


@pytest.mark.parametrize(("body", "value"), [({}, "none"), ({"p": 1.5}, 1.5), ({"p": None}, None)])
def test_a_param_has_a_default_for_events_without_it(body: dict[str, Any], value: Any) -> None:
    """A null counts as a value."""
    asking = trigger(params={"p": {"from": "data.p", "default": "none"}})
    assert occurrences(binary({"agency_id": 1, **body}), [asking], now=NOW)[0].params == {"p": value}


@pytest.mark.parametrize("value", ["[1]", "{}", "100000000000000000000", "1e999", "NaN", '"\\ud800"'])
def test_a_param_that_no_request_can_hold_is_told(value: str) -> None:
    """Before a window is made of it."""
    asking = trigger(params={"p": {"from": "data.p"}})
    fault(binary(f'{{"agency_id": 1, "p": {value}}}'.encode()), asking)


@pytest.mark.parametrize(("value", "message"), [(7, "must be text"), (None, "can't be null"), (True, "must be text")])
def test_a_param_of_another_type_than_declared_is_told(value: Any, message: str) -> None:
    """It would make the request of the whole window a dead letter."""
    declared = {"p": ParamConfig.model_validate({"type": "text"})}
    asking = trigger(params={"p": {"from": "data.p"}})
    with pytest.raises(InvalidEvent, match=f"The param p of trigger 't' {message}"):
        occurrences(binary({"agency_id": 1, "p": value}), [asking], now=NOW, terms=Terms(declared=declared))
    assert occurrences(binary({"agency_id": 1, "p": "x"}), [asking], now=NOW, terms=Terms(declared=declared))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_characters="."), min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


def paths_of(body: Any) -> list[tuple[str, ...]]:
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [()] + [(str(key), *rest) for key, value in inner for rest in paths_of(value)]


@examples(100)
@given(JSON, st.data())
def test_a_path_is_walked_key_by_key(body: Any, data: Any) -> None:
    """The value at `a.b` is the value at `b` of the value at `a`."""
    path = data.draw(st.sampled_from(paths_of(body)))
    at = data.draw(st.integers(0, len(path)))
    assert value_at(value_at(body, path[:at]), path[at:]) == value_at(body, path)


@examples(100)
@given(st.binary(max_size=200) | JSON.map(lambda each: json.dumps(each).encode()))
def test_any_bytes_are_an_event_or_a_dead_letter(value: bytes) -> None:
    """Nothing else is raised."""
    for headers in ({}, STRUCTURED, {f"ce_{name}": text for name, text in EVENT.items()}):
        try:
            found(record(value, headers), trigger(params={"p": {"from": "data.p", "default": 1}}))
        except InvalidEvent:
            continue
