"""What a run has done so far, over all its datasets."""

from __future__ import annotations

import asyncio

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.model import Counts, DatasetCounts, JobRequest, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.store import Outcome
from pipeline_processing.runs.totals import RunTotals
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time

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


def test_progress_tells_the_share_of_the_dataset_at_work() -> None:
    """Its number among all datasets, and its own counts."""
    told: list[RunProgress] = []
    totals = RunTotals(RUN, VirtualClock(), told.append)
    totals.datasets = ["a", "b", "c"]

    totals(counts("a", 5, filtered=1), stage="format", bytes_written=50)
    totals(counts("b", 10, rejected=3), stage="upload", bytes_written=70)

    assert [
        (p.dataset_number, p.dataset_count, p.dataset_rows_read, p.dataset_rows_written, p.dataset_bytes_written)
        for p in told
    ] == [(1, 3, 5, 4, 50), (2, 3, 10, 7, 70)]


@in_virtual_time
async def test_a_long_run_expects_what_its_datasets_had_last_time() -> None:
    """A short one asks nothing; a dataset without a success, or a history that is away, leaves the number open."""
    asked: list[tuple[int, str]] = []
    last: dict[str, LastSuccess] = {}

    async def last_success(agency_id: int, dataset: str) -> LastSuccess | None:
        asked.append((agency_id, dataset))
        if dataset == "away":
            raise HistoryUnavailable("x")
        return last.get(dataset)

    async def expected(*datasets: str) -> int | None:
        totals = RunTotals(RUN, VirtualClock(), lambda progress: None)
        totals.datasets = datasets
        await totals.expect(last_success)
        return totals.rows_expected

    last["a"] = LastSuccess("r1", EPOCH, counts("a", 100))
    last["b"] = LastSuccess("r2", EPOCH, counts("b", 20))
    expecting = asyncio.create_task(expected("a", "b"))
    await asyncio.sleep(1.9)
    assert asked == []

    assert await expecting == 120
    assert asked == [(7, "a"), (7, "b")]
    assert await expected("a", "c") is None
    assert await expected("a", "away") is None


def test_the_outcome_of_a_run_that_fails() -> None:
    """Its rows so far; it has covered nothing, and nothing of it was written for good."""
    totals = RunTotals(RUN, VirtualClock(), lambda progress: None)
    assert totals.outcome == Outcome()

    totals(counts("a", 5, filtered=1), stage="upload", bytes_written=50)
    totals(counts("b", 10, rejected=3), stage="upload", bytes_written=70)

    assert totals.outcome == Outcome(counts=Counts(rows_read=15, rows_written=11, rows_filtered=1, rows_rejected=3))
