"""
The ports of the run table, which holds the queue, the history and the outbox of all runs.

The run table is the source of truth about every run. Each write names the expected fence and state, and raises
Superseded if either has changed. Writes are idempotent: if a reply was lost, repeat the call to get the same result.
All times are the database's. Any method may raise HistoryUnavailable.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.errors import RequestError
from pipeline_processing.model import (
    Attempt,
    Bill,
    Counts,
    DatasetCounts,
    DatasetSchema,
    JobRequest,
    Run,
    RunFailure,
    RunState,
)
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.deliveries import RunDeliveries
from pipeline_processing.runs.pruning import RunPruning
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter

# -- what goes in and comes out ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The position of a request in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid request, with its run id and the trace that it continues."""

    request: JobRequest
    run_id: str
    trace_id: str
    span_id: str
    tracestate: str | None = None
    """W3C `tracestate`, carried through to the completion event."""
    origin: Origin | None = None
    """None for a request from the command line."""
    config_id: str | None = None
    """Identity of the job config in use when the request is accepted."""

    @property
    def pinned(self) -> bool:
        """
        Whether only a worker with this job config may export the run. Requests from Kafka aren't pinned: the service
        exports them with its current job config.
        """
        return self.origin is None and self.config_id is not None


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The exclusive right to work on a run, until the lease ends or another claim raises the fence.

    `run` is the run at the time of the claim: `running`, or `prepared` if a stored plan is to be rolled forward.
    A `suspect` run was lost with its worker before and may have crashed it: run nothing else in the same process.
    """

    run: Run
    fence: int
    worker: str
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt measured, over all its datasets."""

    counts: Counts = field(default_factory=Counts)
    datasets: tuple[DatasetCounts, ...] = ()
    schemas: Mapping[str, DatasetSchema] = field(default_factory=dict)
    """The columns of each dataset for which they are known."""
    covered_until: datetime | None = None
    """Time up to which the datasets are exported: the snapshot's time, or the request's `until` if earlier."""
    bytes_written: int = 0
    timings: Mapping[str, Any] = field(default_factory=dict)
    """Busy milliseconds by stage."""
    manifest_url: str | None = None
    bill: Bill | None = None
    """What the run has used; None leaves what is stored."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """
    Unfinished runs by state, and unsent events. Ages are None where there is nothing.

    The age of a queued run is the time since it became due, that of any other run the time since it started.
    """

    runs: Mapping[RunState, int]
    oldest: Mapping[RunState, timedelta | None]
    unsent: int
    oldest_unsent: timedelta | None


Announce = Callable[[Sequence[OutboxEvent]], Awaitable[None]]
"""Send events. Return once the broker has stored all of them."""


# -- the ports -----------------------------------------------------------------------------------


class RunIntake(Protocol):
    """Turns requests into queued runs."""

    async def accept(self, incoming: Incoming) -> Run:
        """
        Queue a run for the request unless the run id exists. Return the run in its current state.

        Raises ConflictingRequest if the id belongs to another request, and InvalidRequest if the request contains text
        that can't be stored.
        """

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        """
        Accept requests in order. Return for each the run, or the error that `accept` would raise.

        Of several requests with one run id, the first counts. If this raises, some may be queued; repeating the call
        is harmless. A message (a request with an `origin`) for a finished run sends the run's event again.
        """


class RunQueue(Protocol):
    """Decides which run is next, and which worker holds it."""

    async def claim(
        self,
        *,
        worker: str,
        lease: timedelta,
        max_runs_per_agency: int,
        config_id: str | None = None,
        run_id: str | None = None,
    ) -> Claim | None:
        """
        Claim one run. Return None if there is none to claim.

        Unclaimed `prepared` runs come first, then due runs (queued, or running with an expired lease) by priority,
        round robin over agencies, and age. With `run_id`, only that run can be claimed.

        `config_id` is the worker's job config; runs pinned to another one are skipped unless they are prepared. The
        attempt number rises by one, except for a prepared run. A run that is lost for the first time, together with
        others, becomes a suspect, but the lost attempt doesn't count as a try.
        """

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        """Extend the lease to `lease` from now. Raises Superseded if the claim is lost or the lease has ended."""

    async def check(self, claim: Claim) -> None:
        """Raise Superseded if the run was taken over, given up or cancelled. Changes nothing."""

    async def cancel(self, run_id: str) -> Run:
        """
        Cancel a `queued` or `running` run, and store its event. Return a run in any other state unchanged.

        Raises RunUnknown if there is no such run.
        """

    async def idle(self, *, config_id: str | None = None) -> bool:
        """
        Return whether a worker with this job config has nothing left to do.

        That is: no run is due, running, prepared or waiting for a retry, and every event is sent. Runs before their
        `not_before` and runs pinned to another job config don't count.
        """

    async def waiting_for_another_config(self, config_id: str) -> int:
        """Return the number of due runs pinned to another job config."""

    async def backlog(self) -> Backlog:
        """Return what is yet to be done, by any worker."""

    async def now(self) -> datetime:
        """Return the database's time, which decides leases, `not_before` and deadlines."""


