"""Export spans, masked. OpenTelemetry's variables name the exporters, which are found by their entry points."""

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry.masking import MASK, Mask, names_a_secret
from pipeline_processing.telemetry.metrics import SCHEMA_URL
from pipeline_processing.telemetry.spans import RecordedSpan

_log = logging.getLogger(__name__)
_library_log = logging.getLogger("opentelemetry.exporter")

_SCOPE = InstrumentationScope("pipeline_processing", schema_url=SCHEMA_URL)
_LONGEST_COMPLAINT = 300
_DEFAULT_PROTOCOL = "http/protobuf"
"""The specification's default, which this package installs."""
_OTLP_PROTOCOLS = {_DEFAULT_PROTOCOL: "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def configured_exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    """Build the exporter of this name. Raises SettingsError if it isn't installed or can't be set up."""
    entry_point = exporter_entry_point("traces", name, environ)
    try:
        exporter = _fastest(entry_point)
        # By default it would print to stdout, among the data.
        built = exporter(out=sys.stderr) if exporter is ConsoleSpanExporter else exporter()
    except Exception as error:  # a third-party constructor may raise anything
        raise SettingsError(
            f"The trace exporter {name!r} can't be set up: {error}. Correct the OTEL_EXPORTER_… variables, "
            "or set OTEL_TRACES_EXPORTER=none."
        ) from error
    assert isinstance(built, SpanExporter)
    return built


def _fastest(entry_point: EntryPoint) -> Any:
    if entry_point.name != _OTLP_PROTOCOLS[_DEFAULT_PROTOCOL]:
        return entry_point.load()
    from pipeline_processing.telemetry.otlp import FastOTLPSpanExporter  # not for the console

    return FastOTLPSpanExporter


def exporter_entry_point(signal: str, name: str, environ: Mapping[str, str]) -> EntryPoint:
    """Return the exporter of this name for `traces` or `metrics`. Raises SettingsError if it isn't installed."""
    installed = entry_points(group=f"opentelemetry_{signal}_exporter")
    of_signal = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    protocol = of_signal or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    entry = _OTLP_PROTOCOLS.get((protocol or _DEFAULT_PROTOCOL).strip(), "") if name == "otlp" else name
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


class QuietExporter:
    """
    Exports masked copies of spans, in the exporter's thread, so that masking delays no run.

    Logs one warning when an outage of the receiver begins, and one line when it ends. The exporter's own messages are
    suppressed, because a readable log matters more than spans.
    """

    def __init__(self, exporter: SpanExporter, mask: Mask, *, resource: Resource) -> None:
        self._exporter = exporter
        self._mask = mask
        self._resource = resource
        self._name = type(exporter).__name__
        self._captured = CapturedLogs()
        self._lost: int | None = None
        """Spans lost since the outage began; None without an outage."""

    @property
    def complaint(self) -> str:
        """What the exporter logged about the current export, in one line."""
        return self._captured.complaint

    def export(self, spans: Sequence[RecordedSpan]) -> SpanExportResult:
        with self._captured:
            try:
                result = self._exporter.export(_masked(spans, self._resource, self._mask))
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


def _masked(spans: Sequence[RecordedSpan], resource: Resource, mask: Mask) -> list[ReadableSpan]:
    """Return masked copies of spans."""
    masks = _BatchMask(mask)
    resource = Resource(masks.attributes(resource.attributes), resource.schema_url)
    return [
        ReadableSpan(
            name=masks.text(span.name),
            context=span.context,
            parent=span.parent,
            resource=resource,
            attributes=masks.attributes(span.attributes),
            events=[
                Event(masks.text(name), masks.attributes(attributes), timestamp)
                for name, attributes, timestamp in span.events
            ],
            links=[Link(link.context, masks.attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=Status(span.status.status_code, masks.text(span.status.description))
            if span.status.description
            else span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=_SCOPE,
        )
        for span in spans
    ]


class _BatchMask:
    """Masks a batch of spans. Spans of many runs have the same names and values, so each is masked once."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._texts: dict[str, str] = {}
        self._secret_names: dict[str, bool] = {}

    def text(self, text: str) -> str:
        """Return the masked text. What UTF-8 can't encode is escaped, as it would cost the whole batch."""
        masked = self._texts.get(text)
        if masked is None:
            masked = self._texts[text] = self._mask.text(text).encode(errors="backslashreplace").decode()
        return masked

    def attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return masked attributes. Values that aren't text, numbers or lists of them become text."""
        return {self.text(key): self._value(key, value) for key, value in (attributes or {}).items()}

    def _value(self, name: str, value: Any) -> Any:
        secret = self._secret_names.get(name)
        if secret is None:
            secret = self._secret_names[name] = names_a_secret(name)
        if secret and value is not None:
            return MASK
        if type(value) is str:
            return self.text(value)
        if type(value) is int:
            text = str(value)
            masked = self.text(text)
            return value if masked == text else masked
        if isinstance(value, list | tuple):
            return [self._value(name, each) for each in value]
        return self._mask.value(value, name=name)


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
