"""Renders runs for people and programs: values, cells of tables, and JSON objects with the history's columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline_processing.terminal.tables import NOTHING, Column, Table, facts_block

if TYPE_CHECKING:
    from pipeline_processing.model import Attempt, Bill, DatasetCounts, Run
    from pipeline_processing.runs.deliveries import Delivery

HISTORY_COLUMNS = (
    "run_id", "job", "agency_id", "state", "attempt", "fence", "worker", "lease_expires_at", "request",
    "requested_by", "replay_of", "dry_run", "topic", "partition", "offset", "queued_at", "started_at", "finished_at",
    "duration_ms", "rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written", "timings",
    "manifest_url", "error_kind", "error_message", "trace_id", "span_id", "config_id", "labels", "bill",
)  # fmt: skip
"""The stable columns of `runs`, in order."""

RUN_TABLE: Table[Run] = {
    Column("RUN ID"): lambda run: run.run_id,
    Column("AGENCY", right=True, spare=1): lambda run: str(run.agency_id),
    Column("STATE"): lambda run: run_state(run),
    Column("ATTEMPT", right=True, spare=7): lambda run: str(run.attempt),
    Column("QUEUED (UTC)", spare=3): lambda run: moment(run.queued_at),
    Column("TOOK", right=True, spare=4): lambda run: duration(run.duration_ms),
    Column("ROWS READ", right=True, spare=5): lambda run: number(run.rows_read),
    Column("ROWS WRITTEN", right=True, spare=6): lambda run: number(run.rows_written),
    Column("BYTES", right=True, spare=8): lambda run: number(run.bytes_written),
    Column("ERROR", spare=2): lambda run: run.error.kind if run.error else NOTHING,
    Column("STARTED (UTC)", wide=True): lambda run: moment(run.started_at),
    Column("FINISHED (UTC)", wide=True): lambda run: moment(run.finished_at),
    Column("REQUESTED BY", wide=True): lambda run: run.requested_by or NOTHING,
    Column("LABELS", wide=True): lambda run: labels(run) or NOTHING,
    Column("REPLAY OF", wide=True): lambda run: run.replay_of or NOTHING,
    Column("WORKER", wide=True): lambda run: run.worker or NOTHING,
}

DATASET_TABLE: Table[DatasetCounts] = {
    Column("DATASET"): lambda counts: counts.name,
    Column("ROWS READ", right=True): lambda counts: number(counts.rows_read),
    Column("WRITTEN", right=True): lambda counts: number(counts.rows_written),
    Column("FILTERED", right=True): lambda counts: number(counts.rows_filtered),
    Column("REJECTED", right=True): lambda counts: number(counts.rows_rejected),
}

ATTEMPT_TABLE: Table[Attempt] = {
    Column("ATTEMPT", right=True): lambda attempt: str(attempt.attempt),
    Column("OUTCOME"): lambda attempt: attempt.outcome,
    Column("WORKER"): lambda attempt: attempt.worker,
    Column("STARTED (UTC)"): lambda attempt: moment(attempt.started_at),
    Column("TOOK", right=True): lambda attempt: time_between(attempt.started_at, attempt.finished_at),
    Column("ERROR", long=True): lambda attempt: (
        f"{attempt.error_kind}: {attempt.error_message}" if attempt.error_kind else NOTHING
    ),
}

DELIVERY_TABLE: Table[Delivery] = {
    Column("WEBHOOK"): lambda delivery: delivery.webhook,
    Column("STATE"): lambda delivery: delivery.state,
    Column("TRIES", right=True): lambda delivery: str(delivery.tries),
    Column("DELIVERED (UTC)"): lambda delivery: moment(delivery.delivered_at),
    Column("NEXT TRY (UTC)"): lambda delivery: moment(delivery.next_at),
    Column("ERROR", long=True): lambda delivery: delivery.last_error or NOTHING,
}


# -- runs ----------------------------------------------------------------------------------------


def labels(run: Run) -> str:
    """`order=A 17, team=harbour`."""
    return ", ".join(f"{key}={value}" for key, value in run.labels.items())


def run_state(run: Run) -> str:
    """`succeeded`, `succeeded (dry run)`."""
    note = " (dry run)" if run.dry_run else " (own job config)" if _needs_own_config(run) else ""
    return f"{run.state}{note}"


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


def time_between(since: datetime | None, until: datetime | None) -> str:
    """Return how long it is from one time to another, as `duration` writes it."""
    if since is None or until is None:
        return NOTHING
    return duration(max(0.0, (until - since).total_seconds() * 1000))


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


def _utc(time: datetime | None) -> str | None:
    return None if time is None else f"{moment(time)} UTC"
