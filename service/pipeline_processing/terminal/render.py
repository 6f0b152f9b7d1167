"""
Renders runs for people and programs: lines, key-value blocks, tables, and JSON objects with the history's columns.

Control characters in messages and errors are replaced, because a terminal would execute them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from pipeline_processing.model import Attempt, Bill, DatasetCounts, Run
    from pipeline_processing.runs.deliveries import Delivery

NOTHING = "-"
"""Shown for a missing value, so that every line has the same number of columns."""


class Column(NamedTuple):
    """One column of a table. Numbers are aligned `right`; `long` text may take several lines on a terminal."""

    title: str
    right: bool = False
    long: bool = False


HISTORY_COLUMNS = (
    "run_id", "job", "agency_id", "state", "attempt", "fence", "worker", "lease_expires_at", "request",
    "requested_by", "replay_of", "dry_run", "topic", "partition", "offset", "queued_at", "started_at", "finished_at",
    "duration_ms", "rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written", "timings",
    "manifest_url", "error_kind", "error_message", "trace_id", "span_id", "config_id", "labels", "bill",
)  # fmt: skip
"""The stable columns of `runs`, in order."""

RUN_COLUMNS = (
    Column("RUN ID"),
    Column("AGENCY", right=True),
    Column("STATE"),
    Column("ATTEMPT", right=True),
    Column("QUEUED (UTC)"),
    Column("TOOK", right=True),
    Column("ROWS READ", right=True),
    Column("ROWS WRITTEN", right=True),
    Column("BYTES", right=True),
    Column("ERROR"),
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
    )


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


def run_details(run: Run) -> str:
    """Return everything known about a run, one fact per line."""
    asked = run.request.model_dump(mode="json", exclude_defaults=True, exclude={"run_id"})
    came_from = f"{run.topic}, partition {run.partition}, offset {run.offset}" if run.topic else None
    facts: dict[str, str | None] = {
        "run id": run.run_id,
        "job": run.job,
        "agency": str(run.agency_id),
        "state": run.state,
        "waits for": "a worker with its own job config, below" if _needs_own_config(run) else None,
        "dry run": "yes" if run.dry_run else None,
        "attempt": str(run.attempt),
        "request": json.dumps(asked, ensure_ascii=False),
        "requested by": run.requested_by,
        "labels": ", ".join(f"{key}={value}" for key, value in run.labels.items()),
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
    known = {name: value for name, value in facts.items() if value and value != NOTHING}
    width = max(map(len, known)) + 2
    lines = []
    for name, value in known.items():
        first, *more = printable(value).split("\n")
        lines += [f"{name:<{width}}{first}", *(" " * width + line for line in more)]
    return "\n".join(lines)


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
_COLUMN_GAP = 3
"""Characters: the narrowest column of long text, and the space between two columns of a table."""


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, elsewhere one line per row, in aligned columns."""
    lines = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    table = [[column.title for column in columns], *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    if on_terminal():
        _print_rich_table(columns, widths, lines)
        return
    for line in table:
        cells = zip(line, widths, columns, strict=True)
        typer.echo("  ".join(f"{c:>{w}}" if col.right else f"{c:<{w}}" for c, w, col in cells).rstrip())


def _print_rich_table(columns: Sequence[Column], widths: Sequence[int], lines: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    needed = 0
    for column, width in zip(columns, widths, strict=True):
        least = min(width, _MIN_LONG_WIDTH) if column.long else width
        needed += least + _COLUMN_GAP
        table.add_column(column.title, justify="right" if column.right else "left", min_width=least, overflow="fold")
    for line in lines:
        # Text, because rich parses square brackets in a str as markup.
        table.add_row(*(Text(cell) for cell in line))
    console = Console(file=sys.stdout)
    # In a narrow window the terminal wraps whole lines, which keeps ids and numbers in one piece.
    console.print(table, width=max(console.width, needed), crop=False, soft_wrap=False)


def print_object(value: dict[str, Any]) -> None:
    """Print one line of NDJSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
