"""Renders the queue and the workers: why a run waits, in words, and the cells of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline_processing.terminal.render import NOTHING, Column, duration, moment, number

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline_processing.requests.workers import Worker
    from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting

_MAX_LISTED = 3

AGENCY_COLUMNS = (
    Column("AGENCY", right=True),
    Column("DUE", right=True),
    Column("LATER", right=True),
    Column("RUNNING", right=True),
    Column("PREPARED", right=True),
    Column("WAITS", right=True, spare=1),
)
WAITING_COLUMNS = (
    Column("PLACE", right=True),
    Column("RUN ID"),
    Column("AGENCY", right=True),
    Column("WAITS", right=True, spare=1),
    Column("WHY", long=True),
    Column("PRIORITY", right=True, wide=True),
    Column("ATTEMPT", right=True, wide=True),
    Column("QUEUED (UTC)", wide=True),
    Column("REQUESTED BY", wide=True),
)

WORKER_COLUMNS = (
    Column("WORKER"),
    Column("STATE"),
    Column("PARTITIONS", spare=2),
    Column("LAG", right=True, spare=1),
    Column("RUNS", long=True),
    Column("ADDRESS", wide=True),
)


def why(waiting: Waiting, *, places: int) -> str:
    """Return why a run waits, in words that go on from `waits`."""
    from pipeline_processing.runs.queue_reads import Reason

    run = waiting.run
    match waiting.reason(places=places):
        case Reason.LATER:
            return f"until {moment(run.not_before)} UTC, as requested"
        case Reason.RETRY:
            return f"until {moment(run.not_before)} UTC, for attempt {run.attempt + 1} after {waiting.last_error}"
        case Reason.OWN_CONFIG:
            return "for a worker with its own job config"
        case Reason.AGENCY:
            return f"for its agency's turn: {_listed(waiting.held)} at work"
        case Reason.BEHIND:
            return f"behind {waiting.behind} of its agency"
        case Reason.WORKER:
            return "for a free worker"


def waiting_line(waiting: Waiting, *, places: int) -> tuple[str, ...]:
    """Return a waiting run's cells, one for each of WAITING_COLUMNS."""
    run = waiting.run
    return (
        number(waiting.place),
        run.run_id,
        str(run.agency_id),
        waited(run.queued_at, waiting.now),
        why(waiting, places=places),
        str(run.request.priority),
        str(run.attempt),
        moment(run.queued_at),
        run.requested_by or NOTHING,
    )


def waiting_object(waiting: Waiting, *, places: int) -> dict[str, Any]:
    """Return a waiting run as a JSON object."""
    run = waiting.run.model_dump(mode="json")
    columns = ("run_id", "agency_id", "attempt", "queued_at", "not_before", "requested_by", "labels")
    return {name: run[name] for name in columns} | {
        "priority": waiting.run.request.priority,
        "place": waiting.place,
        "reason": waiting.reason(places=places).value,
        "why": why(waiting, places=places),
        "behind": waiting.behind,
        "held": list(waiting.held),
        "last_error": waiting.last_error,
    }


def agency_line(agency: AgencyQueue, now: datetime) -> tuple[str, ...]:
    """Return an agency's cells, one for each of AGENCY_COLUMNS."""
    counts = (agency.due, agency.later, agency.running, agency.prepared)
    return (str(agency.agency_id), *map(number, counts), waited(agency.waiting_since, now))


def worker_line(worker: Worker, now: datetime, *, all_runs: bool = False) -> tuple[str, ...]:
    """Return a worker's cells, one for each of WORKER_COLUMNS."""
    shown = worker.runs if all_runs else worker.runs[:_MAX_LISTED]
    runs = [f"{run.run_id} (agency {run.agency_id}, {waited(run.started_at, now)})" for run in shown]
    runs += [f"and {len(worker.runs) - len(shown):,} more"] if len(worker.runs) > len(shown) else []
    return (
        worker.name or "(unnamed)",
        str(worker.state),
        _ranges(worker.partitions) if worker.listens else "doesn't listen",
        number(worker.lag) if worker.listens else NOTHING,
        ", ".join(runs) or NOTHING,
        worker.host,
    )


def worker_object(worker: Worker) -> dict[str, Any]:
    """Return a worker as a JSON object."""
    columns = ("run_id", "agency_id", "state", "attempt", "started_at", "lease_expires_at")
    runs = [run.model_dump(mode="json") for run in worker.runs]
    return {
        "worker": worker.name,
        "state": worker.state.value,
        "listens": worker.listens,
        "host": worker.host,
        "partitions": list(worker.partitions),
        "lag": worker.lag if worker.listens else None,
        "runs": [{name: run[name] for name in columns} for run in runs],
    }


def _ranges(numbers: Sequence[int]) -> str:
    """`0-2, 5`."""
    ranges: list[list[int]] = []
    for each in numbers:
        if ranges and each == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], each]
        else:
            ranges.append([each])
    return ", ".join("-".join(map(str, part)) for part in ranges) or NOTHING


def waited(since: datetime | None, now: datetime) -> str:
    """`5 s`, `3 m 4 s`."""
    return NOTHING if since is None else duration(max(0.0, (now - since).total_seconds() * 1000))


def _listed(run_ids: Sequence[str]) -> str:
    more = f" and {len(run_ids) - _MAX_LISTED} more" if len(run_ids) > _MAX_LISTED else ""
    return f"{', '.join(run_ids[:_MAX_LISTED])}{more} {'is' if len(run_ids) == 1 else 'are'}"
