"""
Renders runs for people and programs: lines, key-value blocks, tables, and JSON objects with the history's columns.

On a terminal, a table has the columns that fit, and never breaks an id. Control characters in messages and errors are
replaced, because a terminal would execute them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from pipeline_processing.model import Attempt, Bill, DatasetCounts, Run
    from pipeline_processing.runs.deliveries import Delivery

T = TypeVar("T")

NOTHING = "-"
"""Shown for a missing value, so that every line has the same number of columns."""


class Output(StrEnum):
    """How a command prints its data."""

    TABLE = "table"
    """For people. On a terminal, the columns that fit."""
    WIDE = "wide"
    """All columns, however wide."""
    JSON = "json"
    """One object, or one per line."""


class Column(NamedTuple):
    """One column of a table. Numbers are aligned `right`; `long` text may take several lines on a terminal."""

    title: str
    right: bool = False
    long: bool = False
    spare: int = 0
    """A narrow terminal has no room for the columns with the highest numbers. Those with 0 are always shown."""
    wide: bool = False
    """Shown with `-o wide` only."""


HISTORY_COLUMNS = (
    "run_id", "job", "agency_id", "state", "attempt", "fence", "worker", "lease_expires_at", "request",
    "requested_by", "replay_of", "dry_run", "topic", "partition", "offset", "queued_at", "started_at", "finished_at",
    "duration_ms", "rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written", "timings",
    "manifest_url", "error_kind", "error_message", "trace_id", "span_id", "config_id", "labels", "bill",
)  # fmt: skip
"""The stable columns of `runs`, in order."""

RUN_COLUMNS: tuple[Column, ...] = (
    Column("RUN ID"),
    Column("AGENCY", right=True, spare=1),
    Column("STATE"),
    Column("ATTEMPT", right=True, spare=7),
    Column("QUEUED (UTC)", spare=3),
    Column("TOOK", right=True, spare=4),
    Column("ROWS READ", right=True, spare=5),
    Column("ROWS WRITTEN", right=True, spare=6),
    Column("BYTES", right=True, spare=8),
    Column("ERROR", spare=2),
    Column("STARTED (UTC)", wide=True),
    Column("FINISHED (UTC)", wide=True),
    Column("REQUESTED BY", wide=True),
    Column("LABELS", wide=True),
    Column("REPLAY OF", wide=True),
    Column("WORKER", wide=True),
)

DATASET_COLUMNS = (
    Column("DATASET"),
    Column("ROWS READ", right=True),
    Column("WRITTEN", right=True),
    Column("FILTERED", right=True),
    Column("REJECTED", right=True),
)

ATTEMPT_COLUMNS = (
    Column("ATTEMPT", right=True),
    Column("OUTCOME"),
    Column("WORKER"),
    Column("STARTED (UTC)"),
    Column("TOOK", right=True),
    Column("ERROR", long=True),
)

DELIVERY_COLUMNS = (
    Column("WEBHOOK"),
    Column("STATE"),
    Column("TRIES", right=True),
    Column("DELIVERED (UTC)"),
    Column("NEXT TRY (UTC)"),
    Column("ERROR", long=True),
)


# -- runs, datasets and attempts -----------------------------------------------------------------


def run_line(run: Run) -> tuple[str, ...]:
    """Return a run's cells, one for each of RUN_COLUMNS."""
    return (
        run.run_id,
        str(run.agency_id),
        run_state(run),
        str(run.attempt),
        moment(run.queued_at),
        duration(run.duration_ms),
        number(run.rows_read),
        number(run.rows_written),
        number(run.bytes_written),
        run.error.kind if run.error else NOTHING,
        moment(run.started_at),
        moment(run.finished_at),
        run.requested_by or NOTHING,
        labels(run) or NOTHING,
        run.replay_of or NOTHING,
        run.worker or NOTHING,
    )


def labels(run: Run) -> str:
    """`order=A 17, team=harbour`."""
    return ", ".join(f"{key}={value}" for key, value in run.labels.items())


def run_state(run: Run) -> str:
    """`succeeded`, `succeeded (dry run)`."""
    note = " (dry run)" if run.dry_run else " (own job config)" if _needs_own_config(run) else ""
    return f"{run.state}{note}"


def dataset_line(counts: DatasetCounts) -> tuple[str, ...]:
    """Return a dataset's cells, one for each of DATASET_COLUMNS."""
    rows = (counts.rows_read, counts.rows_written, counts.rows_filtered, counts.rows_rejected)
    return (counts.name, *map(number, rows))


