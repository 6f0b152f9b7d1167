"""Dead letters: unusable requests, kept unchanged with the reason, and a store for letters that Kafka refuses."""

import re
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, Self

from pipeline_processing.errors import RequestError
from pipeline_processing.messaging.port import Headers, Outgoing, Record
from pipeline_processing.telemetry.masking import Mask

_FIRST_HEADERS = ("dlq_reason", "dlq_message", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_at")
"""The headers of letters in the first version of the format."""
_HEADERS = (*_FIRST_HEADERS, "dlq_timestamp")
_KEY = "dlq_key"
"""Present only if the letter's key isn't the request's; holds the reason."""
_NULL_KEY, _LEFT_OUT_KEY = b"null", b"left out"
_LEFT_OUT = b" Value and headers are left out here, for their size: they are at dlq_offset of dlq_topic."
STORED = -1
"""The partition of letters in the run history's database."""
_LONGEST_KEPT = 1_000
"""Bytes of a key or header."""
_LONGEST_MESSAGE = 4_000
"""Characters. A request can have a thousand faults."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_TIMESTAMP = re.compile(r"-?[0-9]{1,18}")


def dead_letter(record: Record, error: RequestError, *, topic: str, now: datetime, mask: Mask) -> Outgoing:
    """
    Return the record as a dead letter: its unchanged key, value and headers, then headers with the masked reason.

    A letter always has a key, since a compacted topic refuses a message without one.
    """
    message = mask.text(str(error))
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 2]} …"
    place = (record.topic, str(record.partition), str(record.offset))
    added = (error.kind, message, *place, now.isoformat(), str(record.timestamp_ms))
    headers = tuple(zip(_HEADERS, (text.encode(errors="backslashreplace") for text in added), strict=True))
    if record.key is None:
        headers += ((_KEY, _NULL_KEY),)
    # The letter gets a new timestamp: with an old request's, retention might remove it at once.
    return Outgoing(
        topic=topic,
        key=f"{record.partition}-{record.offset}".encode() if record.key is None else record.key,
        value=record.value,
        headers=record.headers + headers,
    )


def without_value(letter: Outgoing) -> Outgoing:
    """Return a dead letter without the request's value and headers, for use when the broker refuses its size."""
    count = _added(letter.headers)
    original, added = letter.headers[:-count], letter.headers[-count:]
    traced = [
        (name, value)
        for name, value in original
        if name.lower() == "traceparent" and value is not None and len(value) <= _LONGEST_KEPT
    ]
    noted = [(name, (value or b"") + _LEFT_OUT if name == "dlq_message" else value) for name, value in added]
    key = letter.key
    if key is not None and len(key) > _LONGEST_KEPT:
        values = {name: value or b"" for name, value in added}
        key = values["dlq_partition"] + b"-" + values["dlq_offset"]
        noted.append((_KEY, _LEFT_OUT_KEY))
    return replace(letter, key=key, value=None, headers=(*traced[-1:], *noted))


def _added(headers: Headers) -> int:
    """Return the number of trailing headers that make this a dead letter; 0 if it isn't one."""
    names = tuple(name for name, _ in headers[-len(_HEADERS) - 1 :])
    for ours in ((*_HEADERS, _KEY), _HEADERS, _FIRST_HEADERS):
        if names[-len(ours) :] == ours:
            return len(ours)
    return 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, from its topic or from the run history's database."""

    record: Record
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    at: str
    timestamp_ms: int | None
    """The request's timestamp; None for a letter in the first version of the format."""

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """Parse a record. Return None if it isn't a dead letter."""
        added = dict(record.headers[-count:]) if (count := _added(record.headers)) else {}
        texts = {name: (value or b"").decode(errors="replace") for name, value in added.items()}
        partition, offset = texts.get("dlq_partition", ""), texts.get("dlq_offset", "")
        if not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
            return None
        timestamp = texts.get("dlq_timestamp", "")
        return cls(
            record=record,
            reason=texts["dlq_reason"],
            message=texts["dlq_message"],
            topic=texts["dlq_topic"],
            partition=int(partition),
            offset=int(offset),
            at=texts["dlq_at"],
            timestamp_ms=int(timestamp) if _TIMESTAMP.fullmatch(timestamp) else None,
        )

    @property
    def place(self) -> str:
        """`partition:offset` in the dead-letter topic, or `db:number` in the database."""
        return f"{'db' if self.record.partition == STORED else self.record.partition}:{self.record.offset}"

    @property
    def left_out(self) -> bool:
        """Whether the request's value and headers are left out."""
        return self.record.value is None and self.message.encode().endswith(_LEFT_OUT)

    @property
    def key_left_out(self) -> bool:
        """Whether the request's key is left out because of its length."""
        return self.record.headers[-1] == (_KEY, _LEFT_OUT_KEY)

    @property
    def original_key(self) -> bytes | None:
        """The request's key; None if it had none or it is left out."""
        return None if self.record.headers[-1][0] == _KEY else self.record.key

    @property
    def original_headers(self) -> Headers:
        """The request's headers."""
        return self.record.headers[: -_added(self.record.headers)]

    def original(self, *, timestamp_ms: int) -> Record:
        """
        Return the original request. `timestamp_ms` is used if the letter doesn't have the request's timestamp, from
        which the run id of a request without one is derived.
        """
        return replace(
            self.record,
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            timestamp_ms=timestamp_ms if self.timestamp_ms is None else self.timestamp_ms,
            key=self.original_key,
            headers=self.original_headers,
        )


class KeepsLetters(Protocol):
    """Stores dead letters that Kafka permanently refuses."""

    async def keep(self, letters: Sequence[Outgoing]) -> None:
        """
        Store these letters, all or none, except for requests that have a stored letter already.

        Raises HistoryUnavailable.
        """


class LetterStore(KeepsLetters, Protocol):
    """
    Stores dead letters that Kafka permanently refuses.

    They are numbered from 1 in the run history's database. As records, they have the partition `STORED` and their
    number as the offset. All methods may raise HistoryUnavailable.
    """

    def kept(self, *, since: datetime | None = None) -> AsyncGenerator[Record, None]:
        """Yield the letters stored since then, or all, newest first."""

    async def numbered(self, numbers: Collection[int]) -> dict[int, Record]:
        """Return those of these letters that exist, by number."""
