"""Tracing: ids always, spans only where somebody collects them, and no trouble from a collector that is down."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry import tracing as telemetry_module
from pipeline_processing.telemetry.export import QuietExporter
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.spans import RecordedSpan
from pipeline_processing.telemetry.tracing import configure_telemetry, parent_context, telemetry_with, trace_ids
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.unit.recorded import Recorded


@pytest.fixture(autouse=True)
def no_variables_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads the process's own environment beside what it is given."""
    for variable in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as received:
        yield received


def assert_valid(ids: tuple[str, str]) -> None:
    trace_id, span_id = ids
    assert (len(trace_id), len(span_id)) == (32, 16)
    assert int(trace_id, 16) > 0
    assert int(span_id, 16) > 0


# -- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_ids_are_there_even_if_nobody_collects_spans(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trace has its own, and what happens inside a span belongs to its trace."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with configure_telemetry(environ, mask=Mask()) as telemetry:
        with telemetry.tracer.start_as_current_span("run") as run:
            inner = telemetry.tracer.start_span("dataset")
            assert trace.get_current_span() is run
        other = telemetry.tracer.start_span("run")

    assert not telemetry.exporting
    for span in (run, inner, other):
        assert_valid(trace_ids(span))
    assert trace_ids(run)[0] == trace_ids(inner)[0] != trace_ids(other)[0]
    assert trace_ids(run)[1] != trace_ids(inner)[1]


@pytest.mark.parametrize("environ", [{}, {"OTEL_SDK_DISABLED": "true"}])
def test_a_stored_trace_goes_on(environ: dict[str, str]) -> None:
    """The second attempt, perhaps in another process, belongs to the trace of the first."""
    with configure_telemetry(environ, mask=Mask()) as telemetry:
        first = trace_ids(telemetry.tracer.start_span("attempt 1"))
        second = trace_ids(telemetry.tracer.start_span("attempt 2", context=parent_context(*first)))

    assert second[0] == first[0]
    assert second[1] != first[1]


@pytest.mark.parametrize("environ", [{}, {"OTEL_SDK_DISABLED": "true"}])
def test_an_error_passes_through_a_span(environ: dict[str, str]) -> None:
    with (
        configure_telemetry(environ, mask=Mask()) as telemetry,
        pytest.raises(KeyError),
        telemetry.tracer.start_as_current_span("run"),
    ):
        raise KeyError


# -- exporting -----------------------------------------------------------------------------------


def test_without_an_exporter_nothing_runs() -> None:
    threads = threading.active_count()

    with configure_telemetry({}, mask=Mask()) as telemetry:
        assert not telemetry.tracer.start_span("run").is_recording()
        assert threading.active_count() == threads


@pytest.mark.parametrize("variables", [(), ("OTEL_TRACES_EXPORTER",)])
def test_spans_reach_the_collector_before_the_end(
    collector: OtlpReceiver, variables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint alone is enough; leaving the block sends what is left."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} | dict.fromkeys(variables, "otlp")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with configure_telemetry(environ, mask=Mask()) as telemetry, telemetry.tracer.start_as_current_span("run"):
        telemetry.tracer.start_span("dataset").end()

    assert sorted(span.name for span in collector.spans) == ["dataset", "run"]
    assert collector.resource["service.name"] == "pipeline-processing"
    assert collector.resource["service.version"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SERVICE_NAME", "exports"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=exports,deployment.environment=test"),
    ],
)
def test_the_service_may_be_named_otherwise(
    collector: OtlpReceiver, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", variable: value}
    for name, text in environ.items():
        monkeypatch.setenv(name, text)

    with configure_telemetry(environ, mask=Mask()) as telemetry:
        telemetry.tracer.start_span("run").end()

    assert collector.resource["service.name"] == "exports"


def test_none_beats_an_endpoint() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}

    assert not configure_telemetry(environ, mask=Mask()).exporting


