"""
Traces as a receiver of OTLP gets them: from the message of a producer, or an upstream event, to the completion event.

What is in them is what docs/operations.md says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import JOB, LARGE, SMALL, Service, changed
from tests.acceptance.upstream import TRACEPARENT, Upstream
from tests.docs.traces import documented_spans
from tests.otlp_receiver import OtlpReceiver, attributes, otlp_receiver

PRODUCERS_TRACE, PRODUCERS_SPAN = "ef" * 16, "12" * 8
HEADERS = {"traceparent": f"00-{PRODUCERS_TRACE}-{PRODUCERS_SPAN}-01", "tracestate": "vendor=1"}
PARAM = "a-value-that-is-bound"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture
def traced(service: Service, receiver: OtlpReceiver) -> Service:
    """A service that sends its spans to the receiver."""
    service.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
    return service


def paths(spans: list[Span], trace_id: str) -> dict[str, str]:
    """Return each span of a trace as the names from its first span to its own, and the id of the first's parent."""
    mine = {span.span_id: span for span in spans if span.trace_id.hex() == trace_id}

    def path(span: Span) -> str:
        parent = mine.get(span.parent_span_id)
        return span.name if parent is None else f"{path(parent)} / {span.name}"

    def origin(span: Span) -> str:
        parent = mine.get(span.parent_span_id)
        return span.parent_span_id.hex() if parent is None else origin(parent)

    return {path(span): origin(span) for span in mine.values()}


def test_a_trace_leads_from_the_request_to_the_event(
    traced: Service, messages: Messages, receiver: OtlpReceiver
) -> None:
    """With a span for each stage and each request to S3, and without the values that queries are given."""
    query = {"query": "SELECT * FROM records WHERE agency_id = $1 AND name <> $2", "args": ["agency_id", "name"]}
    job = changed(JOB, records={"source": {"postgres": query}, "steps": [{"filter": "id % 2 = 0"}]})
    job["params"] = {"name": {"type": "text", "default": "none"}}
    serve = traced.serve("--config", traced.job_config(job))
    messages.send({"agency_id": LARGE, "run_id": "traced", "params": {"name": PARAM}}, headers=HEADERS)
    (event,) = messages.wait_for_completions(1)
    serve.stop()

    there = paths(receiver.spans, PRODUCERS_TRACE)
    assert {*there.values()} == {PRODUCERS_SPAN}
    attempt, publish = "accept request / attempt 1", "accept request / attempt 1 / publish"
    records, documents = f"{attempt} / dataset records", f"{attempt} / dataset documents"
    assert {*there} >= {
        "accept request",
        "accept request / send event",
        attempt,
        f"{attempt} / snapshot",
        records,
        *(f"{records} / {name}" for name in ("query records", "stage source", "stage steps", "stage format")),
        *(f"{documents} / {name}" for name in ("stage upload", "S3.CreateMultipartUpload", "S3.UploadPart")),
        f"{attempt} / S3.HeadObject",
        f"{attempt} / prepare",
        publish,
        *(f"{publish} / complete / S3.{method}" for method in ("CompleteMultipartUpload", "PutObject")),
        f"{publish} / S3.PutObject",
        f"{publish} / finish",
    }
    spans = {span.name: span for span in receiver.spans if span.trace_id.hex() == PRODUCERS_TRACE}
    assert event.header("traceparent") == f"00-{PRODUCERS_TRACE}-{spans['accept request'].span_id.hex()}-01"
    assert event.header("tracestate") == "vendor=1"
    counts = attributes(spans["dataset records"].attributes)
    assert (counts["rows_read"], counts["rows_written"], counts["rows_filtered"]) == (12, 6, 6)
    assert attributes(spans["query records"].attributes)["db.query.text"] == query["query"]
    assert PARAM not in receiver.text
    assert not any(span.status.code for span in receiver.spans)
    assert receiver.resource["service.name"] == "pipeline-processing"
    assert_documented(receiver.spans)


def test_a_triggered_run_leads_back_to_its_events(
    traced: Service, messages: Messages, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    """By a link, since there may be many. The run goes on in the trace of the span that has the links."""
    upstream = Upstream(messages, environment=traced.environment, folder=tmp_path, debounce=None)
    upstream.create(partitions=1)
    serve = traced.serve("--config", traced.job_config(JOB))
    triggers = upstream.start()
    upstream.happen([SMALL])
    (event,) = messages.wait_for_completions(1)
    triggers.stop()
    serve.stop()

    (asked,) = (span for span in receiver.spans if span.name == "trigger run")
    (link,) = asked.links
    assert f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" == TRACEPARENT
    there = paths(receiver.spans, event.json["trace_id"])
    assert {"trigger run", "trigger run / accept request / attempt 1", "trigger run / accept request / send event"} <= {
        *there
    }


def assert_documented(spans: list[Span]) -> None:
    """Each span is in the docs, with its kind and attributes, and all of its attributes occur."""
    documented, occurring = documented_spans(), defaultdict[str, set[str]](set)
    for span in spans:
        (row,) = (row for row in documented if re.fullmatch(row.pattern, span.name))
        assert Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower() == row.kind, span.name
        occurring[row.name].update(attributes(span.attributes))
    assert occurring == {row.name: row.attributes for row in documented if row.name in occurring}
