"""Row counts of one dataset, and how long each stage was busy."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline_processing.model import DatasetCounts
from pipeline_processing.ports import Batches, Records
from pipeline_processing.rows.lines import Lines
from pipeline_processing.telemetry.spans import child

STAGES = ("source", "steps", "format", "upload")


class Tally:
    """
    Row counts and busy seconds of one dataset.

    Rows are counted independently where they are read, dropped, rejected and written, so that `verification.py` can
    detect lost rows.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.read = self.filtered = self.rejected = self.written = 0
        self.encoded = 0
        """Bytes of the rows written, before compression."""
        self.uploaded = 0
        """Bytes handed to uploads. An artifact counts once, regardless of the number of destinations."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.stage = ""
        """The most recently busy stage."""
        self._started_ns = time.time_ns()

    @property
    def counts(self) -> DatasetCounts:
        """The counts so far."""
        return DatasetCounts(
            name=self.dataset,
            rows_read=self.read,
            rows_written=self.written,
            rows_filtered=self.filtered,
            rows_rejected=self.rejected,
        )

    async def next_of(self, batches: Batches) -> Records | Lines | None:
        """Read and count the next batch; None at the end."""
        with self.timed("source"):
            records = await anext(batches, None)
        self.read += len(records or ())
        return records

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's duration to that stage."""
        self.stage = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def trace(self) -> None:
        """
        Write one span for each stage that was busy, below the current span.

        The stages alternate with every batch, so each span covers the whole dataset and has the stage's own time as
        `busy_ms`.
        """
        ended_ns = time.time_ns()
        for stage, seconds in self.seconds.items():
            if seconds:
                busy = {"busy_ms": round(seconds * 1000, 3)}
                child(f"stage {stage}", attributes=busy, start_time=self._started_ns).end(ended_ns)
