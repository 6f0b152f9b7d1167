"""What `queue` and `workers` say: why a run waits, and who does what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline_processing.model import JobRequest, Run, RunState
from pipeline_processing.requests.workers import Worker, WorkerState
from pipeline_processing.runs.queue_reads import Waiting
from pipeline_processing.terminal.queue import (
    waiting_object,
    waiting_table,
    why,
    worker_object,
    worker_table,
)
from pipeline_processing.terminal.tables import cells_of
from tests.unit.virtual_clock import EPOCH

NOW = EPOCH + timedelta(seconds=90)


def run(run_id: str = "r", **fields: Any) -> Run:
    return Run(
        **{
            "run_id": run_id,
            "job": "agency_data_job",
            "agency_id": 7,
            "state": RunState.QUEUED,
            "attempt": 0,
            "request": JobRequest(agency_id=7, priority=3),
            "queued_at": EPOCH,
            **fields,
        }
    )


def waiting(*, behind: str | None = None, held: tuple[str, ...] = (), **fields: Any) -> Waiting:
    return Waiting(run=run(**fields), now=NOW, place=4, behind=behind, held=held, last_error="source_unavailable")


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (waiting(), "for a free worker"),
        (waiting(behind="first"), "behind first of its agency"),
        (waiting(held=("a",), behind="first"), "for its agency's turn: a is at work"),
        (waiting(held=tuple("abcde")), "for its agency's turn: a, b, c and 2 more are at work"),
        (waiting(pinned=True, config_id="ab" * 16), "for a worker with its own job config"),
        (waiting(not_before=NOW + timedelta(hours=1)), "until 2026-01-18 13:01:30 UTC, as requested"),
        (
            waiting(not_before=NOW + timedelta(seconds=5), attempt=2),
            "until 2026-01-18 12:01:35 UTC, for attempt 3 after source_unavailable",
        ),
        (waiting(not_before=NOW), "for a free worker"),
    ],
)
def test_why_a_run_waits(each: Waiting, said: str) -> None:
    """The first reason that applies, in words that go on from `waits`."""
    assert why(each, places=1) == said


def test_a_waiting_run_as_cells_and_as_an_object() -> None:
    """A cell for each column; numbers and times as they are, for programs."""
    each = waiting(behind="first", requested_by="portal")

    line = {column.title: cell(each) for column, cell in waiting_table(places=1).items()}

    assert (line["PLACE"], line["RUN ID"], line["WAITS"], line["PRIORITY"]) == ("4", "r", "1 m 30 s", "3")
    told = waiting_object(each, places=1)
    assert (told["place"], told["reason"], told["behind"], told["priority"]) == (4, "behind", "first", 3)
    assert told["why"] == "behind first of its agency"


def test_a_worker_as_cells_and_as_an_object() -> None:
    """A few of its runs, or all of them; a lag only if it listens."""
    runs = tuple(run(f"r{n}", state=RunState.RUNNING, attempt=1, started_at=EPOCH, worker="w") for n in range(5))
    listening = Worker(
        name="w", state=WorkerState.WORKING, listens=True, host="10.0.0.1", partitions=(0, 1, 2, 5), lag=1200, runs=runs
    )
    alone = Worker(name="v", state=WorkerState.LOST, listens=False, host="v", partitions=(), lag=0, runs=())

    line = {column.title: cell(listening) for column, cell in worker_table(NOW).items()}

    assert (line["PARTITIONS"], line["LAG"]) == ("0-2, 5", "1,200")
    assert line["RUNS"] == "r0 (agency 7, 1 m 30 s), r1 (agency 7, 1 m 30 s), r2 (agency 7, 1 m 30 s), and 2 more"
    assert "r4" in cells_of(listening, worker_table(NOW, all_runs=True))[4]
    assert cells_of(alone, worker_table(NOW)) == ["v", "lost", "doesn't listen", "-", "-", "v"]
    assert worker_object(alone)["lag"] is None
    assert [each["run_id"] for each in worker_object(listening)["runs"]] == ["r0", "r1", "r2", "r3", "r4"]
