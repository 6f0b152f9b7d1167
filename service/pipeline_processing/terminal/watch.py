"""Shows runs while they change: a table that is drawn again on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import typer

from pipeline_processing.terminal.progress import logs_above
from pipeline_processing.terminal.render import (
    RUN_TABLE,
    counted,
    duration,
    moment,
    number,
    run_object,
    run_state,
    time_between,
)
from pipeline_processing.terminal.tables import (
    NOTHING,
    Column,
    cells_of,
    drawn_table,
    one_line,
    print_object,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live as Screen

    from pipeline_processing.model import Run
    from pipeline_processing.requests.watching import Live, Look
    from pipeline_processing.telemetry.masking import Mask

_BETWEEN_LINES = timedelta(seconds=10)
"""Of one run's progress."""

_SPARE = ("AGENCY", "ROWS READ", "TOOK", "ERROR", "ROWS/S", "ROWS WRITTEN", "ATTEMPT", "BYTES", "QUEUED (UTC)")
"""Columns that a narrow terminal has no room for, the last one first: what changes stays."""
_RUN_COLUMNS = tuple(RUN_TABLE)
LIVE_COLUMNS = tuple(
    column._replace(spare=_SPARE.index(column.title) + 1 if column.title in _SPARE else 0)
    for column in (*_RUN_COLUMNS[:7], Column("ROWS/S", right=True), *_RUN_COLUMNS[7:10])
)
_STATES = ("running", "prepared", "queued", "failed", "cancelled", "succeeded")
"""What may need attention comes first."""
_LINES_AROUND = 4
"""Lines of the screen that aren't runs: summary, titles, and the prompt."""


@contextmanager
def shown_runs(mask: Mask, *, as_json: bool) -> Iterator[Callable[[Look], None]]:
    """Yield the display to call with each look. With `as_json`, print one object for each change."""
    if as_json:
        yield _print_objects
        return
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(mask)
        return
    from rich.live import Live as Screen

    with Screen(console=console, auto_refresh=False, vertical_overflow="crop") as screen, logs_above():
        yield _Table(console, screen, mask)


def rows_that_fit() -> int | None:
    """Return how many runs fit on the screen, or None if stdout isn't a terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return max(1, console.height - _LINES_AROUND) if console.is_terminal and not console.is_dumb_terminal else None


def _print_objects(look: Look) -> None:
    for run in look.changed:
        print_object(run_object(run))


# -- lines ---------------------------------------------------------------------------------------


class _Lines:
    """A line for each change and, for running runs, one with their progress every ten seconds."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._printed_at: dict[str, datetime] = {}
        self._problems: list[str] = []

    def __call__(self, look: Look) -> None:
        for run in look.changed:
            self._printed_at[run.run_id] = look.at
            typer.echo(_line(_changed_at(run) or look.at, run, _facts(run)))
        for run in look.listed:
            live = look.live.get(run.run_id)
            if live is not None and look.at - self._printed_at.setdefault(run.run_id, look.at) >= _BETWEEN_LINES:
                self._printed_at[run.run_id] = look.at
                typer.echo(_line(look.at, run, [_running(live), f"{number(live.progress.rows_read)} rows read"]))
        listed = {run.run_id for run in look.listed}
        self._printed_at = {run_id: at for run_id, at in self._printed_at.items() if run_id in listed}
        problems = _problems(look, self._mask)
        for problem in problems:
            if problem not in self._problems:
                typer.echo(problem, err=True)
        self._problems = problems


def _line(at: datetime, run: Run, facts: Sequence[str]) -> str:
    return one_line(f"{moment(at)} {run.run_id}: agency {run.agency_id}: {', '.join(facts)}")


def _changed_at(run: Run) -> datetime | None:
    """Return when the run got into its state, if the history says so."""
    if run.finished_at is not None:
        return run.finished_at
    if run.attempt <= 1:
        return run.started_at if run.attempt else run.queued_at
    return None


def _facts(run: Run) -> list[str]:
    facts = [run_state(run)]
    if run.state == "succeeded":
        return [*facts, f"{number(run.rows_written or 0)} rows", duration(run.duration_ms)]
    if run.error is not None:
        return [*facts, f"{run.error.kind}: {run.error.message}"]
    return [*facts, f"attempt {run.attempt}"] if run.attempt else facts


def _problems(look: Look, mask: Mask) -> list[str]:
    """Return a line for each server that doesn't answer."""
    problems = [look.problem, look.kafka_problem and f"No live numbers: {look.kafka_problem}"]
    return [one_line(mask.text(problem)) for problem in problems if problem]


# -- a table -------------------------------------------------------------------------------------


class _Table:
    """The newest runs, drawn again with each look."""

    def __init__(self, console: Console, screen: Screen, mask: Mask) -> None:
        self._console = console
        self._screen = screen
        self._mask = mask

    def __call__(self, look: Look) -> None:
        self._screen.update(_drawn(look, self._mask, width=self._console.width), refresh=True)


def _drawn(look: Look, mask: Mask, *, width: int) -> RenderableType:
    """Return a summary, what doesn't answer, and the table, with the columns that fit into `width` characters."""
    from rich.console import Group
    from rich.text import Text

    lines = [_cells(run, look) for run in look.listed]
    table = drawn_table(LIVE_COLUMNS, lines, width)
    notes = [Text(each, style="yellow", no_wrap=True, overflow="ellipsis") for each in _problems(look, mask)]
    return Group(Text(_summary(look), no_wrap=True, overflow="ellipsis"), *notes, Text(), table)


def _summary(look: Look) -> str:
    states = Counter(str(run.state) for run in look.listed)
    counts = ", ".join(f"{states[state]:,} {state}" for state in _STATES if states[state])
    newest = f"newest {counted(len(look.listed), 'run')}: {counts}" if counts else "no runs"
    return f"{moment(look.at)} UTC   {newest}"


def _cells(run: Run, look: Look) -> list[str]:
    """Return a run's cells, one for each of LIVE_COLUMNS."""
    cells = cells_of(run, RUN_TABLE)[:10]
    live, rate = look.live.get(run.run_id), NOTHING
    if run.state in ("running", "prepared") and run.started_at is not None:
        cells[5] = time_between(run.started_at, look.at)
    if live is not None:
        now = live.progress
        cells[2] = one_line(f"{cells[2]}: {_stage(live)}") if now.dataset else cells[2]
        cells[6:9] = [number(now.rows_read), number(now.rows_written), number(now.bytes_written)]
        rate = NOTHING if live.rows_per_second is None else f"{live.rows_per_second:,.0f}"
    return [*cells[:7], rate, *cells[7:]]


def _running(live: Live) -> str:
    return f"{live.progress.state}: {_stage(live)}"


def _stage(live: Live) -> str:
    return live.progress.dataset or live.progress.stage or NOTHING
