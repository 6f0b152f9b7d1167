"""What a person who watches runs sees: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from pipeline_processing.model import JobRequest, Run, RunFailure, RunState
from pipeline_processing.requests.watching import Live, Look
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.terminal import watch
from pipeline_processing.terminal.watch import LIVE_COLUMNS, shown_runs

NOW = datetime(2026, 1, 18, 10, 1, tzinfo=UTC)
START = NOW - timedelta(seconds=30)
FAILURE = RunFailure(kind="query_failed", message="division by zero\nRow \x1b[31m12", retryable=False, exit_code=1)


def run(run_id: str, state: RunState, **fields: Any) -> Run:
    attempt = 0 if state is RunState.QUEUED else 1
    return Run(
        **{
            "run_id": run_id,
            "job": "agency_data_job",
            "agency_id": 7,
            "state": state,
            "attempt": attempt,
            "request": JobRequest(agency_id=7),
            "queued_at": START - timedelta(seconds=5),
            "started_at": START if attempt else None,
            "finished_at": NOW if state.finished else None,
            **fields,
        }
    )


RUNNING = run("running", RunState.RUNNING)
RUNS = [
    run("queued", RunState.QUEUED),
    RUNNING,
    run("failed", RunState.FAILED, error=FAILURE),
    run("done", RunState.SUCCEEDED, rows_read=1234, rows_written=1230, duration_ms=30_000, dry_run=True),
]


def live(rows: int, rate: float | None) -> Live:
    progress = RunProgress(
        run_id="running",
        agency_id=7,
        attempt=1,
        state=RunState.RUNNING,
        dataset="[red]",
        stage="load",
        rows_read=rows,
        rows_written=rows - 1,
        bytes_written=10,
        at=NOW,
    )
    return Live(progress, rows_per_second=rate)


def look(*, at: datetime = NOW, listed: Sequence[Run] = RUNS, **fields: Any) -> Look:
    return Look(**{"at": at, "listed": listed, "changed": [], "live": {}, **fields})


def table(look: Look, *, width: int) -> list[str]:
    """What stands on a screen of that width."""
    console = Console(file=io.StringIO(), width=width, height=50)
    mask = Mask()
    mask.know(["s3cr3t-word"])
    console.print(watch._drawn(look, mask, width=width))
    printed = console.file
    assert isinstance(printed, io.StringIO)
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


# -- the table -----------------------------------------------------------------------------------


def test_a_wide_screen_shows_every_column() -> None:
    """A summary first; a running run has its dataset, elapsed time and live numbers. Square brackets are no markup."""
    summary, blank, titles, *lines = table(look(live={"running": live(5000, 166.7)}), width=160)

    assert summary == "2026-01-18 10:01:00 UTC   newest 4 runs: 1 running, 1 queued, 1 failed, 1 succeeded"
    assert blank == ""
    assert titles.split("  ")[0] == "RUN ID"
    assert all(column.title in titles for column in LIVE_COLUMNS)
    assert [" ".join(line.split()) for line in lines] == [
        "queued 7 queued 0 2026-01-18 10:00:25 - - - - - -",
        "running 7 running: [red] 1 2026-01-18 10:00:25 30.0 s 5,000 167 4,999 10 -",
        "failed 7 failed 1 2026-01-18 10:00:25 - - - - - query_failed",
        "done 7 succeeded (dry run) 1 2026-01-18 10:00:25 30.0 s 1,234 - 1,230 - -",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_a_narrow_screen_shows_fewer_columns(width: int) -> None:
    """No line is wider than the screen, and run id and state are there to the last."""
    lines = table(look(live={"running": live(5000, None)}, kafka_problem="x" * 300), width=width)

    assert lines[1].startswith("No live numbers:")
    titles = lines[3].split("  ")
    assert {"RUN ID", "STATE"} <= set(titles) or width == 20
    assert ("ROWS READ" in lines[3]) == (width >= 60)
    assert ("QUEUED" in lines[3]) == (width > 100)


def test_what_does_not_answer_stands_above_the_table() -> None:
    """On one line each, without secrets."""
    lines = table(look(problem="Postgres\nis away", kafka_problem="s3cr3t-word is refused"), width=120)

    assert lines[1:3] == ["Postgres is away", "No live numbers: *** is refused"]


def test_no_run_is_a_summary_and_titles() -> None:
    """So that nobody has to wonder whether it works."""
    lines = table(look(listed=[]), width=120)

    assert lines[0].endswith("UTC   no runs")
    assert lines[2].startswith("RUN ID")


# -- lines ---------------------------------------------------------------------------------------


def test_each_change_is_a_line_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    """No control character reaches the terminal of whoever reads the file later."""
    with shown_runs(Mask(), as_json=False) as show:
        show(look(changed=RUNS))

    assert capsys.readouterr().out.splitlines() == [
        "2026-01-18 10:00:25 queued: agency 7: queued",
        "2026-01-18 10:00:30 running: agency 7: running, attempt 1",
        "2026-01-18 10:01:00 failed: agency 7: failed, query_failed: division by zero Row [31m12",
        "2026-01-18 10:01:00 done: agency 7: succeeded (dry run), 1,230 rows, 30.0 s",
    ]


def test_a_later_attempt_has_the_time_at_which_it_was_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    """The history keeps only when the run started."""
    with shown_runs(Mask(), as_json=False) as show:
        show(look(changed=[RUNNING.model_copy(update={"attempt": 2})]))
        show(look(changed=[RUNNING.model_copy(update={"attempt": 2, "state": RunState.QUEUED})]))

    assert capsys.readouterr().out.splitlines() == [
        "2026-01-18 10:01:00 running: agency 7: running, attempt 2",
        "2026-01-18 10:01:00 running: agency 7: queued, attempt 2",
    ]


def test_progress_is_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """The first ten seconds after the last line about the run."""
    with shown_runs(Mask(), as_json=False) as show:
        show(look(changed=[RUNNING]))
        for second in range(1, 25):
            show(look(at=NOW + timedelta(seconds=second), live={"running": live(second * 1000, None)}))

    assert capsys.readouterr().out.splitlines()[1:] == [
        "2026-01-18 10:01:10 running: agency 7: running: [red], 10,000 rows read",
        "2026-01-18 10:01:20 running: agency 7: running: [red], 20,000 rows read",
    ]


def test_a_run_may_come_back_into_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing about it has changed, so nothing is printed."""
    with shown_runs(Mask(), as_json=False) as show:
        show(look(changed=[RUNNING]))
        show(look(listed=[]))
        show(look(live={"running": live(5, None)}))

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_outage_is_told_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """And again when it comes back."""
    with shown_runs(Mask(), as_json=False) as show:
        for problem in (None, "away", "away", None, "away"):
            show(look(problem=problem, kafka_problem="gone"))

    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", ["No live numbers: gone", "away", "away"])
