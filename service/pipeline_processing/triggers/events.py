"""Upstream events, read from Kafka records. `matching.py` compares them with triggers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from pipeline_processing.errors import InvalidEvent, InvalidJson
from pipeline_processing.messaging.cloud_events import (
    CloudEvent,
    Envelope,
    first_bytes,
    is_structured,
    opened,
    parse_json,
    texts,
)
from pipeline_processing.messaging.port import Record

MAX_EVENT_BYTES = 1024 * 1024
"""Limit of an event's value. A parsed value takes many times its size."""

MAX_AHEAD = timedelta(minutes=5)
"""How far an event's time may lie in the future: clocks differ a little."""


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

        Raises InvalidEvent for a `time` that doesn't exist, or lies more than `MAX_AHEAD` in the future, and for a
        timestamp that isn't in milliseconds.
        """
        written = self.cloud_event.time if self.cloud_event is not None else None
        if written is None:
            return min(now, self._sent_at(now))
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

    def _sent_at(self, now: datetime) -> datetime:
        stamp = self.record.timestamp_ms
        try:
            return now if stamp < 0 else datetime.fromtimestamp(stamp / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            raise InvalidEvent(
                f"The event has no `time`, and its message's timestamp, {stamp}, lies after the year 9999. Let the "
                "sender set it in milliseconds since 1970."
            ) from None

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
        raise InvalidEvent(f"The event's value isn't {what}: {error}.{first_bytes(value)}") from None


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
