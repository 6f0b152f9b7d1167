"""Triggers in words, and what one example event would do: for `triggers check`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from pipeline_processing.errors import InvalidEvent, InvalidRequest
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import JobRequest
from pipeline_processing.options.durations import duration_in_words
from pipeline_processing.triggers.config import Debounce, EventTrigger, FromEvent, Schedule, ScheduleTrigger, Trigger
from pipeline_processing.triggers.events import read_event
from pipeline_processing.triggers.job_requests import request_of_event
from pipeline_processing.triggers.matching import NO_TERMS, Terms, mismatch, occurrence
from pipeline_processing.triggers.schedule import ticks

_TICKS = 3


def next_ticks(schedule: Schedule, *, now: datetime) -> list[datetime]:
    """Return the next three ticks, in the schedule's time zone."""
    return [tick.astimezone(schedule.zone) for tick in islice(ticks(schedule, after=now), _TICKS)]


def described(trigger: Trigger, *, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield what a trigger does, as pairs of a heading and a phrase."""
    if isinstance(trigger, EventTrigger):
        yield "when", _events(trigger)
        for path in trigger.match.body:
            if path.startswith("data."):
                yield "note", f"{path} of `body` is within a key `data` of the body, or else write {path[5:]}"
        yield "agency", trigger.agency_id
        yield "asks", when_asked(trigger.debounce)
    else:
        schedule = trigger.schedule
        yield "when", f"{schedule.cron} in {schedule.time_zone}"
        yield "next", ", ".join(f"{tick:%a %Y-%m-%d %H:%M %z}" for tick in next_ticks(schedule, now=now))
        agencies = schedule.agencies
        yield "agencies", ", ".join(map(str, agencies)) if isinstance(agencies, tuple) else f"of {agencies.query}"
        yield "missed", f"made up for within {duration_in_words(schedule.catch_up)}, the newest only"
    yield "for", "; ".join(_wanted(trigger))
    yield "as", trigger.requester


def when_asked(debounce: Debounce | None) -> str:
    """Return when the events of an agency become a run."""
    if debounce is None:
        return "at once, a run for each event"
    phrases = []
    if debounce.quiet_for is not None:
        phrases.append(f"once no event has come for {duration_in_words(debounce.quiet_for)}")
    else:
        phrases.append("at once")
    if debounce.latest is not None:
        phrases.append(f"at the latest {duration_in_words(debounce.latest)} after the first")
    if debounce.at_most_every is not None:
        phrases.append(f"at most once every {duration_in_words(debounce.at_most_every)} for an agency")
    return ", ".join(phrases)


def _events(trigger: EventTrigger) -> str:
    types = f" of type {' or '.join(trigger.match.type)}" if trigger.match.type else ""
    body = [
        f"{path} = {' or '.join(json.dumps(value, ensure_ascii=False) for value in values)}"
        for path, values in trigger.match.body.items()
    ]
    return f"an event on {trigger.topic}{types}{' with ' if body else ''}{' and '.join(body)}"


def _wanted(trigger: Trigger) -> Iterator[str]:
    yield f"datasets {', '.join(trigger.datasets)}" if trigger.datasets else "all datasets"
    for name, value in trigger.params.items():
        if not isinstance(value, FromEvent):
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
        elif value.required:
            yield f"{name} = the event's {value.path}"
        else:
            yield f"{name} = the event's {value.path}, or else {json.dumps(value.default, ensure_ascii=False)}"
    if isinstance(trigger, EventTrigger) and trigger.since == "event_time":
        yield "since = the time of the earliest event"
    if trigger.format is not None:
        yield f"format {trigger.format}"
    if trigger.priority:
        yield f"priority {trigger.priority}"
    if trigger.labels:
        yield f"labels {', '.join(f'{name}={text}' for name, text in trigger.labels.items())}"


# -- an example event ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """What an event would do to one trigger: nothing, for a reason; become a dead letter; or ask for a run."""

    trigger: EventTrigger
    why_not: str | None = None
    error: InvalidEvent | None = None
    request: JobRequest | None = None
    """Without a run id, which names the window."""


def example_records(text: str, triggers: tuple[EventTrigger, ...], *, now: datetime) -> list[Record]:
    """
    Return an example event as the record of each topic that it may stand for.

    `text` is JSON: a CloudEvent in structured mode, a Kafka message as
    `{"topic": …, "key": …, "headers": {…}, "value": …}`, or a plain body. Raises InvalidRequest.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The example event isn't JSON: {error}.") from None
    topics = list(dict.fromkeys(trigger.topic for trigger in triggers))
    record = Record("", 0, 0, int(now.timestamp() * 1000), None, text.encode(), ())
    if isinstance(document, dict) and "specversion" in document:
        record = replace(record, headers=(("content-type", b"application/cloudevents+json"),))
    elif isinstance(document, dict) and document and document.keys() <= _MESSAGE_KEYS:
        record = _message(record, document)
        topics = [document["topic"]] if "topic" in document else topics
    return [replace(record, topic=topic) for topic in topics]


_MESSAGE_KEYS = {"topic", "key", "headers", "value"}


def _message(record: Record, document: Mapping[str, Any]) -> Record:
    headers, value, key = document.get("headers") or {}, document.get("value"), document.get("key")
    if not isinstance(headers, dict) or not isinstance(document.get("topic", ""), str):
        raise InvalidRequest("The example event isn't a Kafka message: `topic` must be text, and `headers` an object.")
    try:
        return replace(
            record,
            topic=document.get("topic", "").encode().decode(),
            key=_bytes(key),
            value=None if value is None else value.encode() if isinstance(value, str) else json.dumps(value).encode(),
            headers=tuple((name.encode().decode(), _bytes(text)) for name, text in headers.items()),
        )
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The example event has text that isn't Unicode: an escape such as \\ud800, alone. Correct it."
        ) from None


def _bytes(text: Any) -> bytes | None:
    return None if text is None else str(text).encode()


def tried(record: Record, trigger: EventTrigger, *, now: datetime, terms: Terms = NO_TERMS, topics: int = 1) -> Trial:
    """
    Return what a record would do to a trigger. `terms` are those of the job config, if known, and `topics` the
    number of topics that the example may stand for.
    """
    if record.topic != trigger.topic:
        return Trial(trigger, why_not=f"it is on {record.topic}, not {trigger.topic}")
    try:
        event = read_event(record)
        why_not = mismatch(event, trigger)
        if why_not is not None:
            return Trial(trigger, why_not=why_not)
        found = occurrence(event, trigger, now=now, terms=terms)
    except InvalidEvent as error:
        if topics > 1:
            which = f'If it is of another topic than {trigger.topic}, name that: {{"topic": …, "value": …}}.'
            error = InvalidEvent(f"{error} {which}")
        return Trial(trigger, error=error)
    request = request_of_event(trigger, found, window="", now=now)
    return Trial(trigger, request=request.model_copy(update={"run_id": None}))


def as_json(trigger: Trigger, *, now: datetime) -> dict[str, Any]:
    """Return a trigger as JSON, with its defaults, and the next ticks of a schedule."""
    document = trigger.model_dump(mode="json", by_alias=True) | {"requested_by": trigger.requester}
    if isinstance(trigger, ScheduleTrigger):
        document["next"] = [tick.isoformat() for tick in next_ticks(trigger.schedule, now=now)]
    return document
