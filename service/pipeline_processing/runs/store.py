"""
The run table: the queue, the history and the outbox of all runs, as one small port per use.

It holds the truth about every run. Each write names the fence and the state that it starts from, and raises Superseded
when either has changed. A write whose reply was lost may be repeated: it returns the run as the first try left it. All
times are the database's. Any method may raise HistoryUnavailable.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from pipeline_processing.errors import RequestError
from pipeline_processing.model import Attempt, Counts, DatasetCounts, JobRequest, Run, RunFailure, RunState
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.completions import OutboxEvent

# -- what goes in and comes out ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a request in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid request, with the id of its run and the trace that it continues."""

    request: JobRequest
    run_id: str
    trace_id: str
    span_id: str
    tracestate: str | None = None
    """W3C `tracestate`, carried through to the completion event."""
    origin: Origin | None = None
    """None for a request from the command line."""
    config_id: str | None = None
    """Identity of the job config that the request is accepted with."""

    @property
    def pinned(self) -> bool:
        """
        Whether only a worker with this job config may export the run. A request from Kafka is exported with whatever
        job config the service has by then.
        """
        return self.origin is None and self.config_id is not None


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The exclusive right to work on a run, until the lease ends or another claim raises the fence.

    `run` is the run as it stood at the claim: `running`, or `prepared` when a stored plan is to be rolled forward.
    A `suspect` was lost with its worker before, and may have ended that process: run nothing else beside it.
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
    covered_until: datetime | None = None
    """The datasets are exported up to here: the snapshot's time, or the request's `until` if that is earlier."""
    bytes_written: int = 0
    timings: Mapping[str, Any] = field(default_factory=dict)
    """Busy milliseconds by stage."""
    manifest_url: str | None = None


Announce = Callable[[Sequence[OutboxEvent]], Awaitable[None]]
"""Sends events. Returns once the broker has stored all of them."""


# -- the ports -----------------------------------------------------------------------------------


class RunIntake(Protocol):
    """Requests → queued runs."""

    async def accept(self, incoming: Incoming) -> Run:
        """
        Queue a run for the request, unless there is a run of that id. Returns the run as it stands.

        Raises ConflictingRequest if the id belongs to another request, and InvalidRequest for text that can't be
        stored.
        """

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        """
        Accept many requests, in their order. Returns for each the run, or the error that `accept` would raise.

        Of several requests with one run id, the first counts. If this raises, some may have been queued: repeating the
        call is harmless. A message (a request with an `origin`) for a finished run has the run's event sent again.
        """


class RunQueue(Protocol):
    """Which run is next, and who holds it."""

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
        Take one run, or None if there is none to take.

        A `prepared` run that nobody holds goes first. Then come the due ones (queued, or running with a lease that has
        ended) by priority, agencies in turn, and age. With `run_id`, only that run may be taken.

        `config_id` is the worker's job config. Runs pinned to another one are left alone, unless they are prepared.
        The attempt goes up by one, except for a prepared run. A run that was lost beside others, for the first time,
        becomes a suspect, but the lost attempt doesn't count as a try.
        """

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        """
        Extend the lease from now. Raises Superseded when another worker holds the run, when the run was cancelled, and
        when the lease has ended.
        """

    async def check(self, claim: Claim) -> None:
        """Raises Superseded when the run was taken over, given up or cancelled. Changes nothing."""

    async def cancel(self, run_id: str) -> Run:
        """
        Cancel a `queued` or `running` run, with its event. A run in any other state is returned as it is.

        Raises RunUnknown.
        """

    async def idle(self, *, config_id: str | None = None) -> bool:
        """
        Whether a worker with this job config has nothing left to do: no run is due, running, prepared or waiting for
        another attempt, and every event is sent. A run whose `not_before` hasn't come doesn't count, nor does one
        pinned to another job config.
        """

    async def waiting_for_another_config(self, config_id: str) -> int:
        """How many due runs are pinned to another job config."""

    async def now(self) -> datetime:
        """The database's time, by which leases, `not_before` and deadlines are measured."""


