"""Export metrics. OpenTelemetry's variables name the exporters, which are found by their entry points."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)

from pipeline_processing.errors import SettingsError
from pipeline_processing.telemetry.export import CapturedLogs, exporter_entry_point

_log = logging.getLogger(__name__)


def exporting_reader(name: str, environ: Mapping[str, str]) -> MetricReader:
    """
    Return what exports metrics every OTEL_METRIC_EXPORT_INTERVAL, and once at the end, by the exporter of this name.

    Raises SettingsError if it isn't installed or can't be set up.
    """
    entry_point = exporter_entry_point("metrics", name, environ)
    try:
        exporter = entry_point.load()
        # By default it would print to stdout, among the data.
        built = exporter(out=sys.stderr) if exporter is ConsoleMetricExporter else exporter()
        return PeriodicExportingMetricReader(_QuietExporter(built))
    except Exception as error:  # a third-party constructor may raise anything
        raise SettingsError(
            f"The metrics exporter {name!r} can't be set up: {error}. Correct the OTEL_… variables, "
            "or set OTEL_METRICS_EXPORTER=none."
        ) from error


class _QuietExporter(MetricExporter):
    """
    Logs one warning when an outage of the receiver begins, and one line when it ends, instead of the exporter's own
    messages. Nothing is lost but the values in between: counters go on.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        # The SDK itself reads them so.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter = exporter
        self._name = type(exporter).__name__
        self._captured = CapturedLogs()
        self._fails = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        with self._captured:
            try:
                result = self._exporter.export(metrics_data, timeout_millis, **kwargs)
            except Exception as error:
                self._captured.first = f"{type(error).__name__}: {error}"
                result = MetricExportResult.FAILURE
        fails = result is not MetricExportResult.SUCCESS
        if fails and not self._fails:
            _log.warning("Metrics exporter %s fails; trying again: %s", self._name, self._captured.complaint)
        elif self._fails and not fails:
            _log.info("Metrics exporter %s works again.", self._name)
        self._fails = fails
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        with CapturedLogs():
            self._exporter.shutdown(timeout_millis, **kwargs)
