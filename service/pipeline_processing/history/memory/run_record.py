"""One run of the in-memory run table, and all that belongs to it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline_processing.model import Attempt, DatasetCounts, Plan, Run, RunFailure, RunState, UploadRef
from pipeline_processing.ports import Incoming, Outcome
from pipeline_processing.runs.stored_text import storable_tracestate

HELD = (RunState.RUNNING, RunState.PREPARED)
"""States in which a run may have a lease."""


@dataclass(slots=True)
class StartedUpload:
    """An upload, where it is, the fence that started it, and whether the run's plan names it."""

    destination: str
    fence: int
    planned: bool = False


@dataclass(slots=True)
class RunRecord:
    """A run. `number` counts the runs as they were accepted; uploads are found by key and handle."""

    run: Run
    request_hash: str
    number: int
    handed_back: int = 0
    """Attempts that count as no try."""
    suspect: bool = False
    plan: Plan | None = None
    datasets: tuple[DatasetCounts, ...] = ()
    covered_until: datetime | None = None
    attempts: list[Attempt] = field(default_factory=list)
    uploads: dict[tuple[str, str], StartedUpload] = field(default_factory=dict)

    def change(self, **values: Any) -> Run:
        self.run = self.run.model_copy(update=values)
        return self.run

    def measure(self, outcome: Outcome) -> None:
        """Note what an attempt measured; of each dataset only where the run is no dry run."""
        self.change(**measured(outcome))
        if not self.run.dry_run and outcome.datasets:
            self.datasets, self.covered_until = outcome.datasets, outcome.covered_until

    def change_attempt(self, **values: Any) -> None:
        """The newest attempt."""
        self.attempts[-1] = self.attempts[-1].model_copy(update=values)

    def end_attempt(self, outcome: str, at: datetime, failure: RunFailure | None = None) -> None:
        """Note how the newest attempt ended, unless that is known already."""
        if self.attempts and self.attempts[-1].outcome in ("running", "prepared"):
            self.change_attempt(
                outcome=outcome,
                finished_at=at,
                error_kind=failure and failure.kind,
                error_message=failure and failure.message,
            )

    def lost_uploads(self) -> list[UploadRef]:
        """Those that nobody will complete."""
        return [
            UploadRef(key=key, upload_id=upload_id, destination=upload.destination)
            for (key, upload_id), upload in self.uploads.items()
            if self._is_lost(upload)
        ]

    def has_lost(self, listed: UploadRef) -> bool:
        """The same of one that was found at its destination."""
        upload = self.uploads.get((listed.key, listed.upload_id))
        # One that isn't recorded may be a running attempt's that is about to record it.
        return self.run.state is not RunState.RUNNING if upload is None else self._is_lost(upload)

    def _is_lost(self, upload: StartedUpload) -> bool:
        return self.run.state not in HELD or (
            upload.fence != self.run.fence and not (upload.planned and self.run.state is RunState.PREPARED)
        )

    @property
    def failed_plan(self) -> Plan | None:
        """A plan that can't be completed any more."""
        return self.plan if self.run.state is RunState.FAILED else None


def queued_run(incoming: Incoming, *, at: datetime) -> Run:
    """A new run."""
    request, origin = incoming.request, incoming.origin
    return Run(
        run_id=incoming.run_id,
        job=request.job,
        agency_id=request.agency_id,
        state=RunState.QUEUED,
        attempt=0,
        request=request,
        requested_by=request.requested_by,
        replay_of=request.replay_of,
        dry_run=request.dry_run,
        config_id=incoming.config_id,
        pinned=incoming.pinned,
        topic=origin and origin.topic,
        partition=origin and origin.partition,
        offset=origin and origin.offset,
        not_before=request.not_before,
        queued_at=at,
        trace_id=incoming.trace_id,
        span_id=incoming.span_id,
        tracestate=storable_tracestate(incoming.tracestate),
    )


def measured(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the run's own fields."""
    return {
        **outcome.counts.model_dump(),
        "bytes_written": outcome.bytes_written,
        "timings": dict(outcome.timings),
        "manifest_url": outcome.manifest_url,
    }
