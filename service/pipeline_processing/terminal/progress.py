"""Shows the progress of runs on stderr: a table that is drawn again on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import typer

from pipeline_processing.terminal.notes import is_quiet
from pipeline_processing.terminal.render import counted, duration, number, size
from pipeline_processing.terminal.tables import NOTHING, Column, Table, cells_of, drawn_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pipeline_processing.runs.completions import RunProgress

_SECONDS_BETWEEN_LINES = 2.0
_SECONDS_BETWEEN_SUMMARIES = 10.0
_BETWEEN_SAMPLES = timedelta(seconds=1)
_SAMPLES = 10
"""The rate is that of the last ten seconds or so."""
_LINES_AROUND = 5
"""Lines of the screen that aren't runs: summary, note, titles, how many more, and the prompt."""


class Shown:
    """A display of runs. This one shows nothing."""

    def __call__(self, progress: RunProgress) -> None:
        """Show the progress of a run."""

    def ended(self, run_id: str, said: str) -> None:
        """Replace the run's progress with a last line, `said`."""

    def summary(self, said: str) -> None:
        """Show how far all of the runs are."""

    def note(self, said: str) -> None:
        """Show what holds the runs up; an empty text takes it away."""


@contextmanager
def shown_progress() -> Iterator[Shown]:
    """Yield the display to call with the progress of one or more runs. A quiet command shows none."""
    if is_quiet():
        yield Shown()
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    table = _Table(console)
    with Live(get_renderable=table.drawn, console=console, transient=True, refresh_per_second=10), logs_above():
        yield table


@contextmanager
def logs_above() -> Iterator[None]:
    """Send logs to the stderr that the display has replaced. Otherwise it would overwrite them."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]
    before = [(handler, handler.stream) for handler in handlers]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in before:
            handler.setStream(stream)


class Pace:
    """The last progress of a run, how fast it reads, and how long that will take."""

    def __init__(self, first: RunProgress) -> None:
        self.last = first
        self.began = time.monotonic()
        """When the run was first heard of: it may have begun long before."""
        self._samples: deque[tuple[datetime, int]] = deque(maxlen=_SAMPLES)
        self.take(first)

    def take(self, progress: RunProgress) -> None:
        """Take the latest progress, of which a run in this process has thousands a second."""
        if progress.attempt != self.last.attempt:
            self._samples.clear()
        if not self._samples or progress.at - self._samples[-1][0] >= _BETWEEN_SAMPLES:
            self._samples.append((progress.at, progress.rows_read))
        self.last = progress

    @property
    def rows_per_second(self) -> float | None:
        """Rows read; None before there is anything to compare with."""
        at, rows = self._samples[0]
        seconds = (self.last.at - at).total_seconds()
        return (self.last.rows_read - rows) / seconds if seconds >= _BETWEEN_SAMPLES.total_seconds() else None

    @property
    def rate(self) -> str:
        return NOTHING if self.rows_per_second is None else f"{self.rows_per_second:,.0f}"

    @property
    def left(self) -> str:
        """How long the rest will take, if the run has as many rows as last time."""
        expected, rate = self.last.rows_expected, self.rows_per_second
        if expected is None or not rate or expected <= self.last.rows_read:
            return NOTHING
        return f"~{_whole((expected - self.last.rows_read) / rate)}"


def _whole(seconds: float) -> str:
    """`5 s`, `3 m 4 s`."""
    return f"{round(seconds)} s" if round(seconds) < 60 else duration(1000 * seconds)


def dataset_of(progress: RunProgress) -> str:
    """`records`, or `records 2/3` if the run has several datasets."""
    if progress.dataset is None:
        return progress.stage or NOTHING
    several = (progress.dataset_count or 1) > 1
    return f"{progress.dataset} {progress.dataset_number}/{progress.dataset_count}" if several else progress.dataset


def counts_of(progress: RunProgress) -> tuple[int, int, int]:
    """Return rows read, rows written and bytes written of the dataset; of the run, if a worker is older."""
    if progress.dataset_rows_read is None:
        return progress.rows_read, progress.rows_written, progress.bytes_written
    return progress.dataset_rows_read, progress.dataset_rows_written or 0, progress.dataset_bytes_written or 0


def _taken(runs: dict[str, Pace], progress: RunProgress) -> Pace:
    """Give the progress to its run, which is added if it is new."""
    if (run := runs.get(progress.run_id)) is None:
        run = runs[progress.run_id] = Pace(progress)
    else:
        run.take(progress)
    return run


class _Table(Shown):
    """A row for each run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._summary = self._note = ""
        self._runs: dict[str, Pace] = {}

    def __call__(self, progress: RunProgress) -> None:
        _taken(self._runs, progress)

    def ended(self, run_id: str, said: str) -> None:
        self._runs.pop(run_id, None)
        # Not typer.echo: it writes to the terminal behind the display, which would overwrite the line.
        self._console.print(said, markup=False, highlight=False, soft_wrap=True)

    def summary(self, said: str) -> None:
        self._summary = said

    def note(self, said: str) -> None:
        self._note = said

    def drawn(self) -> RenderableType:
        """Return what to draw now. The display asks from a thread of its own."""
        from rich.console import Group
        from rich.text import Text

        runs = list(self._runs.values())
        fitting = runs[: max(1, self._console.height - _LINES_AROUND)]
        parts: list[RenderableType] = []
        if self._summary:
            parts.append(Text(self._summary, no_wrap=True, overflow="ellipsis"))
        if self._note:
            parts.append(Text(self._note, style="yellow"))
        if fitting:
            lines = [cells_of(run, _TABLE) for run in fitting]
            parts.append(drawn_table(tuple(_TABLE), lines, self._console.width))
        if len(runs) > len(fitting):
            parts.append(Text(f"… and {counted(len(runs) - len(fitting), 'run')} more"))
        return Group(*parts)


