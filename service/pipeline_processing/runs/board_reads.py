"""The port of what the board reads from the run table: the state of the queue, what has changed, and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import Attempt, DatasetCounts, Run, RunState
from pipeline_processing.runs.deliveries import Delivery


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run that has been due for longest without being claimed."""

    run_id: str
    agency_id: AgencyId
    queued_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """Counts of runs and events at the time `now` of the database."""

    now: datetime
    queued: int
    running: int
    prepared: int
    retrying: int
    """Queued runs that have had an attempt."""
    agencies_waiting: int
    """Agencies with a queued run."""
    oldest_waiting: Waiting | None
    finished: dict[RunState, int]
    """Runs that finished in the last hour, by state."""
    outbox_unsent: int
    oldest_unsent_at: datetime | None
    kept_letters: int
    """Dead letters of the last day that Kafka refused."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Runs that may have changed. If there were more than the limit, `complete` is False."""

    runs: list[Run]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """An artifact of a plan, without its content."""

    destination: str
    key: str
    dataset: str
    format: str
    compression: str
    rows: int
    size: int
    sha256: str
    rejected: bool


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the outbox."""

    event_id: str
    type: str
    created_at: datetime
    sent_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStory:
    """Everything stored about one run."""

    run: Run
    attempts: list[Attempt]
    datasets: list[DatasetCounts]
    artifacts: list[StoredArtifact]
    """What its plan publishes or has published: at most the first 1,000."""
    events: list[StoredEvent]
    deliveries: list[Delivery]
    replays: list[Run]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """How long one run took."""

    run_id: str
    finished_at: datetime
    duration_ms: int | None
    state: RunState


@dataclass(frozen=True, slots=True)
class Typical:
    """Medians over the last successful runs of an agency."""

    runs: int
    duration_ms: float
    rows_read: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """The failed runs with one kind of error. Lists hold the newest few."""

    error_kind: str
    count: int
    replayed: int
    """How many of them have a replay."""
    agencies: int
    agency_ids: list[AgencyId]
    run_ids: list[str]
    last_message: str
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The runs that finished from `at` to the next bucket. Percentiles are of successful runs."""

    at: datetime
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    rows: int = 0
    bytes: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Buckets of equal width, oldest first, up to now."""

    width: timedelta
    buckets: list[Bucket] = field(default_factory=list)


class BoardReads(Protocol):
    """Read-only queries of the run table. Every method may raise HistoryUnavailable or HistoryOutdated."""

    async def queue_state(self) -> QueueState:
        """Count runs by state, and unsent events."""

    async def changes(self, *, since: datetime, watched: Sequence[str], limit: int) -> Changes:
        """
        Return all held runs, those queued or finished after `since`, and the `watched` ones.

        At most `limit` of each kind, the newest first.
        """

    async def story(self, run_id: str) -> RunStory | None:
        """Return everything about one run, or None if it is unknown."""

    async def durations(self, agency_ids: Sequence[AgencyId], *, limit: int) -> dict[AgencyId, list[FinishedRun]]:
        """Return the last finished runs of each agency, oldest first."""

    async def typical(self, agency_ids: Sequence[AgencyId]) -> dict[AgencyId, Typical]:
        """Return the medians of each agency that has a successful run."""

    async def failures(self, *, window: timedelta) -> list[FailureGroup]:
        """Group the runs that failed within the window before now, the largest group first."""

    async def throughput(self, *, window: timedelta, width: timedelta) -> Throughput:
        """Count the runs that finished within the window before now, by buckets of `width`."""
