"""
Traces. Every run has a trace id, in its history row, events and objects, even if spans aren't collected. Spans are
recorded and exported, and the database and S3 clients instrumented, only if OpenTelemetry's variables configure an
exporter.

Without an exporter, the SDK isn't imported, because commands would start noticeably slower.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

from pipeline_processing.telemetry.masking import Mask

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from pipeline_processing.telemetry.export import QuietExporter

SHUTDOWN_SECONDS = 5.0
"""How long an unreachable collector may delay the end of a process."""

_SCOPE = "pipeline_processing"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
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
        provider: TracerProvider | None = None,
        exporters: Sequence[QuietExporter] = (),
    ) -> None:
        self.tracer = tracer
        self.exporting = bool(exporters)
        self._provider = provider
        self._exporters = exporters
        self._instrumentors = _instrument(provider) if provider is not None and exporters else []

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Export the remaining spans, for SHUTDOWN_SECONDS at most. Blocks: call it after the event loop has ended."""
        while self._instrumentors:
            self._instrumentors.pop().uninstrument()
        if self._provider is None or not self.exporting:
            return
        self.exporting = False
        # The SDK waits 30 s for a batch in progress, regardless of its own limit. In a daemon thread, a hanging export
        # ends with the process.
        thread = threading.Thread(target=_shut_down, args=(self._provider,), name="telemetry-shutdown", daemon=True)
        thread.start()
        thread.join(SHUTDOWN_SECONDS)
        if thread.is_alive():
            _log.warning(
                "The last spans are lost: their export didn't finish within %g s (%s).",
                SHUTDOWN_SECONDS,
                "; ".join(exporter.complaint for exporter in self._exporters),
            )


def _shut_down(provider: TracerProvider) -> None:
    try:
        provider.shutdown()
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
    if names := _exporters_named_in(environ):
        from pipeline_processing.telemetry.export import configured_exporter

        return telemetry_with([configured_exporter(name, environ) for name in names], environ, mask=mask)
    if environ.get("OTEL_TRACES_SAMPLER", "").strip():
        return telemetry_with([], environ, mask=mask)  # whether a trace is sampled is for the SDK to say
    return Telemetry(tracer=IdsOnlyTracer(TraceFlags(TraceFlags.SAMPLED)))


def _exporters_named_in(environ: Mapping[str, str]) -> list[str]:
    """Return the exporters that OTEL_TRACES_EXPORTER names, or OTLP if only an endpoint is set; none by default."""
    listed = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not listed and any(environ.get(variable, "").strip() for variable in _ENDPOINTS):
        listed = "otlp"
    names = dict.fromkeys(name.strip().lower() for name in listed.split(","))
    return [name for name in names if name not in ("", "none")]


def telemetry_with(exporters: Sequence[SpanExporter], environ: Mapping[str, str], *, mask: Mask) -> Telemetry:
    """Return tracing by the SDK, with the given exporters. Without any, spans have ids but are dropped."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from pipeline_processing.telemetry.export import QuietExporter

    provider = TracerProvider(resource=resource_from(environ), shutdown_on_exit=False)
    quiet = [QuietExporter(exporter, mask) for exporter in exporters]
    for exporter in quiet:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(tracer=provider.get_tracer(_SCOPE), provider=provider, exporters=quiet)


def resource_from(environ: Mapping[str, str]) -> Resource:
    """Return what describes this process in traces and metrics, from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES."""
    from importlib.metadata import version

    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

    resource = Resource.create({SERVICE_VERSION: version("pipeline-processing")})
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if not name and str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        name = "pipeline-processing"
    return resource.merge(Resource({SERVICE_NAME: name})) if name else resource


def _instrument(provider: TracerProvider) -> list[Any]:
    # Imported here, as they slow down the start and aren't needed without an exporter.
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

    # Not BotocoreInstrumentor, which patches a method that aiobotocore overrides.
    from opentelemetry.instrumentation.botocore import AiobotocoreInstrumentor

    # Query arguments contain the agencies' data, which must not reach a tracing backend.
    instrumentors: list[Any] = [
        AsyncPGInstrumentor(capture_parameters=False),  # type: ignore[no-untyped-call]
        AiobotocoreInstrumentor(),  # type: ignore[no-untyped-call]
    ]
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    return instrumentors


# -- ids -----------------------------------------------------------------------------------------


def trace_ids(span: Span) -> tuple[str, str]:
    """Return trace id and span id, as 32 and 16 hex digits."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def parent_context(trace_id: str, span_id: str) -> Context:
    """Return the context in which a new span continues a stored trace, such as a run's."""
    parent = SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        # Only ids are stored, not whether the trace was sampled. Assume that it was, so that no spans are lost.
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))


class IdsOnlyTracer(Tracer):
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
                trace_id=parent.trace_id if parent.is_valid else _random_id(128),
                span_id=_random_id(64),
                is_remote=False,
                trace_flags=parent.trace_flags if parent.is_valid else self._flags,
                trace_state=parent.trace_state,
            )
        )

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the API's own decorator is private
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[Span]:
        with trace.use_span(self.start_span(name, context)) as span:
            yield span


def _random_id(bits: int) -> int:
    return random.randrange(1, 1 << bits)  # noqa: S311 - not a secret, and zero isn't an id
