"""The progress of a run over all its datasets."""

from collections.abc import Callable

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.aio.clock import Clock
from pipeline_processing.model import Counts, DatasetCounts, RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.store import Outcome


class RunTotals:
    """Adds up the progress of a run's datasets, and reports the sum to `tell`."""

    def __init__(self, run: RunContext, clock: Clock, tell: Callable[[RunProgress], None]) -> None:
        self.run = run
        self._clock = clock
        self._tell = tell
        self._datasets: dict[str, tuple[Counts, int]] = {}

    @property
    def outcome(self) -> Outcome:
        """The counts so far, for the history of a failed run."""
        return Outcome(counts=sum((counts for counts, _ in self._datasets.values()), start=Counts()))

    def __call__(self, counts: DatasetCounts, *, stage: str, bytes_written: int) -> None:
        self._datasets[counts.name] = (counts, bytes_written)
        done = self._datasets.values()
        self._tell(
            RunProgress(
                run_id=self.run.run_id,
                agency_id=self.run.request.agency_id,
                attempt=self.run.attempt,
                state=RunState.RUNNING,
                dataset=counts.name,
                stage=stage,
                rows_read=sum(c.rows_read for c, _ in done),
                rows_written=sum(c.rows_written for c, _ in done),
                bytes_written=sum(size for _, size in done),
                at=self._clock.now(),
            )
        )
