"""The run table in memory, shared by the ports of `store.py`. No method awaits, so each is a transaction."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import Superseded
from pipeline_processing.model import Attempt, Bill, DatasetCounts, DatasetSchema, Run, RunFailure, RunState
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.runs.completions import OutboxEvent, completion_event
from pipeline_processing.runs.deliveries import Delivery, DeliveryState
from pipeline_processing.runs.store import Claim, Outcome

HELD = (RunState.RUNNING, RunState.PREPARED)
"""The states in which a run may have a lease."""


@dataclass(slots=True)
class StartedUpload:
    """An upload: its destination, the fence under which it started, and whether the run's plan names it."""

    destination: str
    fence: int
    planned: bool = False


@dataclass(slots=True)
class RunRecord:
    """A run and everything that belongs to it. `number` counts runs in the order of acceptance."""

    run: Run
    request_hash: str
    number: int
    handed_back: int = 0
    """Attempts that don't count as tries."""
    suspect: bool = False
    plan: Plan | None = None
    datasets: tuple[DatasetCounts, ...] = ()
    schemas: Mapping[str, DatasetSchema] = field(default_factory=dict)
    covered_until: datetime | None = None
    attempts: list[Attempt] = field(default_factory=list)
    uploads: dict[tuple[str, str], StartedUpload] = field(default_factory=dict)
    """By key and handle."""

    def change(self, **values: Any) -> Run:
        """Set fields of the run."""
        self.run = self.run.model_copy(update=values)
        return self.run

    def measure(self, outcome: Outcome) -> None:
        """Store an attempt's counts and timings. Counts by dataset are stored unless it is a dry run."""
        self.change(**measured(outcome))
        self.add_bill(outcome.bill)
        if not self.run.dry_run and outcome.datasets:
            self.datasets, self.covered_until = outcome.datasets, outcome.covered_until
            self.schemas = outcome.schemas

    def add_bill(self, bill: Bill | None) -> None:
        """Store what the run has used, if that is known."""
        if bill is not None:
            self.change(bill=bill)

    def change_attempt(self, **values: Any) -> None:
        """Set fields of the newest attempt."""
        self.attempts[-1] = self.attempts[-1].model_copy(update=values)

    def end_attempt(self, outcome: str, at: datetime, failure: RunFailure | None = None) -> None:
        """Store how the newest attempt ended, unless it is stored already."""
        if self.attempts and self.attempts[-1].outcome in ("running", "prepared"):
            self.change_attempt(
                outcome=outcome,
                finished_at=at,
                error_kind=failure and failure.kind,
                error_message=failure and failure.message,
            )

    def lost_uploads(self) -> list[UploadRef]:
        """Return the uploads that will never be completed."""
        return [
            UploadRef(key=key, upload_id=upload_id, destination=upload.destination)
            for (key, upload_id), upload in self.uploads.items()
            if self._is_lost(upload)
        ]

    def has_lost(self, listed: UploadRef) -> bool:
        """Whether an upload that a destination listed is lost."""
        upload = self.uploads.get((listed.key, listed.upload_id))
        # An unrecorded upload may belong to a running attempt that is about to record it.
        return self.run.state is not RunState.RUNNING if upload is None else self._is_lost(upload)

    def _is_lost(self, upload: StartedUpload) -> bool:
        return self.run.state not in HELD or (
            upload.fence != self.run.fence and not (upload.planned and self.run.state is RunState.PREPARED)
        )

    @property
    def failed_plan(self) -> Plan | None:
        """Return the plan of a failed run, which can no longer be completed."""
        return self.plan if self.run.state is RunState.FAILED else None


@dataclass(slots=True)
class ConfiguredWebhook:
    """A webhook that is to get events."""

    states: frozenset[str]
    configured_at: datetime


@dataclass(slots=True)
class DeliveryRecord:
    """A delivery, its event, and the time of its first try."""

    delivery: Delivery
    event: OutboxEvent
    first_tried_at: datetime | None = None

    def change(self, **values: Any) -> None:
        """Set fields of the delivery."""
        self.delivery = self.delivery.model_copy(update=values)


class RunTable:
    """Runs and events. Only tests access it directly; everything else uses the ports."""

    def __init__(self, *, clock: Clock, installation_id: UUID | None = None) -> None:
        self.clock = clock
        self.installation_id = installation_id or uuid4()
        self.fences = count(1)
        self.records: dict[str, RunRecord] = {}
        """By run id, in the order of acceptance."""
        self.tombstones: dict[str, RunRecord] = {}
        """Pruned runs."""
        self.events: list[OutboxEvent] = []
        """Oldest first, sent or not."""
        self.sent: set[str] = set()
        """Ids of events."""
        self.asked_again: Counter[str] = Counter()
        """How many messages requested a finished run again, by run id."""
        self.webhooks: dict[str, ConfiguredWebhook] = {}
        """By name."""
        self.deliveries: dict[tuple[str, str], DeliveryRecord] = {}
        """By event and webhook, oldest first."""

    def known(self, run_id: str) -> RunRecord | None:
        """Return a run, even if it was pruned."""
        return self.records.get(run_id) or self.tombstones.get(run_id)

    def ask_again(self, run_id: str) -> None:
        """Have a run's event sent once more, even if it is being sent right now."""
        self.asked_again[run_id] += 1
        self.sent -= {event.event_id for event in self.events if event.run_id == run_id}

    def found(self, claim: Claim) -> RunRecord:
        """Return the claim's run, regardless of who holds it now. Raises Superseded if it is unknown."""
        if (record := self.records.get(claim.run.run_id)) is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return record

    def held(self, claim: Claim, *states: RunState) -> RunRecord:
        """Return the claim's run. Raises Superseded unless the fence is the claim's and the state one of these."""
        record = self.found(claim)
        if record.run.fence != claim.fence or record.run.state not in states:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return record

    def finish(
        self,
        record: RunRecord,
        state: RunState,
        *,
        outcome: Outcome | None = None,
        failure: RunFailure | None = None,
    ) -> Run:
        """Move a run to a final state, and add its event to the outbox."""
        now = self.clock.now()
        took = now - (record.run.started_at or record.run.queued_at)
        if outcome is not None:
            record.measure(outcome)
        run = record.change(
            state=state,
            finished_at=now,
            duration_ms=max(0, took // timedelta(milliseconds=1)),
            lease_expires_at=None,
            manifest_url=record.run.manifest_url if state is RunState.SUCCEEDED else None,
            error=failure,
        )
        record.end_attempt(state.value, now, failure)
        self._add_event(completion_event(run), state, now)
        return run

    def _add_event(self, event: OutboxEvent, state: RunState, now: datetime) -> None:
        self.events.append(event)
        for name, webhook in self.webhooks.items():
            if state.value in webhook.states:
                delivery = Delivery(
                    event_id=event.event_id,
                    run_id=event.run_id,
                    webhook=name,
                    state=DeliveryState.PENDING,
                    tries=0,
                    next_at=now,
                    last_status=None,
                    last_error=None,
                    delivered_at=None,
                )
                self.deliveries[event.event_id, name] = DeliveryRecord(delivery, event)


class MemoryPort:
    """Base of the ports of a run table in memory."""

    def __init__(self, table: RunTable) -> None:
        self._table = table


def measured(outcome: Outcome) -> dict[str, Any]:
    """Return an attempt's counts and timings as fields of the run."""
    return {
        **outcome.counts.model_dump(),
        "bytes_written": outcome.bytes_written,
        "timings": dict(outcome.timings),
        "manifest_url": outcome.manifest_url,
    }
