"""How long each stage of a dataset was busy, as figures for the history and as spans for the trace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Tracer

STAGES = ("source", "steps", "format", "upload")


class Stages:
    """
    Busy seconds per stage of one dataset.

    The stages take turns with every batch, so each is one span over the dataset's whole time that carries its busy
    time as `busy_ms`, rather than a span a batch.
    """

    def __init__(self) -> None:
        self._started_ns = time.time_ns()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.current: str | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what happens in the block as that stage's time."""
        self.current = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def trace(self, tracer: Tracer) -> None:
        """Write one span a stage, below the current span."""
        ended_ns = time.time_ns()
        for stage, seconds in self.seconds.items():
            span = tracer.start_span(f"stage {stage}", start_time=self._started_ns)
            span.set_attribute("busy_ms", round(seconds * 1000, 3))
            span.end(end_time=ended_ns)
