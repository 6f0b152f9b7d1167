"""Upstream events: read from Kafka records, matched against triggers, and reduced to what a trigger needs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from pipeline_processing.errors import InvalidEvent, InvalidJson
from pipeline_processing.messaging.cloud_events import CloudEvent, Envelope, is_structured, opened, parse_json, texts
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import JobRequest, ParamValue
from pipeline_processing.options.validation import faults_of, shown
from pipeline_processing.triggers.config import EventTrigger, FromEvent

MAX_EVENT_BYTES = 1024 * 1024
"""Limit of an event's value. A parsed value takes many times its size."""

MAX_AHEAD = timedelta(minutes=5)
"""How far an event's time may lie in the future: clocks differ a little."""

_DIGITS = 19


@dataclass(frozen=True)
class UpstreamEvent:
    """
    A message of a watched topic.

    The body is parsed, and the attributes are checked, only when asked for: a topic may hold messages that concern no
    trigger and aren't JSON.
    """

    record: Record
    envelope: Envelope

    @property
    def type(self) -> str | None:
        """CloudEvents type, unchecked; None without one."""
        claimed = self.envelope.attributes.get("type")
        return claimed if isinstance(claimed, str) else None

    @cached_property
    def cloud_event(self) -> CloudEvent | None:
        """The checked CloudEvents attributes; None if the message is plain JSON. Raises InvalidEvent."""
        return self.envelope.cloud_event()

    @cached_property
    def data(self) -> Any:
        """The parsed body; None if there is none. Raises InvalidEvent if it isn't JSON, or is too large."""
        if self.envelope.structured:
            return self.envelope.data
        value: bytes | None = self.envelope.data
        return None if not value else _parsed(value)

    @property
    def source(self) -> str | None:
        """CloudEvents source."""
        return self.cloud_event.source if self.cloud_event is not None else None

    @property
    def id(self) -> str | None:
        """CloudEvents id."""
        return self.cloud_event.id if self.cloud_event is not None else None

    def time(self, now: datetime) -> datetime:
        """
        Return when the event happened, in UTC: its CloudEvents `time`, or else the record's timestamp. Never after
        `now`.

        Raises InvalidEvent for a `time` that doesn't exist, or lies more than `MAX_AHEAD` in the future.
        """
        written = self.cloud_event.time if self.cloud_event is not None else None
        if written is None:
            stamp = self.record.timestamp_ms
            return now if stamp < 0 else min(now, datetime.fromtimestamp(stamp / 1000, UTC))
        try:
            time = datetime.fromisoformat(written.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidEvent(f"The event's time, {written}, doesn't exist.") from None
        if time > now + MAX_AHEAD:
            raise InvalidEvent(
                f"The event's time, {written}, lies more than 5 minutes in the future: it is "
                f"{now:%Y-%m-%dT%H:%M:%SZ}. Correct the sender's clock, or this machine's."
            )
        return min(now, time)

    def find(self, path: str) -> Any:
        """
        Return the value at an event path: `data.…`, `key` or a CloudEvents attribute. Raises KeyError if there is none,
        and InvalidEvent if the body can't be parsed.
        """
        first, *rest = path.split(".")
        if first == "data":
            return value_at(self.data, rest)
        if first == "key":
            if self.record.key is None:
                raise KeyError(path)
            return self.record.key.decode(errors="replace")
        return self.envelope.attributes[first]


def read_event(record: Record) -> UpstreamEvent:
    """Read a record: a CloudEvent in binary or structured mode, or plain JSON. Raises InvalidEvent."""
    if is_structured(texts(record)):
        _check_size(record.value)
    try:
        return UpstreamEvent(record=record, envelope=opened(record))
    except InvalidJson as error:
        raise InvalidEvent(str(error)) from None


def _check_size(value: bytes | None) -> None:
    if value is not None and len(value) > MAX_EVENT_BYTES:
        raise InvalidEvent(
            f"The event's value has {len(value):,} bytes, but an event may have {MAX_EVENT_BYTES:,} at most. Send what "
            "identifies the change, not the changed data."
        )


def _parsed(value: bytes) -> Any:
    _check_size(value)
    try:
        return parse_json(value)
    except (ValueError, RecursionError) as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise InvalidEvent(f"The event's value isn't {what}: {error}.") from None


def value_at(body: Any, keys: Iterable[str]) -> Any:
    """Return the value at a path: keys of objects and indexes of arrays. Raises KeyError if there is none."""
    for key in keys:
        if isinstance(body, dict):
            body = body[key]
        elif isinstance(body, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(body):
            body = body[int(key)]
        else:
            raise KeyError(key)
    return body


# -- matching ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """An event that matched a trigger. Everything in it has been checked: a request can be made of it."""

    trigger: str
    """The trigger's name."""
    agency_id: int
    params: Mapping[str, ParamValue]
    time: datetime
    """When the event happened, in UTC."""
    trace: Mapping[str, str]
    """`traceparent` and `tracestate` of the event, if any."""
    topic: str
    partition: int
    offset: int
    source: str | None = None
    """CloudEvents source and id, if any."""
    event_id: str | None = None


def occurrences(record: Record, triggers: Iterable[EventTrigger], *, now: datetime) -> list[Occurrence]:
    """
    Return what a record means to the triggers: one occurrence for each that it matches, none if it matches none.

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
                found.append(occurrence(event, trigger, now=now))
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


def occurrence(event: UpstreamEvent, trigger: EventTrigger, *, now: datetime) -> Occurrence:
    """Reduce a matching event to what a trigger needs. Raises InvalidEvent if it lacks something."""
    agency_id = _agency_id(event, trigger)
    params = _params(event, trigger)
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
        topic=event.record.topic,
        partition=event.record.partition,
        offset=event.record.offset,
        source=event.source,
        event_id=event.id,
    )
    try:
        json.dumps([found.params, *found.trace.values(), found.source, found.event_id], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidEvent("The event has text that isn't Unicode: an escape such as \\ud800, alone.") from None
    return found


def _agency_id(event: UpstreamEvent, trigger: EventTrigger) -> int:
    try:
        value = event.find(trigger.agency_id)
    except KeyError:
        raise InvalidEvent(
            f"The event has no {trigger.agency_id}, where trigger {trigger.name!r} looks for the agency's id."
        ) from None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        value = int(value)
    if type(value) is int and 1 <= value < 2**63:
        return value
    raise InvalidEvent(
        f"{trigger.agency_id} of the event is {_quoted(value)}, and trigger {trigger.name!r} looks there for the "
        "agency's id: an integer from 1 on, or its digits as text."
    )


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


def _equal(value: Any, wanted: ParamValue) -> bool:
    """Compare as JSON does: 1 equals 1.0, but not true or "1"."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return bool(value == wanted)


def _quoted(value: Any) -> str:
    return shown(json.dumps(value, ensure_ascii=False))