class RunAttempts(Protocol):
    """The writes of an attempt, by the holder of the claim."""

    async def start(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        """Record the attempt's trace. An attempt that only rolls a plan forward keeps the trace of the export."""

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        """Record an upload. Call it before the first byte is sent, so that a clean-up can find the upload."""

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        """`running → prepared`. Store the plan and the outcome, which decides the run."""

    async def plan(self, claim: Claim) -> Plan:
        """Return the stored plan of a prepared run."""

    async def succeed(self, claim: Claim, outcome: Outcome | None = None) -> Run:
        """
        `prepared → succeeded`, with the completion event, in one transaction.

        A dry run has no plan: pass its `outcome`, and it goes from `running` to `succeeded`. Raises ValueError if
        `outcome` is given for any other run.
        """

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        """`running → failed`, with the completion event. `state` is PREPARED if the plan can't be published."""

    async def retry(
        self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True, bill: Bill | None = None
    ) -> Run:
        """
        `running → queued`, due after `delay`. If `counts` is False, the attempt doesn't count as a try.

        `bill` is what the run has used so far; None leaves what is stored.
        """

    async def hand_back(self, claim: Claim, *, bill: Bill | None = None) -> Run:
        """
        `running → queued`, due at once; the attempt isn't a try. For a prepared run, only end the lease.

        `bill` as in `retry`; a prepared run has its bill.
        """

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        """End the lease of a `prepared` run. It can be claimed again after `delay`."""

    async def void_plan(self, claim: Claim) -> Run:
        """`prepared → queued`, if the plan's first upload was lost before anything was completed."""


class RunHistory(Protocol):
    """Read-only queries."""

    async def installation_id(self) -> UUID:
        """Return this history's identity. Raises DatabaseMisconfigured if the database can't store all of Unicode."""

    async def get(self, run_id: str) -> Run | None:
        """Return a run in its current state, or None if it is unknown."""

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Return the known runs among these, by id."""

    async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
        """Return the runs that match, newest first."""

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Return the number of replays of each of these runs, pruned ones included; nothing for runs that have none."""

    async def last_success(self, agency_id: AgencyId, dataset: str) -> LastSuccess | None:
        """
        Return the successful export of an agency's dataset with the latest `covered_until`.

        If several match, return the one that finished last. Dry runs don't count.
        """

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        """
        Return the counts of a run's datasets, in order.

        Empty before the run is decided, for a dry run, and for a failed attempt that measured nothing.
        """

    async def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts of a run, oldest first."""

    async def tries(self, run_id: str) -> int:
        """Return how many attempts count towards the maximum. Raises RunUnknown if there is no such run."""


class RunLeftovers(Protocol):
    """
    The leftovers of lost attempts and failed plans at destinations.

    An upload is lost if it will never be completed: the run is neither `running` nor `prepared`, or the upload's fence
    is superseded and no plan that can still be completed names it. A lost upload stays lost.
    """

    async def runs_to_clean_up(self) -> list[str]:
        """Return the ids of runs with lost uploads or a failed plan, oldest first."""

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        """Return the lost uploads among those recorded for a run."""

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        """
        Return the lost uploads among `listed`, which a destination must have listed *before* this call.

        An upload without a record is lost unless the run is `running` or unknown.
        """

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        """Delete the records of uploads that are gone."""

    async def failed_plan(self, run_id: str) -> Plan | None:
        """Return the plan of a run that failed after it was decided, or None once the plan is forgotten."""

    async def forget_failed_plan(self, run_id: str) -> None:
        """Delete a failed plan whose objects are gone."""


class RunOutbox(Protocol):
    """Unsent completion events."""

    async def announce(self, send: Announce, *, limit: int) -> int:
        """
        Pass up to `limit` unsent events, oldest first, to `send`, and mark them sent. Return their number.

        Concurrent calls get different events. If `send` raises, its events stay unsent.
        """


@dataclass(frozen=True, slots=True)
class RunStore:
    """All ports of one run table. Pass each component only the ports it needs."""

    intake: RunIntake
    queue: RunQueue
    attempts: RunAttempts
    history: RunHistory
    leftovers: RunLeftovers
    outbox: RunOutbox
    pruning: RunPruning
    deliveries: RunDeliveries