@pytest.mark.parametrize(
    ("environ", "sampled"),
    [({}, True), ({"OTEL_TRACES_SAMPLER": "always_off"}, False), ({"OTEL_SDK_DISABLED": "true"}, False)],
)
def test_traces_are_sampled_even_if_this_process_collects_none(
    environ: dict[str, str], sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a service that reads this one's messages would drop their traces."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    span = configure_telemetry(environ, mask=Mask()).tracer.start_span("run")

    assert span.get_span_context().trace_flags.sampled == sampled


@pytest.mark.parametrize(("ratio", "sampled"), [("0", False), ("1", True)])
def test_a_sampler_decides_on_stored_traces_by_their_ids(
    ratio: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it did when the request was accepted: the run table doesn't keep its decision."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)

    with Recorded() as recorded:
        recorded.tracer.start_span("attempt 1", parent_context("ab" * 16, "cd" * 8)).end()

    assert len(recorded.spans) == sampled


def test_a_trace_keeps_its_state_and_flags() -> None:
    """A trace that its first service doesn't sample isn't sampled later."""
    parent = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0), trace_state=TraceState([("a", "b")]))
    context = trace.set_span_in_context(NonRecordingSpan(parent))

    span = configure_telemetry({}, mask=Mask()).tracer.start_span("run", context).get_span_context()

    assert (span.trace_id, span.trace_flags, span.trace_state) == (1, 0, parent.trace_state)


def test_the_console_exporter_keeps_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Data goes to stdout, and nothing else."""
    with configure_telemetry({"OTEL_TRACES_EXPORTER": "console"}, mask=Mask()) as telemetry:
        telemetry.tracer.start_span("run").end()

    out, err = capsys.readouterr()
    assert out == ""
    assert '"name": "run"' in err


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "otpl"}, "'otpl', which isn't installed. There are .*otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "avian"}, "Use http/protobuf"),
    ],
)
def test_an_exporter_that_is_not_there_is_a_fault_of_the_settings(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        configure_telemetry(environ, mask=Mask())


def test_a_queue_that_cannot_be_set_up_is_a_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads its variables itself."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    with pytest.raises(SettingsError, match=r"max_export_batch_size must be .* Correct the OTEL_BSP_… variables"):
        telemetry_with([Hanging()], {}, mask=Mask())


# -- trouble -------------------------------------------------------------------------------------


def ended_span() -> RecordedSpan:
    span = RecordedSpan("run", context=SpanContext(1, 2, is_remote=False), parent=None, on_end=lambda span: None)
    span.end()
    return span


class Broken(SpanExporter):
    """Fails as often as it is told to."""

    def __init__(self, *outcomes: SpanExportResult | Exception) -> None:
        self._outcomes = list(outcomes)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is SpanExportResult.FAILURE:
            logging.getLogger("opentelemetry.exporter.otlp").error("Failed to export:\n%s", "503")
        return outcome

    def shutdown(self) -> None:
        pass


class Hanging(SpanExporter):
    """A collector that accepts a connection and then says nothing."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait(30)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_an_outage_is_one_warning_and_its_end_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the exporter itself says, however often."""
    caplog.set_level("INFO")
    bad, good = SpanExportResult.FAILURE, SpanExportResult.SUCCESS
    broken = Broken(good, bad, OSError("no\nroute"), good, RuntimeError("again"), good)
    exporter = QuietExporter(broken, Mask(), resource=Resource({}))

    for _ in range(6):
        exporter.export([ended_span()])

    assert [record.getMessage() for record in caplog.records] == [
        "Trace exporter Broken failed, and spans are lost until it works again: Failed to export: 503",
        "Trace exporter Broken works again; 2 spans were lost.",
        "Trace exporter Broken failed, and spans are lost until it works again: RuntimeError: again",
        "Trace exporter Broken works again; 1 spans were lost.",
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_failure_at_the_end_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with telemetry_with([Broken(OSError("connection refused"))], {}, mask=Mask()) as telemetry:
        telemetry.tracer.start_span("run").end()

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "connection refused" in record.getMessage()
    assert record.exc_info is None


def test_a_hanging_collector_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "SHUTDOWN_SECONDS", 0.1)
    hanging = Hanging()
    telemetry = telemetry_with([hanging], {}, mask=Mask())
    telemetry.tracer.start_span("run").end()

    started = time.monotonic()
    telemetry.shutdown()
    took = time.monotonic() - started
    hanging.released.set()

    assert took < 5
    assert [record.getMessage() for record in caplog.records] == [
        "The last spans are lost: their export didn't finish within 0.1 s (it gave no reason)."
    ]
