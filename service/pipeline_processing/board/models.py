"""
The answers of the board's JSON API.

Times are ISO 8601 in UTC. Ids are text, because JavaScript's numbers hold only 53 bits. Names of milliseconds end in
`_ms`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PlainSerializer

from pipeline_processing.model import Message, RunState
from pipeline_processing.runs.deliveries import DeliveryState

AgencyText = Annotated[str, Field(description="An agency's key; an integer in decimal digits.")]
Time = Annotated[
    datetime,
    PlainSerializer(lambda time: time.isoformat().replace("+00:00", "Z"), return_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
M = TypeVar("M", bound=Message)

FinalState = Literal["succeeded", "failed", "cancelled"]


def view(model: type[M], of: object, **others: Any) -> M:
    """Make an answer of what has attributes with its names. `others` are all of its other fields."""
    same = model.model_fields.keys() - others.keys()
    return model(**{name: getattr(of, name) for name in same}, **others)


# -- runs ----------------------------------------------------------------------------------------


class Progress(Message):
    """How far a running attempt is, from its last progress event."""

    rows_read: int
    rows_written: int
    bytes_written: int
    dataset: str | None
    stage: str | None
    rows_per_second: float | None = Field(description="Rows read; null before the second event of the attempt.")
    at: Time


class Estimate(Message):
    """When a running run is likely to finish."""

    finishes_at: Time
    from_runs: int = Field(description="The agency's last successful runs that the estimate is made from.")


class RunView(Message):
    """One run, as lists show it."""

    run_id: str
    job: str
    agency_id: AgencyText
    state: RunState
    attempt: int
    priority: int
    requested_by: str | None
    labels: dict[str, str]
    replay_of: str | None
    dry_run: bool
    queued_at: Time
    not_before: Time | None
    started_at: Time | None
    finished_at: Time | None
    duration_ms: int | None
    rows_read: int | None
    rows_written: int | None
    rows_filtered: int | None
    rows_rejected: int | None
    bytes_written: int | None
    worker: str | None
    lease_expires_at: Time | None
    lease_seconds_left: float | None = Field(description="Null unless a worker holds the run; negative if it is late.")
    error_kind: str | None
    error_message: str | None = Field(description="Shortened in lists.")
    manifest_url: str | None
    trace_id: str | None
    progress: Progress | None
    estimate: Estimate | None


class RunPage(Message):
    """A page of runs, newest first."""

    runs: list[RunView]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last page.")


class AttemptView(Message):
    """One attempt of a run."""

    attempt: int
    outcome: str
    worker: str
    started_at: Time
    finished_at: Time | None
    duration_ms: int | None
    error_kind: str | None
    error_message: str | None
    trace_id: str | None
    trace_url: str | None


class StageTime(Message):
    """Busy time of one stage of the data path."""

    stage: str
    milliseconds: float


class DatasetView(Message):
    """Rows through one dataset."""

    name: str
    rows_read: int
    rows_written: int
    rows_filtered: int
    rows_rejected: int


class ArtifactView(Message):
    """One object, file or table load of a run."""

    key: str
    destination: str
    dataset: str
    format: str
    compression: str
    rows: int
    bytes: int
    sha256: str
    rejected: bool


class EventView(Message):
    """A completion event of a run."""

    event_id: str
    type: str
    created_at: Time
    sent: bool
    sent_at: Time | None


class DeliveryView(Message):
    """An event on its way to a webhook."""

    event_id: str
    webhook: str
    state: DeliveryState
    tries: int
    next_at: Time | None = Field(description="When the next try is due; null once it is delivered or given up.")
    delivered_at: Time | None
    last_status: int | None = Field(description="The HTTP status of the last answer.")
    last_error: str | None


class ReplayView(Message):
    """A run that repeats this one."""

    run_id: str
    state: RunState
    queued_at: Time


class RunDetails(RunView):
    """One run in full."""

    topic: str | None
    partition: int | None
    offset: int | None
    config_id: str | None
    pinned: bool = Field(description="Whether only a worker with the same job config may export it.")
    request: dict[str, Any] = Field(description="The request's fields that aren't defaults.")
    timings: list[StageTime]
    attempts: list[AttemptView]
    datasets: list[DatasetView]
    artifacts: list[ArtifactView] = Field(
        description="What its plan publishes or has published, at most 1,000. Empty before the run is decided."
    )
    events: list[EventView]
    deliveries: list[DeliveryView] = Field(description="Of its events, to webhooks.")
    trace_url: str | None
    replays: list[ReplayView]
    replay_command: str | None = Field(description="Null until the run has finished.")


# -- agencies ------------------------------------------------------------------------------------


class FinishedRunView(Message):
    """How long one run took."""

    run_id: str
    finished_at: Time
    duration_ms: int | None
    state: FinalState


class AgencyDurations(Message):
    """The last finished runs of one agency, oldest first."""

    agency_id: AgencyText
    runs: list[FinishedRunView]


class DurationsList(Message):
    """The last finished runs of several agencies."""

    agencies: list[AgencyDurations]


# -- the whole -----------------------------------------------------------------------------------


class StateCounts(Message):
    """Unfinished runs by state."""

    queued: int
    running: int
    prepared: int


class FinishedCounts(Message):
    """Finished runs by state."""

    succeeded: int
    failed: int
    cancelled: int


class OldestWaiting(Message):
    """The run that has been due for longest."""

    run_id: str
    agency_id: AgencyText
    queued_at: Time
    seconds: float


class Lag(Message):
    """Requests that the consumer group has yet to accept."""

    messages: int
    partitions: int


Server = Literal["ok", "away"]


class Overview(Message):
    """The state of the whole service."""

    now: Time
    states: StateCounts
    retrying: int = Field(description="Queued runs that have had an attempt.")
    oldest_waiting: OldestWaiting | None
    agencies_waiting: int
    finished_last_hour: FinishedCounts
    outbox_unsent: int
    oldest_unsent_seconds: float | None
    lag: Lag | None = Field(description="Null while Kafka is away.")
    dead_letters_recent: int | None = Field(description="Of the last 24 hours; null while Kafka is away.")
    kafka: Server
    history: Server


class FailureGroupView(Message):
    """Failed runs with one kind of error."""

    error_kind: str
    count: int
    replayed: int = Field(description="How many of them have a replay.")
    agencies: int
    agency_ids: list[AgencyText] = Field(description="The agencies of the newest few.")
    run_ids: list[str] = Field(description="The newest few.")
    last_message: str
    last_at: Time
    description: str = Field(description="What this kind of error is.")
    docs: str = Field(description="The place in the documentation.")
    command: str = Field(description="Shows what a replay would request.")


class Failures(Message):
    """Failed runs of a window, by kind of error, the largest group first."""

    window: str
    groups: list[FailureGroupView]


class BucketView(Message):
    """Runs that finished within one bucket. Percentiles are of successful runs; null if there are none."""

    at: Time
    succeeded: int
    failed: int
    cancelled: int
    rows: int
    bytes: int
    p50_ms: float | None
    p95_ms: float | None


class ThroughputView(Message):
    """Finished runs over time, oldest bucket first."""

    window: str
    bucket_seconds: int
    buckets: list[BucketView]


class DeadLetterView(Message):
    """One dead letter. The request itself is shown by `dead-letters show` only."""

    place: str = Field(description="`partition:offset`, or `db:number`: the argument of `dead-letters show`.")
    reason: str
    message: str
    at: str = Field(description="When it was put aside: ISO 8601, unless another program wrote it.")
    topic: str
    partition: int
    offset: int
    command: str


class DeadLetterList(Message):
    """The newest dead letters."""

    dead_letters: list[DeadLetterView]


class WindowView(Message):
    """An open window: events of one agency that will become one run."""

    agency_id: AgencyText
    run_id: str = Field(description="Of the run that it will ask for.")
    events: int
    opened_at: Time
    last_event_at: Time
    fires_at: Time = Field(description="When it asks for the run, unless another event comes.")


class TriggerView(Message):
    """One trigger: of events, or of a schedule."""

    name: str
    topic: str | None = None
    schedule: str | None = None
    next_at: Time | None = Field(None, description="The next tick of the schedule.")
    datasets: list[str] = Field(default_factory=list, description="All datasets if empty.")
    debounce: str | None = Field(None, description="When the events of an agency become a run, in words.")
    windows_open: int
    windows: list[WindowView] = Field(description="Those that ask first, at most 200.")


class TriggerList(Message):
    """The triggers of PIPELINE_TRIGGERS_FILE, then others that have open windows."""

    triggers: list[TriggerView]


# -- live, and problems --------------------------------------------------------------------------


class ProgressUpdate(Message):
    """The data of a `progress` event."""

    run_id: str
    attempt: int
    progress: Progress
    estimate: Estimate | None


class Fault(Message):
    """One invalid parameter."""

    parameter: str
    message: str


class Problem(Message):
    """An error, as RFC 9457 describes it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    faults: list[Fault] = Field(default_factory=list, description="Invalid parameters, if that is the problem.")
