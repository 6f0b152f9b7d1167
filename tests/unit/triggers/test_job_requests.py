"""Requests of windows and ticks: what they ask for, and that equal windows ask the same."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline_processing.model import JobRequest, RunId
from pipeline_processing.triggers.config import EventTrigger, ScheduleTrigger
from pipeline_processing.triggers.job_requests import (
    OLDEST_SINCE,
    links,
    request_of_event,
    requests_of_tick,
    run_id_of_window,
)
from pipeline_processing.triggers.matching import Occurrence
from tests.properties import examples

NOW = datetime(2026, 1, 18, 12, tzinfo=UTC)
TRACE, SPAN = "6f1c0a9d27b84e53a1d2c3b4e5f60718", "a1b2c3d4e5f60718"
RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)


def trigger(**changes: Any) -> EventTrigger:
    return EventTrigger.model_validate({"name": "t", "topic": "x", "agency_id": "key", "since": None, **changes})


def asked(trigger: EventTrigger, **changes: Any) -> JobRequest:
    fields = {"trigger": "t", "agency_id": 7, "params": {}, "time": NOW - timedelta(hours=1), "trace": {}, **changes}
    return request_of_event(trigger, Occurrence(**fields), window="w", now=NOW)


def test_a_window_asks_for_what_its_trigger_says() -> None:
    """Datasets, format, params, priority and who asks."""
    request = asked(
        trigger(datasets=["records"], format="csv", priority=5, since="event_time", labels={"team": "b"}),
        params={"region": "eu"},
    )
    assert request.model_dump(mode="json", exclude_defaults=True) == {
        "agency_id": 7,
        "run_id": run_id_of_window("t", 7, "w"),
        "datasets": ["records"],
        "format": "csv",
        "params": {"region": "eu"},
        "since": "2026-01-18T11:00:00Z",
        "labels": {"team": "b"},
        "priority": 5,
        "requested_by": "trigger:t",
    }


@pytest.mark.parametrize(
    ("since", "age", "sent"),
    [
        (None, timedelta(hours=1), False),
        ("event_time", timedelta(hours=1), True),
        ("event_time", OLDEST_SINCE, True),
        ("event_time", OLDEST_SINCE + timedelta(seconds=1), False),
        ("event_time", timedelta(days=9999), False),
    ],
)
def test_a_very_late_event_sets_no_since(since: Any, age: timedelta, sent: bool) -> None:
    """The dataset starts where it does without one."""
    assert asked(trigger(since=since), time=NOW - age).since == (NOW - age if sent else None)


@examples(100)
@given(st.text(max_size=50), st.text(max_size=50), st.integers(1, 2**63 - 1))
def test_run_ids_are_equal_for_equal_windows_only(one: str, other: str, agency_id: int) -> None:
    """And each is a run id."""
    first, second = (RUN_ID.validate_python(run_id_of_window("n" * 64, agency_id, each)) for each in (one, other))
    assert (first == second) == (one == other)


def test_run_ids_have_room_for_every_key() -> None:
    """A text stands in them by its hash, and digits as the integer does, so that no two agencies share one."""
    keys = ("018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5", "acme/eu", "acme", "é" * 30, "07", 7)
    run_ids = [run_id_of_window("t" * 64, key, "w") for key in keys]
    requests = [JobRequest(agency_id=key, run_id=run_id) for key, run_id in zip(keys, run_ids, strict=True)]

    assert len({request.run_id for request in requests}) == len(keys)
    assert run_id_of_window("t", "7", "w") == run_id_of_window("t", 7, "w")


def test_a_tick_asks_for_each_agency() -> None:
    """The run ids say when, in UTC."""
    nightly = ScheduleTrigger.model_validate(
        {"name": "nightly", "schedule": {"cron": "0 3 * * *", "agencies": [1, 2]}, "params": {"kind": "full"}}
    )
    requests = requests_of_tick(nightly, datetime(2026, 1, 18, 2, tzinfo=UTC), agencies=[1, 2])
    assert [each.run_id for each in requests] == [
        "trigger-nightly-1-20260118T020000Z",
        "trigger-nightly-2-20260118T020000Z",
    ]
    assert {each.requested_by for each in requests} == {"trigger:nightly"}
    assert requests[0].params == {"kind": "full"}


def test_links_lead_to_the_events_spans() -> None:
    """Each once; an event without a valid trace has none."""
    carrier = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=b"}
    (link,) = links([carrier, {}, {"traceparent": "nonsense"}, carrier])
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, SPAN)
