"""What is told of many runs that one command follows."""

from __future__ import annotations

from pipeline_processing.model import RunFailure
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.terminal.following import FollowedRuns
from tests.unit.requests.test_following import completion, progress

BROKEN = RunFailure(kind="query_failed", message="division by zero", retryable=False, exit_code=1)


class Display:
    """Keeps what it should show."""

    def __init__(self) -> None:
        self.summaries: list[str] = []
        self.lines: list[str] = []

    def __call__(self, progress: RunProgress) -> None:
        pass

    def ended(self, run_id: str, said: str) -> None:
        self.lines.append(said)

    def summary(self, said: str) -> None:
        self.summaries.append(said)

    def note(self, said: str) -> None:
        pass


def begun(agency_id: int) -> RunProgress:
    return RunProgress.model_validate_json(progress(agency_id, 1).value or b"")


def test_runs_are_counted_as_what_they_are_now() -> None:
    """What there is none of is left out."""
    shown = Display()
    runs = FollowedRuns(1_000, shown=shown)
    assert shown.summaries[-1] == "0/1,000 runs have ended: 1,000 waiting"
    assert runs.silent

    runs.progressed(begun(1))
    runs.progressed(begun(2))
    runs.ended("run-1", completion(1, state="failed", error=BROKEN))
    runs.ended("run-3", completion(3))

    assert shown.summaries[-1] == "2/1,000 runs have ended: 997 waiting, 1 in progress, 1 failed, 1 succeeded"
    assert shown.lines == [
        "run-1: failed, query_failed: division by zero",
        "run-3: succeeded, 0 rows",
    ]
    assert not runs.silent


def test_the_summary_names_what_was_written_and_what_failed() -> None:
    """Failed runs by reason, and not more of them than one reads."""
    runs = FollowedRuns(14, shown=Display())
    runs.ended("run-1", completion(1, rows_written=1_200, bytes_written=4_500_000))
    runs.ended("run-2", completion(2, state="cancelled"))
    for agency_id in range(3, 15):
        runs.ended(f"run-{agency_id}", completion(agency_id, state="failed", rows_written=5, error=BROKEN))

    total, failed = runs.summary()

    assert total == "14 runs: 1 exported 1,200 rows (4.5 MB), 12 failed, 1 cancelled."
    assert failed.startswith("  failed (query_failed): run-3, run-4, ")
    assert failed.endswith("run-12, … and 2 more")


def test_a_single_run_needs_no_summary() -> None:
    """Its last line says it all."""
    shown = Display()
    runs = FollowedRuns(1, shown=shown)
    assert shown.summaries == ["waiting for a worker"]

    runs.ended("run-1", completion(1))

    assert shown.lines == ["run-1: succeeded, 0 rows"]
    assert shown.summaries[-1] == ""
    assert list(runs.summary()) == []
