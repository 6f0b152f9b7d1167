"""Spans are encoded as OpenTelemetry's own exporter would."""

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from pipeline_processing.telemetry.otlp import encoded

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
STATE = TraceState([("a", "1"), ("b", "2")])
VALUES = {
    "text": "Łódź",
    "empty": "",
    "int": -(1 << 63),
    "bool": True,
    "float": float("inf"),
    "list": ["a", "b"],
    "numbers": (1, 2.5, False),
    "none of them": [],
}


def span(name: str, **others: object) -> ReadableSpan:
    whole: dict[str, object] = {
        "context": SpanContext((1 << 128) - 1, 1, is_remote=False, trace_flags=SAMPLED),
        "resource": Resource({"service.name": "exports", "port": 1}, "https://example/1"),
        "instrumentation_scope": InstrumentationScope("scope", schema_url="https://example/2"),
        "start_time": 1_790_000_000_000_000_000,
        "end_time": 1_790_000_000_000_000_001,
        **others,
    }
    return ReadableSpan(name, **whole)  # type: ignore[arg-type]


def test_the_encoding_equals_opentelemetrys() -> None:
    """All kinds, parents near and far, values of each type, events, links, state and status."""
    near = SpanContext(5, 6, is_remote=False, trace_flags=SAMPLED)
    far = SpanContext(7, 8, is_remote=True, trace_flags=SAMPLED, trace_state=STATE)
    spans = [
        *(span(f"kind {kind}", kind=kind) for kind in SpanKind),
        span("below one of this process", parent=near, attributes=VALUES),
        span("below one of another", parent=far, context=SpanContext(7, 9, False, SAMPLED, STATE)),
        span("with events", events=[Event("a", VALUES, 12), Event("b", {}, 13)]),
        span("with links", links=[Link(near, {"x": 1}), Link(far)]),
        *(span(f"status {code}", status=Status(code)) for code in StatusCode),
        span("failed", status=Status(StatusCode.ERROR, "why")),
    ]
    theirs = encode_spans(spans)
    for each in theirs.resource_spans[0].scope_spans[0].spans:
        if not each.status.code:
            each.ClearField("status")  # there, but empty

    assert ExportTraceServiceRequest.FromString(encoded(spans)) == theirs


def test_other_values_become_text() -> None:
    """As a step may set them, against the API."""
    request = ExportTraceServiceRequest.FromString(encoded([span("a", attributes={"x": 1 << 63, "y": {1: 2}})]))

    pairs = request.resource_spans[0].scope_spans[0].spans[0].attributes
    assert {pair.key: pair.value.string_value for pair in pairs} == {"x": str(1 << 63), "y": "{1: 2}"}
