"""Progress of a run on stderr: a live display on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from pipeline_processing.cli.render import number

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pipeline_processing.model import RunProgress

_SECONDS_BETWEEN_LINES = 2.0

OnRunProgress = Callable[["RunProgress"], None]


@contextmanager
def shown_progress() -> Iterator[OnRunProgress]:
    """What to call with each piece of progress, while the block lasts."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} rows read, {task.fields[written]} written"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as display:
        bars: dict[str, TaskID] = {}
        started = time.monotonic()

        def show(progress: RunProgress) -> None:
            if progress.run_id not in bars:
                bars[progress.run_id] = display.add_task("", total=None, written="0", rate="")
            rate = progress.rows_read / max(time.monotonic() - started, 0.001)
            display.update(
                bars[progress.run_id],
                description=f"agency {progress.agency_id}: {progress.dataset}",
                completed=progress.rows_read,
                written=number(progress.rows_written),
                rate=f"{rate:,.0f} rows/s",
            )

        yield show


def _plain_lines() -> OnRunProgress:
    told_at: dict[tuple[str, str | None], float] = {}

    def show(progress: RunProgress) -> None:
        now, about = time.monotonic(), (progress.run_id, progress.dataset)
        if now - told_at.get(about, now - _SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return
        told_at[about] = now
        typer.echo(
            f"{progress.run_id}: {progress.dataset}: {number(progress.rows_read)} rows read, "
            f"{number(progress.rows_written)} written, {number(progress.bytes_written)} bytes",
            err=True,
        )

    return show
