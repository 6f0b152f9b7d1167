"""Where spans go: OpenTelemetry's own variables say so, and its entry points name the exporters there are."""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from pipeline_processing.errors import SettingsError

_log = logging.getLogger(__name__)
_library_log = logging.getLogger("opentelemetry.exporter")

_LONGEST_COMPLAINT = 300
_OTLP_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def configured_exporters(environ: Mapping[str, str]) -> list[SpanExporter]:
    """
    The exporters that OTEL_TRACES_EXPORTER names, or OTLP if only an endpoint is set; none by default.

    Raises SettingsError for an exporter that isn't installed or can't be set up.
    """
    return [_built(name, environ) for name in _names(environ)]


def _names(environ: Mapping[str, str]) -> list[str]:
    listed = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not listed:
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return ["otlp"] if any(environ.get(variable, "").strip() for variable in endpoints) else []
    names = [name.strip().lower() for name in listed.split(",")]
    return [name for name in dict.fromkeys(names) if name not in ("", "none")]


def _built(name: str, environ: Mapping[str, str]) -> SpanExporter:
    entry_point = _entry_point(name, environ)
    try:
        exporter = entry_point.load()
        # It would print among the data on stdout.
        built = exporter(out=sys.stderr) if exporter is ConsoleSpanExporter else exporter()
    except Exception as error:  # a third party's constructor, which may raise anything
        raise SettingsError(
            f"The trace exporter {name!r} can't be set up: {error}. Correct the OTEL_EXPORTER_… variables, "
            "or set OTEL_TRACES_EXPORTER=none."
        ) from error
    assert isinstance(built, SpanExporter)
    return built


def _entry_point(name: str, environ: Mapping[str, str]) -> EntryPoint:
    installed = entry_points(group="opentelemetry_traces_exporter")
    wanted = name
    if name == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        # The specification's default, and the one that this package brings along.
        wanted = _OTLP_PROTOCOLS.get((protocol or "http/protobuf").strip(), "")
        if wanted not in installed.names:
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} isn't available here. Use http/protobuf"
                + (", or install opentelemetry-exporter-otlp-proto-grpc." if protocol == "grpc" else ".")
            )
    if wanted not in installed.names:
        raise SettingsError(
            f"OTEL_TRACES_EXPORTER names {name!r}, which isn't installed. There are "
            f"{', '.join(sorted({'otlp', 'none', *installed.names}))}."
        )
    return installed[wanted]


class QuietExporter(SpanExporter):
    """
    Passes spans on. An outage of the receiver costs one warning when it begins and one line when it ends,
    whatever the exporter itself says about it: spans are worth less than a readable log.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._name = type(exporter).__name__
        self._overheard = _Overheard(_library_log)
        self._failing = False
        self._lost = 0

    @property
    def complaint(self) -> str:
        """What the exporter has said about the export that is under way, in one line."""
        words = " ".join((self._overheard.first or "it gave no reason").split())
        return words if len(words) <= _LONGEST_COMPLAINT else f"{words[:_LONGEST_COMPLAINT]}…"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._overheard:
            try:
                result = self._exporter.export(spans)
            except Exception as error:
                self._overheard.first = f"{type(error).__name__}: {error}"
                result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._succeeded()
        else:
            self._failed(len(spans))
        return result

    def _succeeded(self) -> None:
        if self._failing:
            _log.info("Trace exporter %s works again; %d spans were lost.", self._name, self._lost)
        self._failing, self._lost = False, 0

    def _failed(self, spans: int) -> None:
        if not self._failing:
            _log.warning(
                "Trace exporter %s failed, and spans are lost until it works again: %s",
                self._name,
                self.complaint,
            )
        self._failing, self._lost = True, self._lost + spans

    def shutdown(self) -> None:
        # Not by way of `self._overheard`: an export may be under way, whose complaint is still wanted.
        with _Overheard(_library_log):
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Overheard(logging.Handler):
    """While the block runs, keeps to itself what a library logs, and remembers the first message."""

    def __init__(self, library: logging.Logger) -> None:
        super().__init__()
        self.first: str | None = None
        self._library = library

    def __enter__(self) -> "_Overheard":
        self.first = None
        self._library.addHandler(self)
        self._library.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._library.removeHandler(self)
        self._library.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()