_TABLE: Table[Pace] = {
    Column("AGENCY", right=True): lambda run: str(run.last.agency_id),
    Column("DATASET"): lambda run: dataset_of(run.last),
    Column("ROWS READ", right=True): lambda run: number(counts_of(run.last)[0]),
    Column("WRITTEN", right=True, spare=4): lambda run: number(counts_of(run.last)[1]),
    Column("BYTES", right=True, spare=3): lambda run: size(counts_of(run.last)[2]),
    Column("ROWS/S", right=True, spare=2): lambda run: run.rate,
    Column("TIME", right=True, spare=5): lambda run: _whole(time.monotonic() - run.began),
    Column("LEFT", right=True, spare=1): lambda run: run.left,
}


class _Lines(Shown):
    """A plain line for each dataset, at most every two seconds, and the summary every ten."""

    def __init__(self) -> None:
        self._runs: dict[str, Pace] = {}
        self._printed_at: dict[tuple[str, str | None], float] = {}
        self._summarised_at = time.monotonic()
        self._note = ""

    def __call__(self, progress: RunProgress) -> None:
        run = _taken(self._runs, progress)
        now, about = time.monotonic(), (progress.run_id, progress.dataset)
        if now - self._printed_at.get(about, now - _SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return
        self._printed_at[about] = now
        read, written, written_bytes = counts_of(progress)
        facts = [f"{number(read)} rows read", f"{number(written)} written", size(written_bytes)]
        facts += [f"{run.rate} rows/s"] if run.rate != NOTHING else []
        facts += [f"{run.left} left"] if run.left != NOTHING else []
        typer.echo(f"{progress.run_id}: {dataset_of(progress)}: {', '.join(facts)}", err=True)

    def ended(self, run_id: str, said: str) -> None:
        self._runs.pop(run_id, None)
        typer.echo(said, err=True)

    def summary(self, said: str) -> None:
        now = time.monotonic()
        if now - self._summarised_at >= _SECONDS_BETWEEN_SUMMARIES:
            self._summarised_at = now
            typer.echo(said, err=True)

    def note(self, said: str) -> None:
        if said and said != self._note:
            typer.echo(said, err=True)
        self._note = said
