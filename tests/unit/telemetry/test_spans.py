"""Spans below the current one: what is in them, and that they cost nothing where nobody collects them."""

import time

import pytest
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from pipeline_processing.errors import QueryFailed
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.otlp import encoded
from pipeline_processing.telemetry.spans import child, child_span
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.unit.recorded import Recorded

SECRET = "a-secret-of-ours"


def test_spans_stand_below_the_current_one() -> None:
    """A span inside a block is the current one; one that a caller ends isn't."""
    with Recorded() as recorded:
        with recorded.tracer.start_as_current_span("attempt 1"):
            query = child("query", kind=SpanKind.CLIENT)
            with child_span("publish"), child_span("finish"):
                pass
            query.end()
        assert trace.get_current_span() is trace.INVALID_SPAN

    assert recorded.tree() == {"attempt 1": None, "query": "attempt 1", "publish": "attempt 1", "finish": "publish"}
    assert len({span.context.trace_id for span in recorded.spans if span.context}) == 1
    assert recorded.named("query").kind is SpanKind.CLIENT


def test_where_nobody_collects_spans_there_are_none() -> None:
    """Nor do they replace the current one, whose ids the log shows."""
    with IdsOnlyTracer().start_as_current_span("attempt 1") as attempt, child_span("publish") as span:
        assert not span.is_recording()
        assert not child("query").is_recording()
        assert trace.get_current_span() is attempt


def test_a_span_has_what_it_was_given() -> None:
    """All that the API allows, as steps may use it. After the end nothing changes."""
    linked = SpanContext(3, 4, is_remote=True)
    with Recorded() as recorded:
        span = recorded.tracer.start_span("a", attributes={"x": 1}, links=[Link(linked)], start_time=5)
        span.set_attribute("y", "two")
        span.set_attributes({"z": [1.5, 2.5]})
        span.add_link(SpanContext(6, 7, is_remote=False))
        more = {"more": True}
        span.add_event("happened", more, timestamp=8)
        more.clear()
        span.record_exception(KeyError("k"))
        span.update_name("b")
        span.set_status(StatusCode.ERROR, "why")
        span.end(9)
        for late in (span.end, lambda: span.set_attribute("late", 1), lambda: span.add_event("late")):
            late()

    (ended,) = recorded.spans
    assert (ended.name, ended.start_time, ended.end_time) == ("b", 5, 9)
    assert dict(ended.attributes or {}) == {"x": 1, "y": "two", "z": [1.5, 2.5]}
    assert [link.context.span_id for link in ended.links] == [4, 7]
    happened, exception = ended.events
    assert (happened.name, dict(happened.attributes or {}), happened.timestamp) == ("happened", {"more": True}, 8)
    assert dict(exception.attributes or {}) == {"exception.type": "KeyError", "exception.message": "'k'"}
    assert (ended.status.status_code, ended.status.description) == (StatusCode.ERROR, "why")


def test_an_error_fails_the_spans_that_it_passes() -> None:
    """By its kind. One that the caller expects is no failure."""
    with Recorded() as recorded:
        with (
            pytest.raises(QueryFailed),
            recorded.tracer.start_as_current_span("attempt 1"),
            child_span("asks", expected=QueryFailed),
        ):
            raise QueryFailed("no such column")
        with pytest.raises(KeyError), recorded.tracer.start_as_current_span("other"):
            raise KeyError

    failed, asks, other = (recorded.named(name) for name in ("attempt 1", "asks", "other"))
    assert (failed.attributes or {})["error.type"] == "query_failed"
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "query_failed")
    assert [event.name for event in failed.events] == ["exception"]
    assert (asks.status.status_code, asks.events, dict(asks.attributes or {})) == (StatusCode.UNSET, (), {})
    assert (other.attributes or {})["error.type"] == "KeyError"


def test_all_that_leaves_is_masked() -> None:
    """Names, attributes with their keys, events, status; and a value by the name of a secret."""
    mask = Mask()
    with Recorded(mask) as recorded:
        span = recorded.tracer.start_span(f"name {SECRET}", attributes={SECRET: "k", "v": SECRET, "password": "short"})
        span.add_event(f"event {SECRET}", {"more": [SECRET, f"and {SECRET}"], "count": 12345678901})
        span.set_status(Status(StatusCode.ERROR, f"status {SECRET}"))
        mask.know([SECRET, "12345678901"])  # before the export is soon enough
        span.end()

    (ended,) = recorded.spans
    (event,) = ended.events
    assert (ended.name, event.name, ended.status.description) == ("name ***", "event ***", "status ***")
    assert dict(ended.attributes or {}) == {"***": "k", "v": "***", "password": "***"}
    assert dict(event.attributes or {}) == {"more": ["***", "and ***"], "count": "***"}


def test_text_that_is_not_unicode_costs_no_other_span() -> None:
    """As in an error that quotes a value, or what a step adds. Protobuf refuses such text, and so all of a batch."""
    with Recorded() as recorded:
        span = recorded.tracer.start_span("a \ud800", attributes={"v": "\ud800", "more": ["\udfff", 1]})
        span.record_exception(ValueError("not \ud800"))
        span.end()

    assert encoded(recorded.spans)
    (ended,) = recorded.spans
    assert (ended.name, dict(ended.attributes or {})) == ("a \\ud800", {"v": "\\ud800", "more": ["\\udfff", 1]})


def test_a_step_that_adds_events_for_each_row_takes_no_memory_for_all() -> None:
    with Recorded() as recorded:
        span = recorded.tracer.start_span("a")
        for number in range(1000):
            span.add_event("row")
            span.set_attribute(f"row {number}", number)
        span.end()

    (ended,) = recorded.spans
    assert (len(ended.events), len(ended.attributes or {})) == (128, 128)


def test_times_are_those_of_the_clock() -> None:
    before = time.time_ns()
    with Recorded() as recorded, recorded.tracer.start_as_current_span("a"):
        pass

    (ended,) = recorded.spans
    assert ended.start_time is not None
    assert ended.end_time is not None
    assert before <= ended.start_time <= ended.end_time <= time.time_ns()
