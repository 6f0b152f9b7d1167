"""Spans on their way out, with every text in them masked."""

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from pipeline_processing.telemetry.masking import MASK, Mask, names_a_secret


class MaskingExporter(SpanExporter):
    """Passes masked copies on. It is called in the exporter's thread, so that masking holds up no run."""

    def __init__(self, exporter: SpanExporter, mask: Mask) -> None:
        self._exporter = exporter
        self._mask = mask

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._masked(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _masked(self, span: ReadableSpan) -> ReadableSpan:
        said = span.status.description
        resource = span.resource
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
            status=Status(span.status.status_code, said and self._mask.text(said)),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            self._mask.text(name): MASK if names_a_secret(name) else self._value(value)
            for name, value in (attributes or {}).items()
        }

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self._mask.text(value)
            case bytes():
                return self._mask.text(value.decode(errors="replace"))
            case list() | tuple():
                return [self._value(each) for each in value]
            case bool():
                return value
            case _:
                text = str(value)
                masked = self._mask.text(text)
                return value if masked == text else masked
