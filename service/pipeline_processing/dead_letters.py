"""Requests that can't be used: put aside untouched, with the reason."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from pipeline_processing.errors import RequestError
from pipeline_processing.messaging import Headers, Outgoing, Record

_HEADERS = ("dlq_reason", "dlq_message", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_at")
_LEFT_OUT = b" Value and headers are left out here, for their size: they are at dlq_offset of dlq_topic."
_LONGEST_KEPT = 1_000
"""In bytes, of a key or header."""
_LONGEST_MESSAGE = 4_000
"""In characters: a request can be wrong in a thousand places."""
_NUMBER = re.compile(r"[0-9]{1,18}")


def dead_letter(record: Record, error: RequestError, *, topic: str, now: datetime) -> Outgoing:
    """The record as a dead letter: key, value and headers as they came, and the reason behind them."""
    message = str(error)
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 2]} …"
    added = (error.kind, message, record.topic, str(record.partition), str(record.offset), now.isoformat())
    headers = tuple(zip(_HEADERS, (text.encode(errors="backslashreplace") for text in added), strict=True))
    # With a time of its own: retention may already be done with that of an old request.
    return Outgoing(topic=topic, key=record.key, value=record.value, headers=record.headers + headers)


def without_value(letter: Outgoing) -> Outgoing:
    """What is left of a dead letter that the broker refuses for its size: the reason, and where to find the rest."""
    added = letter.headers[-len(_HEADERS) :]
    traced = [
        (name, value)
        for name, value in letter.headers[: -len(_HEADERS)]
        if name.lower() == "traceparent" and value is not None and len(value) <= _LONGEST_KEPT
    ]
    noted = [(name, (value or b"") + _LEFT_OUT if name == "dlq_message" else value) for name, value in added]
    key = letter.key if letter.key is not None and len(letter.key) <= _LONGEST_KEPT else None
    return replace(letter, key=key, value=None, headers=(*traced[-1:], *noted))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter as it stands in its topic."""

    record: Record
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    at: str

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """None for a record that isn't one."""
        added = record.headers[-len(_HEADERS) :]
        if tuple(name for name, _ in added) != _HEADERS:
            return None
        reason, message, topic, partition, offset, at = ((value or b"").decode(errors="replace") for _, value in added)
        if not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
            return None
        return cls(
            record=record,
            reason=reason,
            message=message,
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            at=at,
        )

    @property
    def place(self) -> str:
        """Where it stands in its own topic, as `partition:offset`."""
        return f"{self.record.partition}:{self.record.offset}"

    @property
    def left_out(self) -> bool:
        """Whether the request had a value and headers that this letter hasn't."""
        return self.record.value is None and self.message.encode().endswith(_LEFT_OUT)

    @property
    def original_headers(self) -> Headers:
        """The request's own."""
        return self.record.headers[: -len(_HEADERS)]

    def original(self, *, timestamp_ms: int) -> Record:
        """
        The request where it first stood. Its time isn't kept with a dead letter: `timestamp_ms` is what the topic
        that it came from says, and part of its run id, if it has no other.
        """
        return replace(
            self.record,
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            timestamp_ms=timestamp_ms,
            headers=self.original_headers,
        )
