"""
Traces. Every run has a trace id, in its history row, events and objects, even if spans aren't collected. Spans are
recorded and exported, and the database and S3 clients instrumented, only if OpenTelemetry's variables configure an
exporter.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

from pipeline_processing.telemetry.export import QuietExporter, configured_exporters
from pipeline_processing.telemetry.masking import Mask

SHUTDOWN_SECONDS = 5.0
"""How long an unreachable collector may delay the end of a process."""

_SCOPE = "pipeline_processing"
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

    def __enter__(self) -> "Telemetry":
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
    return telemetry_with(configured_exporters(environ), environ, mask=mask)


def telemetry_with(exporters: Sequence[SpanExporter], environ: Mapping[str, str], *, mask: Mask) -> Telemetry:
    """Return tracing with the given exporters. Without any, spans have ids but are dropped."""
    provider = TracerProvider(resource=_resource(environ), shutdown_on_exit=False)
    quiet = [QuietExporter(exporter, mask) for exporter in exporters]
    for exporter in quiet:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(tracer=provider.get_tracer(_SCOPE), provider=provider, exporters=quiet)


def _resource(environ: Mapping[str, str]) -> Resource:
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
    """Creates spans with valid ids only, for OTEL_SDK_DISABLED, where the SDK's spans have no ids."""

    def __init__(self) -> None:
        self._ids = RandomIdGenerator()

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:
        parent = trace.get_current_span(context).get_span_context()
        return NonRecordingSpan(
            SpanContext(
                trace_id=parent.trace_id if parent.is_valid else self._ids.generate_trace_id(),
                span_id=self._ids.generate_span_id(),
                is_remote=False,
                trace_flags=parent.trace_flags,
            )
        )

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the API's own decorator is private
        self, name: str, context: Context | None = None, *_: Any, **__: Any
    ) -> Iterator[Span]:
        with trace.use_span(self.start_span(name, context)) as span:
            yield span