class RunAttempts(Protocol):
    """What the holder of a claim writes, from the start of an attempt to its end."""

    async def start(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        """Record the trace of the attempt. One that only rolls a plan forward keeps the trace of the export."""

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        """Record an upload before its first byte is sent, so that a clean-up finds it."""

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        """The decision: `running → prepared`. Stores the plan and what the attempt measured."""

    async def plan(self, claim: Claim) -> Plan:
        """The stored plan of a prepared run."""

    async def succeed(self, claim: Claim, outcome: Outcome | None = None) -> Run:
        """
        `prepared → succeeded`, with the completion event, in one transaction.

        A dry run has no plan: give its `outcome`, and it goes from `running` to `succeeded`. Raises ValueError for the
        outcome of any other run.
        """

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        """
        `running → failed`, with the completion event. `state` is PREPARED for a run whose plan can't be published.
        """

    async def retry(self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True) -> Run:
        """`running → queued`, due after `delay`. Unless it `counts`, the attempt isn't a try."""

    async def hand_back(self, claim: Claim) -> Run:
        """`running → queued`, due at once; the attempt isn't a try. Of a prepared run it only ends the lease."""

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        """End the lease of a `prepared` run. It can be claimed again after `delay`."""

    async def void_plan(self, claim: Claim) -> Run:
        """`prepared → queued`, for a plan whose first upload is gone before anything was completed."""


class RunHistory(Protocol):
    """Reads. None of them changes anything."""

    async def installation_id(self) -> UUID:
        """The identity of this history. Raises DatabaseMisconfigured if the database can't store all of Unicode."""

    async def get(self, run_id: str) -> Run | None:
        """One run as it stands."""

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """The known ones among these runs, by id."""

    async def newest(
        self,
        *,
        agency_id: int | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 50,
    ) -> list[Run]:
        """Runs, newest first, that were accepted at `since` or later and before `until`."""

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many replays each of these runs has. Runs without any are left out."""

    async def last_success(self, agency_id: int, dataset: str) -> LastSuccess | None:
        """
        The successful export of an agency's dataset with the latest `covered_until`; of several, the one that finished
        last. Dry runs don't count.
        """

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        """
        The counts of each dataset of a run, in their order. Empty before the run is decided, for a dry run, and for a
        failed attempt that measured nothing.
        """

    async def attempts(self, run_id: str) -> list[Attempt]:
        """All attempts of a run, oldest first."""

    async def tries(self, run_id: str) -> int:
        """How many attempts count against the maximum so far. Raises RunUnknown."""


class RunLeftovers(Protocol):
    """
    What lost attempts and failed plans left at destinations.

    An upload is lost when nobody will complete it: the run is neither `running` nor `prepared`, or the upload's fence
    is superseded and no plan that can still be completed names it. A lost upload stays lost.
    """

    async def runs_to_clean_up(self) -> list[str]:
        """Ids of the runs with lost uploads or a failed plan, oldest first."""

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        """The recorded uploads of a run that are lost."""

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        """
        The lost ones among uploads that a destination listed *before* this call.

        An upload without a record is lost unless the run is `running` or unknown.
        """

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        """Drop the records of uploads that are gone."""

    async def failed_plan(self, run_id: str) -> Plan | None:
        """The plan of a run that failed after its decision, until it is forgotten. `failed` is final."""

    async def forget_failed_plan(self, run_id: str) -> None:
        """Drop a failed plan whose objects are gone."""


class RunOutbox(Protocol):
    """Completion events that are still to be sent."""

    async def announce(self, send: Announce, *, limit: int) -> int:
        """
        Pass up to `limit` unsent events, oldest first, to `send`, and mark them sent once it returns. Returns their
        number. Concurrent calls get other events. If `send` raises, its events stay unsent.
        """


@dataclass(frozen=True, slots=True)
class RunStore:
    """All ports of one run table. Pass on only the ports that are needed."""

    intake: RunIntake
    queue: RunQueue
    attempts: RunAttempts
    history: RunHistory
    leftovers: RunLeftovers
    outbox: RunOutbox
