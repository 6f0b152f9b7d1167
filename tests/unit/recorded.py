"""Spans as an exporter gets them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id

from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import telemetry_with


class Recorded:
    """Traces what happens inside the block with `tracer`. After it, there are `spans`, in the order of their ends."""

    def __init__(self, mask: Mask | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self._telemetry = telemetry_with([self._exporter], {}, mask=mask or Mask())
        self.tracer = self._telemetry.tracer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._telemetry.shutdown()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def tree(self) -> dict[str, str | None]:
        """Return each span's name, and its parent's. Names must differ."""
        names = {format_span_id(span.context.span_id): span.name for span in self.spans if span.context}
        assert len(names) == len({*names.values()})
        return {
            span.name: names.get(format_span_id(span.parent.span_id)) if span.parent else None for span in self.spans
        }
