"""Renders the queue and the workers: why a run waits, in words, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline_processing.terminal.render import moment, number, time_between
from pipeline_processing.terminal.tables import NOTHING, Column, Table

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline_processing.requests.workers import Worker
    from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting

_MAX_LISTED = 3


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


def waiting_table(*, places: int) -> Table[Waiting]:
    return {
        Column("PLACE", right=True): lambda waiting: number(waiting.place),
        Column("RUN ID"): lambda waiting: waiting.run.run_id,
        Column("AGENCY", right=True): lambda waiting: str(waiting.run.agency_id),
        Column("WAITS", right=True, spare=1): lambda waiting: time_between(waiting.run.queued_at, waiting.now),
        Column("WHY", long=True): lambda waiting: why(waiting, places=places),
        Column("PRIORITY", right=True, wide=True): lambda waiting: str(waiting.run.request.priority),
        Column("ATTEMPT", right=True, wide=True): lambda waiting: str(waiting.run.attempt),
        Column("QUEUED (UTC)", wide=True): lambda waiting: moment(waiting.run.queued_at),
        Column("REQUESTED BY", wide=True): lambda waiting: waiting.run.requested_by or NOTHING,
    }


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


def agency_table(now: datetime) -> Table[AgencyQueue]:
    return {
        Column("AGENCY", right=True): lambda agency: str(agency.agency_id),
        Column("DUE", right=True): lambda agency: number(agency.due),
        Column("LATER", right=True): lambda agency: number(agency.later),
        Column("RUNNING", right=True): lambda agency: number(agency.running),
        Column("PREPARED", right=True): lambda agency: number(agency.prepared),
        Column("WAITS", right=True, spare=1): lambda agency: time_between(agency.waiting_since, now),
    }


def worker_table(now: datetime, *, all_runs: bool = False) -> Table[Worker]:
    def runs(worker: Worker) -> str:
        shown = worker.runs if all_runs else worker.runs[:_MAX_LISTED]
        told = [f"{run.run_id} (agency {run.agency_id}, {time_between(run.started_at, now)})" for run in shown]
        told += [f"and {len(worker.runs) - len(shown):,} more"] if len(worker.runs) > len(shown) else []
        return ", ".join(told) or NOTHING

    return {
        Column("WORKER"): lambda worker: worker.name or "(unnamed)",
        Column("STATE"): lambda worker: str(worker.state),
        Column("PARTITIONS", spare=2): lambda worker: (
            _ranges(worker.partitions) if worker.listens else "doesn't listen"
        ),
        Column("LAG", right=True, spare=1): lambda worker: number(worker.lag if worker.listens else None),
        Column("RUNS", long=True): runs,
        Column("ADDRESS", wide=True): lambda worker: worker.host,
    }


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


def _listed(run_ids: Sequence[str]) -> str:
    more = f" and {len(run_ids) - _MAX_LISTED} more" if len(run_ids) > _MAX_LISTED else ""
    return f"{', '.join(run_ids[:_MAX_LISTED])}{more} {'is' if len(run_ids) == 1 else 'are'}"
