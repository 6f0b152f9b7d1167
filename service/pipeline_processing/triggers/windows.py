"""
The windows of one agency: a state machine without I/O.

Its input is the log of the agency's entries: events that matched a trigger, and closings of windows. The log's order
decides, so that every process that applies the same entries makes the same requests, byte for byte. A repeated entry,
or an event that is delivered again, changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import JobRequest, Moment

FIRST_TRACES, LAST_TRACES = 1, 15
"""How many of a window's events its request's span links to."""

Traces = tuple[dict[str, str], ...]
"""`traceparent` and `tracestate` of events."""


def _without_defaults(request: JobRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude_defaults=True)


StoredRequest = Annotated[JobRequest, PlainSerializer(_without_defaults)]
"""Without defaults, so that an older version of this service can read it unless it uses what is new."""


class _Stored(BaseModel):
    """
    Part of an entry or a state, which another version of this service may have written: they are read with
    `extra="ignore"`, which also counts for their requests.
    """

    model_config = ConfigDict(frozen=True)


# -- the log -------------------------------------------------------------------------------------


class Origin(_Stored):
    """Where an upstream event stands."""

    topic: str
    topic_id: str | None = None
    """Tells a topic from a later one with the same name. None with brokers before 2.8."""
    partition: int
    offset: int

    @property
    def partition_key(self) -> str:
        """Names the partition, among all topics and for good."""
        return f"{self.topic}/{self.topic_id or ''}/{self.partition}"


class Pace(_Stored):
    """A trigger's debounce, in seconds."""

    quiet_for: float | None = None
    at_latest_after: float | None = None
    at_most_every: float | None = None


class Happened(_Stored):
    """An event that matched a trigger."""

    kind: Literal["event"]
    trigger: str
    request: StoredRequest
    """The request of a window that holds this event only. Its run id is the window's id."""
    pace: Pace | None
    """None: the event is a run of its own."""
    origin: Origin
    trace: dict[str, str] = Field(default_factory=dict)
    triggers_id: str
    """Which triggers file it was matched with."""

    @property
    def agency_id(self) -> AgencyId:
        return self.request.agency_id


class Closing(_Stored):
    """Closes a window."""

    kind: Literal["close"]
    trigger: str
    agency_id: AgencyId
    window: str
    through: int
    """Offset of the agency's last entry that was known when this one was written."""


Entry = Happened | Closing
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def read_entry(value: bytes) -> Entry:
    """Parse an entry of the log. Raises ValueError."""
    return _ENTRY.validate_json(value, extra="ignore")


def write_entry(entry: Entry) -> tuple[bytes, bytes]:
    """Return key and value of an entry. The key is also that of the agency's state."""
    return entry_key(entry), entry.model_dump_json(exclude_defaults=True).encode()


def entry_key(entry: Entry) -> bytes:
    """Return the key of an entry."""
    return str(entry.agency_id).encode()


# -- the state -----------------------------------------------------------------------------------


class Window(_Stored):
    """An open window."""

    request: StoredRequest
    """What would be asked for if it closed now."""
    events: int
    opened: int
    """Offset of its first entry."""
    opened_at: Moment
    last_at: Moment
    due_at: Moment
    """When it closes unless another event comes. It is open for longer only while its topic hasn't been read so far."""
    latest_at: Moment | None
    """When it closes in any case."""
    topic: str
    """The topic of its last event."""
    traces: Traces = ()

    @property
    def id(self) -> str:
        assert self.request.run_id is not None
        return self.request.run_id

    def first_in_log(self) -> Self:
        """Return the window as if it had been open before the log's first entry."""
        return self.model_copy(update={"opened": -1})


class OfTrigger(_Stored):
    """What is known of one trigger and agency."""

    window: Window | None = None
    closed_at: Moment | None = None
    """When the last window closed."""
    last_run_id: str | None = None
    seen: dict[str, int] = Field(default_factory=dict)
    """Partition of an upstream topic → offset of the last event that was applied."""


class AgencyWindows(_Stored):
    """All windows of an agency. This JSON is the value of the topic `…-windows-changelog`."""

    version: Literal[1] = 1
    agency_id: AgencyId
    epoch: int = 0
    """How often the log has been deleted and recreated."""
    applied: int = -1
    """Offset of the last entry of this epoch's log that was applied."""
    triggers: dict[str, OfTrigger] = Field(default_factory=dict)

    @classmethod
    def read(cls, value: bytes) -> Self:
        """Parse a stored state. Raises ValueError."""
        return cls.model_validate_json(value, extra="ignore")

    def write(self) -> bytes:
        return self.model_dump_json().encode()

    def for_another_log(self, epoch: int) -> Self:
        """Return the state for the log of a later epoch, which begins anew."""
        triggers = {
            name: each if each.window is None else each.model_copy(update={"window": each.window.first_in_log()})
            for name, each in self.triggers.items()
        }
        return self.model_copy(update={"epoch": epoch, "applied": -1, "triggers": triggers})

    @property
    def due_at(self) -> datetime | None:
        """When the first of the open windows may close; None if none is open."""
        return min((each.window.due_at for each in self.triggers.values() if each.window is not None), default=None)

    @property
    def is_open(self) -> bool:
        """Whether any window is open."""
        return self.due_at is not None


