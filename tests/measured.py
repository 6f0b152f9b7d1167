"""Metrics whose values a test can read."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from pipeline_processing.telemetry.metrics import Metrics


class Measured:
    """`metrics`, and what they have recorded."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.metrics = Metrics(read=True)
        self.metrics.connect(self._provider.get_meter("test"))

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        """Return an instrument's values, or the counts of a histogram, by the values of its attributes, in order."""
        (instrument,) = [each for each in self.metrics.instruments if each.name == name]
        data = self._reader.get_metrics_data()
        return {
            tuple(str((point.attributes or {}).get(each, "")) for each in instrument.attributes): (
                point.value if isinstance(point, NumberDataPoint) else point.count
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }
