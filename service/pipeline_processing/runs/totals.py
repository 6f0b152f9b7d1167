"""The progress of a run over all its datasets."""

from collections.abc import Callable, Sequence

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.processor import LastSuccesses
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import PipelineError
from pipeline_processing.model import Counts, DatasetCounts, RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.store import Outcome

_EXPECT_AFTER_SECONDS = 2.0


class RunTotals:
    """Adds up the progress of a run's datasets, and reports the sum and the current dataset's share to `tell`."""

    def __init__(self, run: RunContext, clock: Clock, tell: Callable[[RunProgress], None]) -> None:
        self.run = run
        self.datasets: Sequence[str] = ()
        """The names of all datasets that the run exports, in order."""
        self.rows_expected: int | None = None
        self._clock = clock
        self._tell = tell
        self._so_far: dict[str, tuple[Counts, int]] = {}

    @property
    def outcome(self) -> Outcome:
        """The counts so far, for the history of a failed run."""
        return Outcome(counts=sum((counts for counts, _ in self._so_far.values()), start=Counts()))

    async def expect(self, last_success: LastSuccesses) -> None:
        """
        Look up how many rows to expect: as many as the datasets' last successful exports read.

        Waits for two seconds first, so that short runs cost the history nothing. No error ends a run for an estimate.
        """
        await self._clock.sleep(_EXPECT_AFTER_SECONDS)
        try:
            last = [await last_success(self.run.request.agency_id, name) for name in self.datasets]
        except PipelineError:
            return
        found = [each.counts.rows_read for each in last if each is not None]
        if len(found) == len(last):
            self.rows_expected = sum(found)

    def __call__(self, counts: DatasetCounts, *, stage: str, bytes_written: int) -> None:
        self._so_far[counts.name] = (counts, bytes_written)
        done = self._so_far.values()
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
                dataset_number=len(done),
                dataset_count=len(self.datasets) or None,
                dataset_rows_read=counts.rows_read,
                dataset_rows_written=counts.rows_written,
                dataset_bytes_written=bytes_written,
                rows_expected=self.rows_expected,
            )
        )