def newer_state(first: bytes | None, second: bytes) -> bytes:
    """
    Return the one of two stored states of an agency that has applied more entries, the second one if they are equal.

    Usually this is the one that was stored last. A process that was paused may have stored an older one later.
    """
    if first is None:
        return second
    try:
        earlier, later = AgencyWindows.read(first), AgencyWindows.read(second)
    except ValueError:
        return second
    return second if (later.epoch, later.applied) >= (earlier.epoch, earlier.applied) else first


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A run to ask for."""

    trigger: str
    request: JobRequest
    events: int
    traces: Traces


# -- transitions ---------------------------------------------------------------------------------


def apply(state: AgencyWindows, entry: Entry, *, offset: int, at: datetime) -> tuple[AgencyWindows, Ask | None]:
    """
    Apply the entry at this offset of the log, which was written at `at`. Return the new state, and a run to ask for.

    An entry that was applied before changes nothing.
    """
    if offset <= state.applied:
        return state, None
    before = state.triggers.get(entry.trigger, OfTrigger())
    after, ask = _event(before, entry, offset, at) if isinstance(entry, Happened) else _close(before, entry, at)
    triggers = state.triggers if after is before else {**state.triggers, entry.trigger: after}
    return state.model_copy(update={"applied": offset, "triggers": triggers}), ask


def due(state: AgencyWindows, now: datetime, *, read_up_to: Callable[[str], datetime]) -> list[Closing]:
    """
    Return an entry for each window that should close now. Writing one twice is harmless.

    `read_up_to` returns the moment up to which all events of a topic have entries.
    """
    return [
        Closing(kind="close", trigger=name, agency_id=state.agency_id, window=each.window.id, through=state.applied)
        for name, each in state.triggers.items()
        if each.window is not None
        and (
            each.window.due_at <= min(now, read_up_to(each.window.topic))
            or (each.window.latest_at is not None and each.window.latest_at <= now)
        )
    ]


def unread(state: AgencyWindows, now: datetime, *, read_up_to: Callable[[str], datetime]) -> set[str]:
    """Return the topics that must be read further before windows that are due can close."""
    windows = [each.window for each in state.triggers.values() if each.window is not None]
    return {each.topic for each in windows if read_up_to(each.topic) < each.due_at <= now}


def _event(before: OfTrigger, event: Happened, offset: int, at: datetime) -> tuple[OfTrigger, Ask | None]:
    origin = event.origin
    if origin.offset <= before.seen.get(origin.partition_key, -1):
        return before, None
    seen = {**before.seen, origin.partition_key: origin.offset}
    traces: Traces = (event.trace,) if event.trace else ()
    if event.pace is None:
        ask = Ask(trigger=event.trigger, request=event.request, events=1, traces=traces)
        return before.model_copy(update={"seen": seen, "closed_at": at, "last_run_id": event.request.run_id}), ask
    if before.window is None:
        request, opened, opened_at, last_at, events = event.request, offset, at, at, 1
    else:
        window = before.window
        request = _coalesced(window.request, event.request)
        opened, opened_at, events = window.opened, window.opened_at, window.events + 1
        last_at = max(at, window.last_at)  # clocks of several processes may differ
        traces = _bounded((*window.traces, *traces))
    due_at, latest_at = _due_at(event.pace, opened_at=opened_at, last_at=last_at, closed_at=before.closed_at)
    window = Window(
        request=request,
        events=events,
        opened=opened,
        opened_at=opened_at,
        last_at=last_at,
        due_at=due_at,
        latest_at=latest_at,
        topic=origin.topic,
        traces=traces,
    )
    return before.model_copy(update={"seen": seen, "window": window}), None


def _close(before: OfTrigger, closing: Closing, at: datetime) -> tuple[OfTrigger, Ask | None]:
    window = before.window
    if window is None or window.opened > closing.through:
        return before, None  # closed already
    after = before.model_copy(update={"window": None, "closed_at": at, "last_run_id": closing.window})
    if window.id != closing.window:
        # The log's beginning is gone, and with it this window's: what remains of it was asked for long ago.
        return after, None
    return after, Ask(trigger=closing.trigger, request=window.request, events=window.events, traces=window.traces)


def _coalesced(window: JobRequest, event: JobRequest) -> JobRequest:
    """Return the latest request, under the window's run id, for everything since the earliest event."""
    since = None if window.since is None or event.since is None else min(window.since, event.since)
    return event.model_copy(update={"run_id": window.run_id, "since": since})


def _due_at(
    pace: Pace, *, opened_at: datetime, last_at: datetime, closed_at: datetime | None
) -> tuple[datetime, datetime | None]:
    """Return when a window closes if it stays quiet, and when at the latest."""
    earliest = opened_at
    if pace.at_most_every is not None and closed_at is not None:
        earliest = max(opened_at, closed_at + timedelta(seconds=pace.at_most_every))
    if pace.quiet_for is None:
        return earliest, earliest
    quiet_at = max(earliest, last_at + timedelta(seconds=pace.quiet_for))
    if pace.at_latest_after is None:
        return quiet_at, None
    latest_at = max(earliest, opened_at + timedelta(seconds=pace.at_latest_after))
    return min(quiet_at, latest_at), latest_at


def _bounded(traces: Sequence[Mapping[str, str]]) -> Traces:
    kept = traces if len(traces) <= FIRST_TRACES + LAST_TRACES else (*traces[:FIRST_TRACES], *traces[-LAST_TRACES:])
    return tuple(dict(each) for each in kept)


def moment_of(timestamp_ms: int) -> datetime:
    """Convert a record's timestamp. Raises ValueError or OverflowError if it isn't in milliseconds."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
