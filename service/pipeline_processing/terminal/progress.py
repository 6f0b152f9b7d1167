"""Shows a run's progress on stderr: a live display on a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from pipeline_processing.terminal.notes import is_quiet
from pipeline_processing.terminal.render import number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from pipeline_processing.runs.completions import RunProgress

_SECONDS_BETWEEN_LINES = 2.0

OnRunProgress = Callable[["RunProgress"], None]


class Shown(Protocol):
    def __call__(self, progress: RunProgress) -> None:
        """Show the progress of a run."""

    def ended(self, run_id: str, said: str) -> None:
        """Replace the run's progress with a last line, `said`."""

    def summary(self, said: str) -> None:
        """Show above the runs how far all of them are. Plain lines have no place for it."""


@contextmanager
def shown_progress() -> Iterator[Shown]:
    """Yield the display to call with the progress of one or more runs. A quiet command shows none."""
    if is_quiet():
        yield _Nothing()
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bars = _Bars(
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.completed:,.0f} rows read, {task.fields[written]} written"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
        )
    )
    with Live(get_renderable=bars.drawn, console=console, transient=True, refresh_per_second=10), logs_above():
        yield bars


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


class _Bars:
    """A live line for each run."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._summary = ""
        self._bars: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}
        """Time and rows read at a run's first progress, for its rate: it may have begun long before."""

    def __call__(self, progress: RunProgress) -> None:
        run_id, now = progress.run_id, time.monotonic()
        if run_id not in self._bars:
            self._bars[run_id] = self._display.add_task("", total=None, written="0", rate="")
            self._first[run_id] = now, progress.rows_read
        since, rows = self._first[run_id]
        rate = max(progress.rows_read - rows, 0) / max(now - since, 0.001)
        self._display.update(
            self._bars[run_id],
            description=f"agency {progress.agency_id}: {progress.dataset}",
            completed=progress.rows_read,
            written=number(progress.rows_written),
            rate=f"{rate:,.0f} rows/s" if rate else "",
        )

    def ended(self, run_id: str, said: str) -> None:
        if run_id in self._bars:
            self._display.remove_task(self._bars.pop(run_id))
        # Not typer.echo: it writes to the terminal behind the display, which would overwrite the line.
        self._display.console.print(said, markup=False, highlight=False, soft_wrap=True)

    def summary(self, said: str) -> None:
        self._summary = said

    def drawn(self) -> RenderableType:
        """Return what to draw now."""
        from rich.console import Group
        from rich.text import Text

        return Group(Text(self._summary), self._display) if self._summary else self._display


class _Nothing:
    def __call__(self, progress: RunProgress) -> None:
        pass

    def ended(self, run_id: str, said: str) -> None:
        pass

    def summary(self, said: str) -> None:
        pass


class _Lines:
    """A plain line for each dataset, at most every two seconds."""

    def __init__(self) -> None:
        self._printed_at: dict[tuple[str, str | None], float] = {}

    def __call__(self, progress: RunProgress) -> None:
        now, about = time.monotonic(), (progress.run_id, progress.dataset)
        if now - self._printed_at.get(about, now - _SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return
        self._printed_at[about] = now
        typer.echo(
            f"{progress.run_id}: {progress.dataset}: {number(progress.rows_read)} rows read, "
            f"{number(progress.rows_written)} written, {number(progress.bytes_written)} bytes",
            err=True,
        )

    def ended(self, run_id: str, said: str) -> None:
        typer.echo(said, err=True)

    def summary(self, said: str) -> None:
        pass
