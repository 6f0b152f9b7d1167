"""
Record metrics by OpenTelemetry's SDK, for scrapes of `/metrics` and for exporters that OpenTelemetry's variables name.

The SDK is imported if a variable names an exporter, or else at the first scrape, because it slows down the start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import SCHEMA_URL, Metrics
from pipeline_processing.telemetry.tracing import exporters_named_in, resource_from

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

_SCOPE = "pipeline_processing"
_SHUTDOWN_SECONDS = 2.0
"""How long an unreachable collector may delay the end of a process. The last spans may take longer."""
_log = logging.getLogger(__name__)

Exposition = Callable[[str], tuple[bytes, str]]
"""The `Accept` header of a scrape → all metrics as text, and its content type."""


class Metering:
    """Metrics for the length of a block. `exposition` answers scrapes; None where there are none."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        exposition: Exposition | None = None,
        provider: MeterProvider | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.exposition = exposition
        self._provider = provider

    def __enter__(self) -> Metering:
        return self

    def __exit__(self, *_: object) -> None:
        """Export the last values, for two seconds at most. Blocks: leave it after the event loop has ended."""
        if self._provider is None:
            return
        # In a daemon thread, an export that hangs ends with the process.
        thread = threading.Thread(target=_shut_down, args=(self._provider,), name="metrics-shutdown", daemon=True)
        thread.start()
        thread.join(_SHUTDOWN_SECONDS)
        if thread.is_alive():
            _log.warning("The last metrics are lost: their export didn't finish within %g s.", _SHUTDOWN_SECONDS)


def _shut_down(provider: MeterProvider) -> None:
    try:
        provider.shutdown()
    except Exception as error:
        _log.warning("The last metrics are lost: %s: %s", type(error).__name__, error)


def configure_metrics(environ: Mapping[str, str], *, mask: Mask, scraped: bool = False) -> Metering:
    """
    Set up metrics according to OTEL_* variables, and for scrapes if `scraped`. Leaving the returned block exports the
    last values. Raises SettingsError for an exporter that isn't installed or can't be set up.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Metering()
    # A scrape needs no exporter.
    names = [name for name in exporters_named_in(environ, "METRICS") if name != "prometheus"]
    if not names:
        return _scraped_later(environ, mask) if scraped else Metering()
    from opentelemetry.sdk.metrics import MeterProvider

    from pipeline_processing.telemetry.metrics_export import exporting_reader

    readers = [exporting_reader(name, environ) for name in names]
    exposition = None
    if scraped:
        reader, exposition = _scraped()
        readers.append(reader)
    provider = MeterProvider(readers, _resource(environ, mask), shutdown_on_exit=False)
    metrics = Metrics(read=True)
    metrics.connect(provider.get_meter(_SCOPE, schema_url=SCHEMA_URL))
    return Metering(metrics, exposition=exposition, provider=provider)


def _scraped_later(environ: Mapping[str, str], mask: Mask) -> Metering:
    """Return metrics that wait for the first scrape."""
    metrics = Metrics(read=True)

    @cache
    def connected() -> Exposition:
        from opentelemetry.sdk.metrics import MeterProvider

        reader, exposition = _scraped()
        provider = MeterProvider([reader], _resource(environ, mask), shutdown_on_exit=False)
        metrics.connect(provider.get_meter(_SCOPE, schema_url=SCHEMA_URL))
        return exposition

    return Metering(metrics, exposition=lambda accept: connected()(accept))


def _resource(environ: Mapping[str, str], mask: Mask) -> Resource:
    """Return what describes this process, masked. An id tells its series from those of other processes."""
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource

    about = Resource({SERVICE_INSTANCE_ID: str(uuid4())}).merge(resource_from(environ))
    return Resource(mask.value(about.attributes), about.schema_url)


def _scraped() -> tuple[MetricReader, Exposition]:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()  # the library's own is global
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)

    def exposition(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return reader, exposition