def attempt_line(attempt: Attempt) -> tuple[str, ...]:
    """Return an attempt's cells, one for each of ATTEMPT_COLUMNS."""
    took = attempt.finished_at - attempt.started_at if attempt.finished_at else None
    error = f"{attempt.error_kind}: {attempt.error_message}" if attempt.error_kind else NOTHING
    return (
        str(attempt.attempt),
        attempt.outcome,
        attempt.worker,
        moment(attempt.started_at),
        duration(None if took is None else round(took.total_seconds() * 1000)),
        error,
    )


def delivery_line(delivery: Delivery) -> tuple[str, ...]:
    """Return a delivery's cells, one for each of DELIVERY_COLUMNS."""
    return (
        delivery.webhook,
        delivery.state,
        str(delivery.tries),
        moment(delivery.delivered_at),
        moment(delivery.next_at),
        delivery.last_error or NOTHING,
    )


def run_details(run: Run, *, agency: str | None = None) -> str:
    """Return everything known about a run, one fact per line; with the name of its agency, if there is one."""
    asked = run.request.model_dump(mode="json", exclude_defaults=True, exclude={"run_id"})
    came_from = f"{run.topic}, partition {run.partition}, offset {run.offset}" if run.topic else None
    facts: dict[str, str | None] = {
        "run id": run.run_id,
        "job": run.job,
        "agency": f"{run.agency_id}{f' ({agency})' if agency else ''}",
        "state": run.state,
        "waits for": "a worker with its own job config, below" if _needs_own_config(run) else None,
        "dry run": "yes" if run.dry_run else None,
        "attempt": str(run.attempt),
        "request": json.dumps(asked, ensure_ascii=False),
        "requested by": run.requested_by,
        "labels": labels(run),
        "replay of": run.replay_of,
        "came from": came_from,
        "queued": _utc(run.queued_at),
        "not before": None if run.state.finished else _utc(run.not_before),
        "started": _utc(run.started_at),
        "finished": _utc(run.finished_at),
        "took": duration(run.duration_ms),
        "rows read": number(run.rows_read),
        "rows written": number(run.rows_written),
        "rows filtered": number(run.rows_filtered),
        "rows rejected": number(run.rows_rejected),
        "bytes written": number(run.bytes_written),
        "time spent": ", ".join(f"{stage} {duration(ms)}" for stage, ms in (run.timings or {}).items()),
        "used": bill(run.bill),
        "manifest": run.manifest_url,
        "error": run.error.kind if run.error else None,
        "message": run.error.message if run.error else None,
        "worker": run.worker,
        "job config": run.config_id,
        "lease ends": _utc(run.lease_expires_at),
        "fence": None if run.fence is None else str(run.fence),
        "trace id": run.trace_id,
    }
    return facts_block({name: value for name, value in facts.items() if value and value != NOTHING})


def _needs_own_config(run: Run) -> bool:
    """Whether only a worker with the run's own job config may continue it."""
    return run.pinned and run.state == "queued"


def run_object(run: Run) -> dict[str, Any]:
    """Return a run as a JSON object with the history's columns."""
    columns = run.model_dump(mode="json")
    error = columns.pop("error") or {}
    columns |= {"error_kind": error.get("kind"), "error_message": error.get("message")}
    return {name: columns[name] for name in HISTORY_COLUMNS}


# -- values --------------------------------------------------------------------------------------


def moment(time: datetime | None) -> str:
    """`2026-01-18 10:00:03`, in UTC."""
    return NOTHING if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def time_text(time: datetime | None) -> str | None:
    """Return a time as objects have it, in UTC: `2026-01-18T10:00:03Z`."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def duration(milliseconds: float | None) -> str:
    """`840 ms`, `1.2 s`, `3 m 4 s`, `2 h 5 m`."""
    if milliseconds is None:
        return NOTHING
    if round(milliseconds) < 1000:
        return f"{round(milliseconds)} ms"
    if round(milliseconds / 1000, 1) < 60:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} m {seconds} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} m"


def bill(used: Bill | None) -> str | None:
    """`1.2 s CPU, 840 ms database, 1,234 bytes read, 4,321 bytes written, 5 S3 requests`."""
    if used is None:
        return None
    return ", ".join(
        (
            f"{duration(used.client_cpu_ms)} CPU",
            f"{duration(used.database_ms)} database",
            f"{number(used.bytes_read)} bytes read",
            f"{number(used.bytes_written)} bytes written",
            counted(used.s3_requests, "S3 request"),
        )
    )


def number(value: int | None) -> str:
    """`1,234,567`."""
    return NOTHING if value is None else f"{value:,}"


def size(count: int | None) -> str:
    """`999 B`, `12.3 kB`, `4.5 MB`, `1,234.5 GB`."""
    if count is None:
        return NOTHING
    value, units = float(count), iter(("B", "kB", "MB"))
    for unit in units:
        if round(value, 1) < 1000:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def counted(count: int, noun: str) -> str:
    """`1 upload`, `1,234 uploads`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Replace control characters, except line ends, with spaces: a terminal would execute them."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def _utc(time: datetime | None) -> str | None:
    return None if time is None else f"{moment(time)} UTC"


