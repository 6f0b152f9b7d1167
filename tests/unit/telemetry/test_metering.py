"""Metrics reach scrapes and collectors, and trouble with those reaches nobody but the log, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.semconv.schemas import Schemas

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import configure_metrics
from pipeline_processing.telemetry.metrics import SCHEMA_URL, Metrics, known_kind
from tests.watching import eventually


class Collector(HTTPServer):
    """Receives OTLP over HTTP, and answers `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[ExportMetricsServiceRequest] = []
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)  # the SDK reads it itself
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_metrics_reach_the_collector_before_the_end(collector: Collector) -> None:
    """With their conventions, and a masked resource; those that a scrape gets, too."""
    mask = Mask()
    mask.know(["tops3cret"])
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "exports of tops3cret"}

    with configure_metrics(environ, mask=mask, scraped=True) as metering:
        metering.metrics.letters.add(2, "invalid_json")
        assert metering.exposition is not None
        text, content_type = metering.exposition("application/openmetrics-text;version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert b'pipeline_dead_letters_total{reason="invalid_json"} 2.0' in text
    assert b"tops3cret" not in text
    (request,) = collector.received
    (of_resource,) = request.resource_metrics
    about = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert about["service.name"] == "exports of ***"
    assert about["service.instance.id"]
    (of_scope,) = of_resource.scope_metrics
    assert of_scope.schema_url == SCHEMA_URL
    values = {metric.name: metric for metric in of_scope.metrics}
    assert values["pipeline.dead_letters"].sum.data_points[0].as_int == 2


def test_the_schema_is_one_of_the_conventions() -> None:
    assert SCHEMA_URL in {each.value for each in Schemas}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_METRICS_EXPORTER": "prometheus"},
        {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_where_nobody_asks_nothing_runs(environ: dict[str, str]) -> None:
    """And measuring costs nothing, but does no harm."""
    threads = threading.active_count()
    with configure_metrics(environ, mask=Mask()) as metering:
        metering.metrics.letters.add(1, "invalid_json")
        metering.metrics.delay.record(1.0)
        assert metering.exposition is None
        assert threading.active_count() == threads


def test_an_outage_of_the_collector_is_one_warning(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its end one line, whatever the exporter itself says."""
    caplog.set_level("INFO")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    collector.status = 400
    with configure_metrics({"OTEL_METRICS_EXPORTER": "otlp"}, mask=Mask()):
        wait_for(collector, 3)
        collector.status = 200
        wait_for(collector, 5)

    fails, works = [record.getMessage() for record in caplog.records]
    assert fails.startswith("Metrics exporter OTLPMetricExporter fails; trying again: ")
    assert works == "Metrics exporter OTLPMetricExporter works again."


def wait_for(collector: Collector, requests: int) -> None:
    eventually(lambda: len(collector.received) >= requests)


def test_an_exporter_that_is_not_there_is_a_fault_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="OTEL_METRICS_EXPORTER names 'otpl', which isn't installed"):
        configure_metrics({"OTEL_METRICS_EXPORTER": "otpl"}, mask=Mask())


def test_kinds_of_errors_are_a_closed_list() -> None:
    """So that plugins can't make a series of each message."""
    assert known_kind("query_failed") == "query_failed"
    assert known_kind("of a plugin 7") == "_OTHER"


def test_values_have_the_attributes_of_their_instrument() -> None:
    """All of them, in order."""
    with pytest.raises(ValueError, match="has the attributes"):
        Metrics().letters.add(1)


def test_names_are_listed_once() -> None:
    names = [each.name for each in Metrics().instruments]
    assert len(names) == len(set(names))
