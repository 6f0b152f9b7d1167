"""The display of followed runs on a terminal."""

from __future__ import annotations

import logging
import os
import pty
import sys
from datetime import UTC, datetime

import pytest

from pipeline_processing.model import RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.terminal.progress import shown_progress


def test_a_terminal_shows_a_summary_a_line_per_run_and_each_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines that stay are those of runs that have ended, whatever characters they hold."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # another test's may write to a closed file
        with shown_progress() as shown:
            shown.summary("2 runs: 1 waiting, 1 in progress")
            shown(
                RunProgress(
                    run_id="a",
                    agency_id=7,
                    attempt=1,
                    state=RunState.RUNNING,
                    dataset="permits",
                    stage=None,
                    rows_read=5,
                    rows_written=4,
                    bytes_written=1,
                    at=datetime(2026, 1, 18, tzinfo=UTC),
                )
            )
            shown.ended("b", "b: failed, [red]")
        monkeypatch.undo()
        terminal.flush()
        drawn = os.read(ours, 65536).decode()
    os.close(ours)

    assert "b: failed, [red]" in drawn
    assert "2 runs: 1 waiting, 1 in progress" in drawn
    assert "agency 7: permits" in drawn
    assert "5 rows read, 4 written" in drawn