# -- output --------------------------------------------------------------------------------------


_MIN_LONG_WIDTH = 30
_GAP = 2
"""Characters: the narrowest column of long text, and the space between two columns of a table."""


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def facts_block(facts: Mapping[str, str]) -> str:
    """Return one fact per line, with the values under each other."""
    width = max(map(len, facts), default=0) + _GAP
    lines = []
    for name, value in facts.items():
        first, *more = printable(value).split("\n")
        lines += [f"{name:<{width}}{first}", *(" " * width + line for line in more)]
    return "\n".join(lines)


def print_items(
    items: Iterable[T],
    *,
    output: Output,
    columns: Sequence[Column],
    line: Callable[[T], Sequence[str]],
    as_object: Callable[[T], dict[str, Any]],
) -> None:
    """Print a table of the items, of which `line` makes the cells, or the object of each on a line of its own."""
    if output is Output.JSON:
        for item in items:
            print_object(as_object(item))
    else:
        print_table(columns, map(line, items), wide=output is Output.WIDE)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool = False) -> None:
    """
    Print rows, each with a cell for each column, under the columns' titles.

    On a terminal, columns that don't fit are left out, unless `wide`. Elsewhere each row is one line, whatever its
    length. Columns that are `wide` only are shown only then.
    """
    kept = [i for i, column in enumerate(columns) if wide or not column.wide]
    columns = [columns[i] for i in kept]
    lines = [one_line_cells([row[i] for i in kept]) for row in rows]
    width = shutil.get_terminal_size().columns if on_terminal() and not wide else None
    if width is not None:
        kept = columns_that_fit(columns, lines, width)
        columns, lines = [columns[i] for i in kept], [[line[i] for i in kept] for line in lines]
    titles, *rest = _table_lines(columns, lines, width)
    typer.secho(titles, bold=on_terminal())
    for line in rest:
        typer.echo(line)


def one_line_cells(cells: Iterable[str]) -> list[str]:
    """Return the cells without line ends, control characters and repeated spaces."""
    return [" ".join(printable(cell).split()) for cell in cells]


def columns_that_fit(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the indexes of the columns that a terminal of this width has room for."""
    widths = _widths(columns, lines)
    least = [min(w, _MIN_LONG_WIDTH) if column.long else w for w, column in zip(widths, columns, strict=True)]
    kept = list(range(len(columns)))
    for index in sorted((i for i in kept if columns[i].spare), key=lambda i: -columns[i].spare):
        if sum(least[i] + _GAP for i in kept) - _GAP <= width:
            break
        kept.remove(index)
    return kept


def drawn_table(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int) -> RichTable:
    """Return a table for a display that is drawn again and again, with the columns that fit."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    kept = columns_that_fit(columns, lines, width)
    for column in (columns[index] for index in kept):
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for line in lines:
        # Text, because rich parses square brackets in a str as markup.
        table.add_row(*(Text(line[index]) for index in kept))
    return table


def _table_lines(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """
    Yield the lines of a table. Only long text is wrapped, to `width` if there is one.

    Even where nothing fits, ids and numbers stay in one piece: the terminal wraps whole lines.
    """
    widths = _widths(columns, lines)
    if width is not None:
        for index in (i for i, column in enumerate(columns) if column.long):
            room = width - sum(w + _GAP for i, w in enumerate(widths) if i != index)
            widths[index] = min(widths[index], max(room, _MIN_LONG_WIDTH))
    for line in ([column.title for column in columns], *lines):
        cells = [
            wrap(cell, w) if column.long and len(cell) > w else [cell]
            for cell, w, column in zip(line, widths, columns, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = zip(parts, widths, columns, strict=True)
            yield (" " * _GAP).join(f"{c:>{w}}" if col.right else f"{c:<{w}}" for c, w, col in aligned).rstrip()


def _widths(columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(column.title), *(len(line[i]) for line in lines)]) for i, column in enumerate(columns)]


def print_object(value: dict[str, Any]) -> None:
    """Print one line of NDJSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
