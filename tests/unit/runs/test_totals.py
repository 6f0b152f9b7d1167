"""What a run has done so far, over all its datasets."""

from __future__ import annotations

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.model import Counts, DatasetCounts, JobRequest, RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.store import Outcome
from pipeline_processing.runs.totals import RunTotals
from tests.unit.virtual_clock import EPOCH, VirtualClock

RUN = RunContext(run_id="r", attempt=2, trace_id="ab" * 16, request=JobRequest(agency_id=7))


def counts(name: str, read: int, *, filtered: int = 0, rejected: int = 0) -> DatasetCounts:
    return DatasetCounts(
        name=name,
        rows_read=read,
        rows_written=read - filtered - rejected,
        rows_filtered=filtered,
        rows_rejected=rejected,
    )


def test_progress_is_of_all_datasets_so_far() -> None:
    """Each counts as it was told last; the message names the one at work."""
    told: list[RunProgress] = []
    totals = RunTotals(RUN, VirtualClock(), told.append)

    totals(counts("a", 2), stage="upload", bytes_written=20)
    totals(counts("a", 5, filtered=1), stage="format", bytes_written=50)
    totals(counts("b", 10, rejected=3), stage="upload", bytes_written=70)

    assert [(p.dataset, p.stage, p.rows_read, p.rows_written, p.bytes_written) for p in told] == [
        ("a", "upload", 2, 2, 20),
        ("a", "format", 5, 4, 50),
        ("b", "upload", 15, 11, 120),
    ]
    assert {(p.run_id, p.agency_id, p.attempt, p.state, p.at) for p in told} == {("r", 7, 2, RunState.RUNNING, EPOCH)}


def test_the_outcome_of_a_run_that_fails() -> None:
    """Its rows so far; it has covered nothing, and nothing of it was written for good."""
    totals = RunTotals(RUN, VirtualClock(), lambda progress: None)
    assert totals.outcome == Outcome()

    totals(counts("a", 5, filtered=1), stage="upload", bytes_written=50)
    totals(counts("b", 10, rejected=3), stage="upload", bytes_written=70)

    assert totals.outcome == Outcome(counts=Counts(rows_read=15, rows_written=11, rows_filtered=1, rows_rejected=3))
