"""The triggers file, which users write in YAML. Its JSON Schema is published in `schemas/`. `loading.py` reads it."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationInfo, field_validator

from pipeline_processing.agency_data_job.config import DatasetName
from pipeline_processing.agency_data_job.params import ParamName
from pipeline_processing.labels import Labels
from pipeline_processing.model import FormatName
from pipeline_processing.options.durations import Duration, duration_in_words
from pipeline_processing.options.parts import Part
from pipeline_processing.triggers.values import (
    AgencyList,
    BodyPath,
    Cron,
    EventPath,
    EventTypes,
    Name,
    Period,
    Scalar,
    TimeZone,
    Topic,
    Values,
)

_SHORTEST_CATCH_UP, _LONGEST_CATCH_UP = timedelta(minutes=1), timedelta(days=7)
_PATIENCE = 10
"""`at_latest_after` is this many times `quiet_for` by default."""


# -- what an event must be, and what is taken from it --------------------------------------------


class Match(Part):
    """Which events of the topic count. All conditions must hold."""

    type: EventTypes | None = Field(None, description="CloudEvents type, or a list of types.")
    body: dict[BodyPath, Values] = Field(
        default_factory=dict,
        description="Values of the event's JSON body: path → the value that must stand there, or a list of values.",
    )


class FromEvent(Part):
    """A param's value is taken from the event."""

    path: EventPath = Field(alias="from", description="Where the value stands in the event.")
    default: Scalar = Field(None, description="The value of events that have none there. Without it, they are invalid.")

    @property
    def required(self) -> bool:
        """Whether an event must have the value."""
        return "default" not in self.model_fields_set


EventParam = Annotated[
    Annotated[FromEvent, Tag("from event")] | Annotated[Scalar, Tag("literal")],
    Discriminator(lambda value: "from event" if isinstance(value, Mapping | FromEvent) else "literal"),
]
"""`{from: data.region}`, or a literal."""


