"""Export spans. OpenTelemetry's variables name the exporters, which are found by their entry points."""

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry.masking import Mask

_log = logging.getLogger(__name__)
_library_log = logging.getLogger("opentelemetry.exporter")

_LONGEST_COMPLAINT = 300
_OTLP_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def configured_exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    """Build the exporter of this name. Raises SettingsError if it isn't installed or can't be set up."""
    entry_point = exporter_entry_point("traces", name, environ)
    try:
        exporter = entry_point.load()
        # By default it would print to stdout, among the data.
        built = exporter(out=sys.stderr) if exporter is ConsoleSpanExporter else exporter()
    except Exception as error:  # a third-party constructor may raise anything
        raise SettingsError(
            f"The trace exporter {name!r} can't be set up: {error}. Correct the OTEL_EXPORTER_… variables, "
            "or set OTEL_TRACES_EXPORTER=none."
        ) from error
    assert isinstance(built, SpanExporter)
    return built


def exporter_entry_point(signal: str, name: str, environ: Mapping[str, str]) -> EntryPoint:
    """Return the exporter of this name for `traces` or `metrics`. Raises SettingsError if it isn't installed."""
    installed = entry_points(group=f"opentelemetry_{signal}_exporter")
    of_signal = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    protocol = of_signal or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    # The specification's default, which this package installs.
    entry = _OTLP_PROTOCOLS.get((protocol or "http/protobuf").strip(), "") if name == "otlp" else name
    if entry in installed.names:
        return installed[entry]
    if name == "otlp":
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} isn't available here. Use http/protobuf"
            + (", or install opentelemetry-exporter-otlp-proto-grpc." if protocol == "grpc" else ".")
        )
    raise SettingsError(
        f"OTEL_{signal.upper()}_EXPORTER names {name!r}, which isn't installed. There are "
        f"{', '.join(sorted({'otlp', 'none', *installed.names}))}."
    )


class QuietExporter(SpanExporter):
    """
    Exports masked copies of spans, in the exporter's thread, so that masking delays no run.

    Logs one warning when an outage of the receiver begins, and one line when it ends. The exporter's own messages are
    suppressed, because a readable log matters more than spans.
    """

    def __init__(self, exporter: SpanExporter, mask: Mask) -> None:
        self._exporter = exporter
        self._mask = mask
        self._name = type(exporter).__name__
        self._captured = CapturedLogs()
        self._lost: int | None = None
        """Spans lost since the outage began; None without an outage."""

    @property
    def complaint(self) -> str:
        """What the exporter logged about the current export, in one line."""
        return self._captured.complaint

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._captured:
            try:
                result = self._exporter.export([self._masked(span) for span in spans])
            except Exception as error:
                self._captured.first = f"{type(error).__name__}: {error}"
                result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._lost is not None:
                _log.info("Trace exporter %s works again; %d spans were lost.", self._name, self._lost)
            self._lost = None
        else:
            if self._lost is None:
                _log.warning(
                    "Trace exporter %s failed, and spans are lost until it works again: %s", self._name, self.complaint
                )
            self._lost = (self._lost or 0) + len(spans)
        return result

    def shutdown(self) -> None:
        # Not `self._captured`, as an export in progress still needs its complaint.
        with CapturedLogs():
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _masked(self, span: ReadableSpan) -> ReadableSpan:
        description, resource = span.status.description, span.resource
        return ReadableSpan(
            name=self._mask.text(span.name),
            context=span.context,
            parent=span.parent,
            resource=Resource(self._attributes(resource.attributes), resource.schema_url),
            attributes=self._attributes(span.attributes),
            events=[
                Event(self._mask.text(event.name), self._attributes(event.attributes), event.timestamp)
                for event in span.events
            ],
            links=[Link(link.context, self._attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=Status(span.status.status_code, description and self._mask.text(description)),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        masked: dict[str, Any] = self._mask.value(attributes or {})
        return masked


class CapturedLogs(logging.Handler):
    """
    Suppresses the exporter library's log messages inside the block, and remembers this thread's first one. Several
    threads may be inside such blocks at once.
    """

    _lock = threading.Lock()
    _inside = 0

    def __init__(self) -> None:
        super().__init__()
        self.first: str | None = None
        self._thread: int | None = None

    def __enter__(self) -> "CapturedLogs":
        self.first, self._thread = None, threading.get_ident()
        with CapturedLogs._lock:
            CapturedLogs._inside += 1
            _library_log.addHandler(self)
            _library_log.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        with CapturedLogs._lock:
            CapturedLogs._inside -= 1
            _library_log.removeHandler(self)
            _library_log.propagate = CapturedLogs._inside == 0

    @property
    def complaint(self) -> str:
        """The first message, in one line."""
        words = " ".join((self.first or "it gave no reason").split())
        return words if len(words) <= _LONGEST_COMPLAINT else f"{words[:_LONGEST_COMPLAINT]}…"

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.first = self.first or record.getMessage()
