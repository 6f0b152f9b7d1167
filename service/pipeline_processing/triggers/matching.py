"""Which triggers an event matches, and what they take from it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.params import DeclaredParams
from pipeline_processing.agency_keys import AgencyId, AgencyKey
from pipeline_processing.errors import InvalidEvent
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import JobRequest, ParamValue
from pipeline_processing.options.validation import faults_of, shown
from pipeline_processing.triggers.config import EventTrigger, FromEvent
from pipeline_processing.triggers.events import UpstreamEvent, read_event, value_at


@dataclass(frozen=True, slots=True)
class Terms:
    """What the job config, if known, says of requests."""

    agency_key: AgencyKey = AgencyKey.INTEGER
    declared: DeclaredParams | None = None

    @classmethod
    def of(cls, config: AgencyJobConfig | None) -> "Terms":
        return NO_TERMS if config is None else cls(config.agency_key, config.params)


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """An event that matched a trigger. Everything in it has been checked: a request can be made of it."""

    trigger: str
    """The trigger's name."""
    agency_id: AgencyId
    params: Mapping[str, ParamValue]
    time: datetime
    """When the event happened, in UTC."""
    trace: Mapping[str, str]
    """`traceparent` and `tracestate` of the event, if any."""
    source: str | None = None
    """CloudEvents source and id, if any."""
    event_id: str | None = None


def occurrences(
    record: Record, triggers: Iterable[EventTrigger], *, now: datetime, terms: Terms = NO_TERMS
) -> list[Occurrence]:
    """
    Return what a record means to the triggers: one occurrence for each that it matches, none if it matches none.

    `terms` are those of the job config, if known.

    Raises InvalidEvent if it can't be read, or if a trigger that it matches can't use it; the message names all faults.
    """
    watching = [trigger for trigger in triggers if trigger.topic == record.topic]
    if not watching:
        return []
    event = read_event(record)
    found: list[Occurrence] = []
    faults: dict[str, None] = {}
    for trigger in watching:
        if mismatch(event, trigger) is None:
            try:
                found.append(occurrence(event, trigger, now=now, terms=terms))
            except InvalidEvent as error:
                faults[str(error)] = None
    if faults:
        raise InvalidEvent(" ".join(faults))
    return found


def mismatch(event: UpstreamEvent, trigger: EventTrigger) -> str | None:
    """
    Return why an event of its topic doesn't match a trigger, or None if it does.

    Raises InvalidEvent if the trigger has conditions on the body and the body can't be parsed.
    """
    match = trigger.match
    if match.type is not None and event.type not in match.type:
        found = "it has no CloudEvents type" if event.type is None else f"its type is {shown(event.type)}"
        return f"{found}, not {' or '.join(match.type)}"
    for path, values in match.body.items():
        wanted = " or ".join(json.dumps(value, ensure_ascii=False) for value in values)
        try:
            value = value_at(event.data, path.split("."))
        except KeyError:
            return f"its body has no {path}, which must be {wanted}"
        if not any(_equal(value, each) for each in values):
            return f"{path} in its body is {_quoted(value)}, not {wanted}"
    return None


def occurrence(event: UpstreamEvent, trigger: EventTrigger, *, now: datetime, terms: Terms = NO_TERMS) -> Occurrence:
    """
    Reduce a matching event to what a trigger needs. Raises InvalidEvent if it lacks something, or has a param of
    another type than declared.
    """
    agency_id = _agency_id(event, trigger, terms.agency_key)
    params = _params(event, trigger)
    _check_types(params, trigger, terms.declared or {})
    try:
        JobRequest.model_validate({"agency_id": agency_id, "params": params})
    except ValidationError as error:
        raise InvalidEvent(f"Trigger {trigger.name!r} can't use the event: {'; '.join(faults_of(error))}.") from None
    found = Occurrence(
        trigger=trigger.name,
        agency_id=agency_id,
        params=params,
        time=event.time(now),
        trace=event.envelope.trace,
        source=event.source,
        event_id=event.id,
    )
    try:
        json.dumps([found.params, *found.trace.values(), found.source, found.event_id], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidEvent("The event has text that isn't Unicode: an escape such as \\ud800, alone.") from None
    return found


def _agency_id(event: UpstreamEvent, trigger: EventTrigger, agency_key: AgencyKey) -> AgencyId:
    try:
        value = event.find(trigger.agency_id)
    except KeyError:
        raise InvalidEvent(
            f"The event has no {trigger.agency_id}, where trigger {trigger.name!r} looks for the agency's id."
        ) from None
    try:
        return agency_key.key_of(value)
    except ValueError as error:
        raise InvalidEvent(
            f"{trigger.agency_id} of the event is {_quoted(value)}, and trigger {trigger.name!r} looks there for the "
            f"agency's id: {error}."
        ) from None


def _params(event: UpstreamEvent, trigger: EventTrigger) -> dict[str, ParamValue]:
    params: dict[str, ParamValue] = {}
    for name, param in trigger.params.items():
        if not isinstance(param, FromEvent):
            params[name] = param
            continue
        try:
            params[name] = event.find(param.path)
        except KeyError:
            if param.required:
                raise InvalidEvent(
                    f"The event has no {param.path}, where trigger {trigger.name!r} looks for the param {name}. Send "
                    "it, or give the param a `default`."
                ) from None
            params[name] = param.default
    return params


def _check_types(params: Mapping[str, ParamValue], trigger: EventTrigger, declared: DeclaredParams) -> None:
    """In time: as the latest event of a window, it would make the request of all its events unusable."""
    for name in params.keys() & declared.keys():
        try:
            if params[name] is None and declared[name].required:
                raise ValueError("can't be null")
            declared[name].value_of(params[name])
        except ValueError as error:
            raise InvalidEvent(f"The param {name} of trigger {trigger.name!r} {error}.") from None


def _equal(value: Any, wanted: ParamValue) -> bool:
    """Compare as JSON does: 1 equals 1.0, but not true or "1"."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return bool(value == wanted)


def _quoted(value: Any) -> str:
    """Return a scalar as JSON. What else stands there may be personal, and is logged."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shown(json.dumps(value, ensure_ascii=False))
