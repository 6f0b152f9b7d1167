"""
What the core needs from Kafka, as small Protocols. `kafka/` implements them, and for tests `tests/memory/broker.py`.

Every method may raise KafkaUnavailable (try again), AccessDenied, or TopicMissing, unless it says otherwise.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Headers = tuple[tuple[str, bytes | None], ...]
"""Name and value, in the order of sending. Names may repeat, and values may be missing."""

Offsets = Mapping[int, int]
"""Partition → offset."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message as a topic holds it, byte for byte."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """Milliseconds since 1970, set by the producer or the broker; -1 if neither did."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)

    def header(self, name: str) -> bytes | None:
        """Return the last header with that name, ignoring case."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to be sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
    """None means now."""

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the consumer group."""

    worker: str | None
    """The worker's name, as in the run table; None while the group rebalances, or if it is another program."""
    host: str
    """Its address, as the brokers see it."""
    partitions: tuple[int, ...]
    """Those of the topic that it reads."""


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    named = sum(len(name.encode()) + len(value or b"") for name, value in headers)
    return len(key or b"") + len(value or b"") + named


class Events(Protocol):
    """Sends messages. Safe for concurrent use by several tasks."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """
        Send all messages, those with the same key in order. Returns when all in-sync replicas have stored them.

        After an error, some may have been sent, so it must be harmless to repeat the call. Raises MessageRefused if the
        broker has stored all but those that it permanently refuses, and MessageTooLarge if the first of these is too
        large.
        """


class RequestStream(Protocol):
    """The requests topic, read as one member of the consumer group, by one task."""

    async def poll(self) -> list[Record]:
        """
        Return the next records, in order within each partition; none if none arrive for a moment.

        Cancel this call only to leave the group: otherwise the member could stay there without reading anything.
        """

    async def commit(self) -> None:
        """
        Commit the offsets of all records that `poll` has returned. Partitions that were reassigned since are left to
        their new owner, which reads the records again.
        """

    async def lag(self) -> int:
        """Return how many records `poll` has yet to return, in the partitions assigned to this member."""


class Topics(Protocol):
    """Reads topics without joining a group."""

    async def ensure(self) -> None:
        """Create this service's missing topics. Raises TopicMissing if the settings don't allow that."""

    async def ends(self, topic: str) -> Offsets:
        """Return, by partition, the offset after the last record."""

    async def offsets_at(self, topic: str, moment: datetime) -> Offsets:
        """Return, by partition, the offset of the first record at or after `moment`, or the end if there is none."""

    async def committed(self, topic: str) -> Offsets:
        """Return, by partition, the offset that the consumer group has committed; 0 if none."""

    async def members(self, topic: str) -> list[Member]:
        """Return the members of the consumer group that read the topic."""

    def read(self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None) -> AsyncIterator[Record]:
        """
        Yield the records from `start` (default: the oldest) up to, but not including, `stop` (default: the current
        end), in order within each partition. Skips records that retention has removed.
        """

    def following(self, topics: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Yield the records that are sent after the block was entered, without end."""
