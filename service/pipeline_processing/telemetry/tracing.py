"""
Traces. Every run has a trace id, in its history row, events and objects, even if spans aren't collected. Spans are
recorded and exported only if OpenTelemetry's variables configure an exporter. The SDK samples, batches and exports
them; `spans.py` records them.

Without an exporter, the SDK isn't imported, because commands would start noticeably slower.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.util.types import Attributes

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.spans import RecordedSpan, current_span, random_id

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

    from pipeline_processing.telemetry.export import QuietExporter

SHUTDOWN_SECONDS = 5.0
"""How long an unreachable collector may delay the end of a process."""

_log = logging.getLogger(__name__)


class Telemetry:
    """
    Tracing for the length of a block. `exporting` says whether spans are exported.

    No global state is set: code that creates spans gets `tracer`, and `trace_ids` returns a span's ids.
    """

    def __init__(
        self,
        *,
        tracer: Tracer,
        processors: Sequence[SpanProcessor] = (),
        exporters: Sequence[QuietExporter] = (),
    ) -> None:
        self.tracer = tracer
        self.exporting = bool(exporters)
        self._processors = processors
        self._exporters = exporters

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Export the remaining spans, for SHUTDOWN_SECONDS at most. Blocks: call it after the event loop has ended."""
        if not self.exporting:
            return
        self.exporting = False
        # The SDK waits 30 s for a batch in progress, regardless of its own limit. In a daemon thread, a hanging export
        # ends with the process.
        thread = threading.Thread(target=_shut_down, args=(self._processors,), name="telemetry-shutdown", daemon=True)
        thread.start()
        thread.join(SHUTDOWN_SECONDS)
        if thread.is_alive():
            _log.warning(
                "The last spans are lost: their export didn't finish within %g s (%s).",
                SHUTDOWN_SECONDS,
                "; ".join(exporter.complaint for exporter in self._exporters),
            )


def _shut_down(processors: Sequence[SpanProcessor]) -> None:
    for processor in processors:
        try:
            processor.shutdown()
        except Exception as error:
            _log.warning("The last spans are lost: %s: %s", type(error).__name__, error)


def configure_telemetry(environ: Mapping[str, str], *, mask: Mask) -> Telemetry:
    """
    Set up tracing according to OTEL_* variables; spans are masked. Leaving the returned block exports remaining spans.

    The SDK itself reads further OTEL_* variables (sampler, limits, endpoint, headers, …) from the process environment.
    Raises SettingsError for an exporter that isn't installed or can't be set up.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry(tracer=IdsOnlyTracer())
    if names := exporters_named_in(environ, "TRACES"):
        from pipeline_processing.telemetry.export import configured_exporter

        return telemetry_with([configured_exporter(name, environ) for name in names], environ, mask=mask)
    if environ.get("OTEL_TRACES_SAMPLER", "").strip():
        return telemetry_with([], environ, mask=mask)  # whether a trace is sampled is for the SDK to say
    return Telemetry(tracer=IdsOnlyTracer(TraceFlags(TraceFlags.SAMPLED)))


def exporters_named_in(environ: Mapping[str, str], signal: str) -> list[str]:
    """Return the exporters that OTEL_<signal>_EXPORTER names, or OTLP if only an endpoint is set; none by default."""
    listed = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not listed and any(environ.get(variable, "").strip() for variable in endpoints):
        listed = "otlp"
    names = dict.fromkeys(name.strip().lower() for name in listed.split(","))
    return [name for name in names if name not in ("", "none")]


def telemetry_with(exporters: Sequence[SpanExporter], environ: Mapping[str, str], *, mask: Mask) -> Telemetry:
    """
    Return tracing by the SDK, with the given exporters. Without any, spans have ids but are dropped.

    Raises SettingsError if OTEL_BSP_… variables don't fit together.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from pipeline_processing.telemetry.export import QuietExporter

    resource = resource_from(environ)
    quiet = [QuietExporter(exporter, mask, resource=resource) for exporter in exporters]
    try:
        # A processor only hands on what it gets, from RecordingTracer to QuietExporter.
        processors = [BatchSpanProcessor(cast("Any", exporter)) for exporter in quiet]
    except ValueError as error:
        raise SettingsError(f"The queue of spans can't be set up: {error} Correct the OTEL_BSP_… variables.") from error
    sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # that of OTEL_TRACES_SAMPLER
    return Telemetry(
        tracer=RecordingTracer(sampler=sampler, processors=processors), processors=processors, exporters=quiet
    )


