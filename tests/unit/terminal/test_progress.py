"""The progress of runs, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipeline_processing.model import RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.terminal.progress import Pace, Shown, dataset_of, shown_progress
from tests.unit.virtual_clock import EPOCH


def progress(run_id: str = "a", *, seconds: float = 0, rows: int = 5, **fields: Any) -> RunProgress:
    return RunProgress(
        **{
            "run_id": run_id,
            "agency_id": 7,
            "attempt": 1,
            "state": RunState.RUNNING,
            "dataset": "permits",
            "stage": None,
            "rows_read": rows,
            "rows_written": max(0, rows - 1),
            "bytes_written": 1_200_000,
            "at": EPOCH + timedelta(seconds=seconds),
            **fields,
        }
    )


SECOND_OF_THREE = {
    "dataset_number": 2,
    "dataset_count": 3,
    "dataset_rows_read": 4_000,
    "dataset_rows_written": 3_900,
    "dataset_bytes_written": 345_600,
    "rows_expected": 20_000,
}


def drawn(show: Callable[[Shown], None], monkeypatch: pytest.MonkeyPatch, *, columns: int, lines: int = 24) -> str:
    """What a terminal of that size gets to see."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    monkeypatch.setenv("TERM", "xterm")
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while data := os.read(ours, 4096):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # another test's may write to a closed file
        with shown_progress() as shown:
            show(shown)
        monkeypatch.undo()
    reader.join(timeout=10)
    os.close(ours)
    return seen.decode()


def test_a_terminal_shows_a_summary_a_row_per_run_and_each_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines that stay are those of runs that have ended, whatever characters they hold."""

    def show(shown: Shown) -> None:
        shown.summary("1/2 runs have ended")
        shown.note("No worker is listening")
        shown(progress(rows=6_000, **SECOND_OF_THREE))
        shown(progress(rows=10_000, seconds=5, **SECOND_OF_THREE))
        shown.ended("b", "b: failed, [red]")

    seen = drawn(show, monkeypatch, columns=80)

    assert "b: failed, [red]" in seen
    assert "1/2 runs have ended" in seen
    assert "No worker is listening" in seen
    # The time goes on, and a slow machine draws more than once.
    row = re.sub(r"\d+ s  +~", "~", [line for line in seen.splitlines() if "permits" in line][-1])
    assert row.split() == ["7", "permits", "2/3", "4,000", "3,900", "345.6", "kB", "800", "~12", "s"]
    assert max(map(len, seen.splitlines())) <= 80 + len("\x1b[1m\x1b[0m") * 20


def test_a_narrow_terminal_gets_fewer_columns_and_a_low_one_fewer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset and its rows stay; what isn't shown is counted."""

    def show(shown: Shown) -> None:
        for number in range(6):
            shown(progress(f"run-{number}", **SECOND_OF_THREE))

    seen = drawn(show, monkeypatch, columns=40, lines=8)

    rows = [line.split() for line in seen.splitlines() if "permits" in line]
    assert rows[-3:] == [["7", "permits", "2/3", "4,000", "-"]] * 3
    assert "… and 3 runs more" in seen


def test_elsewhere_a_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker of an older version tells of the whole run only."""
    with shown_progress() as shown:
        shown(progress(**SECOND_OF_THREE))
        shown(progress("old"))
        shown.note("No worker is listening")
        shown.note("No worker is listening")
        shown.summary("soon again")

    assert capsys.readouterr().err.splitlines() == [
        "a: permits 2/3: 4,000 rows read, 3,900 written, 345.6 kB",
        "old: permits: 5 rows read, 4 written, 1.2 MB",
        "No worker is listening",
    ]


def test_the_pace_is_that_of_the_last_seconds() -> None:
    """Nothing is estimated without a rate, without a number to expect, or behind that number."""
    pace = Pace(progress(rows=0, rows_expected=1_000))
    assert (pace.rate, pace.left) == ("-", "-")

    for second in range(1, 21):  # 10 rows a second, and then 20
        pace.take(progress(rows=10 * second + 10 * max(0, second - 10), seconds=second, rows_expected=1_000))
    assert (pace.rate, pace.left) == ("20", "~35 s")

    pace.take(progress(rows=1_100, seconds=21, rows_expected=1_000))
    assert pace.left == "-"
    pace.take(progress(rows=0, seconds=22, attempt=2))
    assert (pace.rate, pace.left) == ("-", "-")


def test_a_run_before_its_first_dataset() -> None:
    """The stage is all there is to tell."""
    assert dataset_of(progress(dataset=None, stage="load")) == "load"
    assert dataset_of(progress(dataset=None)) == "-"