class Debounce(Part):
    """When the events of a window become a run. Without it, every event is a run."""

    quiet_for: Period | None = Field(None, description="The window closes once no event has come for so long.")
    at_latest_after: Period | None = Field(
        None,
        validate_default=True,
        description="It closes so long after its first event, even if more keep coming; 10 times `quiet_for` if null.",
    )
    at_most_every: Period | None = Field(
        None,
        validate_default=True,
        description="It closes no earlier than so long after the agency's last window.",
    )

    @field_validator("at_latest_after")
    @classmethod
    def _not_before_quiet(cls, value: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if value is None or "quiet_for" not in info.data:
            return value
        quiet_for = info.data["quiet_for"]
        if quiet_for is None:
            raise ValueError("needs `quiet_for` as well")
        if value < quiet_for:
            raise ValueError(f"must be at least `quiet_for`, {duration_in_words(quiet_for)}")
        return value

    @field_validator("at_most_every")
    @classmethod
    def _not_empty(cls, value: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if value is None and "quiet_for" in info.data and info.data["quiet_for"] is None:
            raise ValueError("needs `quiet_for` or `at_most_every`")
        return value

    @property
    def latest(self) -> timedelta | None:
        """How long after its first event a window closes at the latest; None if there is no `quiet_for`."""
        if self.at_latest_after is not None or self.quiet_for is None:
            return self.at_latest_after
        return self.quiet_for * _PATIENCE


# -- the clock -----------------------------------------------------------------------------------


class AgencyQuery(Part):
    """Agencies are read from the source database each time."""

    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="SQL that returns agency ids as its only column, run on PIPELINE_SOURCE__DSN."
    )


Agencies = Annotated[
    Annotated[AgencyQuery, Tag("agency query")] | Annotated[AgencyList, Tag("agency list")],
    Discriminator(lambda value: "agency query" if isinstance(value, Mapping | AgencyQuery) else "agency list"),
]


class Schedule(Part):
    """Asks for runs by the clock."""

    cron: Cron = Field(description="Minute, hour, day of the month, month, day of the week, as in cron.")
    time_zone: TimeZone = Field("UTC", description="Name of the tz database.")
    agencies: Agencies = Field(description="A list of agency ids, or `query: SELECT …`.")
    catch_up: Duration = Field(
        timedelta(hours=1),
        json_schema_extra={"default": "1h"},
        description="A tick that no process saw is made up for so long; of several missed ones, only the newest.",
    )

    @field_validator("catch_up")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if not _SHORTEST_CATCH_UP <= value <= _LONGEST_CATCH_UP:
            raise ValueError("must be between 1m and 7d")
        return value

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


# -- triggers ------------------------------------------------------------------------------------


class _Trigger(Part):
    name: Name = Field(
        default_factory=str,
        description="Unique. Part of run ids and state: another name is another trigger. Made of topic and types, or "
        "of the cron expression, if left out.",
    )
    datasets: tuple[DatasetName, ...] | None = Field(
        None, min_length=1, description="Datasets of the job config; all if null."
    )
    format: FormatName | None = Field(None, description="Replaces the format of every dataset.")
    labels: Labels = Field(default_factory=dict, description="Labels of the runs.")
    priority: int = Field(0, strict=True, ge=-(2**15), le=2**15 - 1, description="Higher goes first.")
    requested_by: str | None = Field(None, min_length=1, description="`trigger:` and the name if null.")

    @field_validator("datasets")
    @classmethod
    def _named_once(cls, datasets: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if datasets is not None and len(set(datasets)) < len(datasets):
            raise ValueError("names a dataset twice")
        return datasets

    @property
    def requester(self) -> str:
        """What requests give as `requested_by`."""
        return self.requested_by or f"trigger:{self.name}"


Since = Literal["auto", "event_time"]


class EventTrigger(_Trigger):
    """Events of a topic become runs."""

    topic: Topic = Field(description="The topic of the events.")
    match: Match = Field(Match(), description="Which events count; all if left out.")
    agency_id: EventPath = Field(description="Where the agency's id stands in the event, such as data.agency_id.")
    params: dict[ParamName, EventParam] = Field(
        default_factory=dict, description="Params of the request: `{from: data.region}`, or a literal."
    )
    since: Since | None = Field(
        "auto",
        description="`event_time`: requests have the earliest event's time as `since`. null: they have none. "
        "`auto`: event_time if the job config's datasets use `since` and none has `since: last_success`, else null.",
    )
    debounce: Debounce | None = None


class ScheduleTrigger(_Trigger):
    """Times become runs."""

    schedule: Schedule
    params: dict[ParamName, Scalar] = Field(default_factory=dict, description="Params of the request.")


Trigger = EventTrigger | ScheduleTrigger

EVENT, SCHEDULE = "event trigger", "schedule trigger"


def _kind_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return SCHEDULE if "schedule" in value and "topic" not in value else EVENT
    return SCHEDULE if isinstance(value, ScheduleTrigger) else EVENT


AnyTrigger = Annotated[
    Annotated[EventTrigger, Tag(EVENT)] | Annotated[ScheduleTrigger, Tag(SCHEDULE)], Discriminator(_kind_of)
]


class Triggers(Part):
    """Upstream events and times that become runs."""

    triggers: tuple[AnyTrigger, ...] = Field(min_length=1)

    @property
    def events(self) -> tuple[EventTrigger, ...]:
        """The triggers with a `topic`."""
        return tuple(each for each in self.triggers if isinstance(each, EventTrigger))

    @property
    def schedules(self) -> tuple[ScheduleTrigger, ...]:
        """The triggers with a `schedule`."""
        return tuple(each for each in self.triggers if isinstance(each, ScheduleTrigger))

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to read, each once."""
        return tuple(dict.fromkeys(each.topic for each in self.events))


def default_name(trigger: Trigger) -> str:
    """Return a name made of topic and types, or of the cron expression. May be too long, or another trigger's."""
    if isinstance(trigger, EventTrigger):
        parts = [trigger.topic, *(trigger.match.type or ())]
    else:
        parts = ["schedule", trigger.schedule.cron.replace("*", "any")]
    return re.sub(r"[^a-z0-9._-]+", "-", "-".join(parts).lower()).strip("-._")