def resource_from(environ: Mapping[str, str]) -> Resource:
    """Return what describes this process in traces and metrics, from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES."""
    from importlib.metadata import version

    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

    resource = Resource.create({SERVICE_VERSION: version("pipeline-processing")})
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if not name and str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        name = "pipeline-processing"
    return resource.merge(Resource({SERVICE_NAME: name})) if name else resource


class _ContextTracer(Tracer):
    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the API's own decorator is private
        self, name: str, context: Context | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[Span]:
        span = self.start_span(name, context, *args, **kwargs)
        with current_span(span) if isinstance(span, RecordedSpan) else trace.use_span(span):
            yield span


class RecordingTracer(_ContextTracer):
    """
    Creates spans of `spans.py`, and gives those that have ended to the SDK's processors.

    The sampler decides on a trace's first span in this process. The spans below follow it.
    """

    def __init__(self, *, sampler: Sampler, processors: Sequence[SpanProcessor]) -> None:
        self._sampler = sampler
        self._processors = processors

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        *_: Any,
        **__: Any,
    ) -> Span:
        current = trace.get_current_span(context)
        if isinstance(current, RecordedSpan):
            return current.child(name, kind=kind, attributes=attributes, links=links, start_time=start_time)
        parent = current.get_span_context() if current.get_span_context().is_valid else None
        trace_id = parent.trace_id if parent is not None else random_id(128)
        # Whether a stored trace was sampled isn't known. Samplers decide alike on the same trace id.
        asked = Context() if isinstance(current, _StoredSpan) else context
        sampled = self._sampler.should_sample(asked, trace_id, name, kind, attributes, links)
        is_sampled = sampled.decision.is_sampled()  # type: ignore[no-untyped-call]
        flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
        own = SpanContext(trace_id, random_id(64), False, flags, sampled.trace_state)
        if not (is_sampled and self._processors):
            return NonRecordingSpan(own)
        span = RecordedSpan(
            name,
            context=own,
            parent=parent,
            on_end=self._ended,
            kind=kind,
            attributes=sampled.attributes,
            links=links,
            start_time=start_time,
        )
        span.set_attributes(attributes or {})
        return span

    def _ended(self, span: RecordedSpan) -> None:
        for processor in self._processors:
            processor.on_end(cast("Any", span))


# -- ids -----------------------------------------------------------------------------------------


def trace_ids(span: Span) -> tuple[str, str]:
    """Return trace id and span id, as 32 and 16 hex digits."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


class _StoredSpan(NonRecordingSpan):
    """A span of which only the ids are stored, not whether it was sampled."""


def parent_context(trace_id: str, span_id: str) -> Context:
    """Return the context in which a new span continues a stored trace, such as a run's."""
    parent = SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(_StoredSpan(parent))


class IdsOnlyTracer(_ContextTracer):
    """
    Creates spans with valid ids only: for OTEL_SDK_DISABLED, where the SDK's spans have no ids, and where no spans are
    collected. `flags` are those of new traces.
    """

    def __init__(self, flags: TraceFlags = trace.DEFAULT_TRACE_OPTIONS) -> None:
        self._flags = flags

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:
        parent = trace.get_current_span(context).get_span_context()
        return NonRecordingSpan(
            SpanContext(
                trace_id=parent.trace_id if parent.is_valid else random_id(128),
                span_id=random_id(64),
                is_remote=False,
                trace_flags=parent.trace_flags if parent.is_valid else self._flags,
                trace_state=parent.trace_state,
            )
        )
