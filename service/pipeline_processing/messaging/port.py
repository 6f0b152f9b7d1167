"""
What the core needs from Kafka, as small Protocols; `kafka/` and `memory/broker.py` implement them.

Every method may raise KafkaUnavailable (try again), AccessDenied, or TopicMissing, unless it says otherwise.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Headers = tuple[tuple[str, bytes | None], ...]
"""In the order in which they were sent. A name may be there twice, and a value may be missing."""

Offsets = Mapping[int, int]
"""Partition → offset."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message as a topic holds it, byte for byte."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """Since 1970, as the producer or the broker set it; -1 if neither did."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)

    def header(self, name: str) -> bytes | None:
        """The last header of that name, whatever its case."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to be sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
    """Now, if None."""

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    named = sum(len(name.encode()) + len(value or b"") for name, value in headers)
    return len(key or b"") + len(value or b"") + named


class Events(Protocol):
    """Sends messages. May be used by several tasks at once."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """
        Send all of these, those of one key in order. Returns when all in-sync replicas have stored every message.

        After an error some of them may have been sent: the caller sees to it that repeating is harmless. Raises
        MessageRefused when the broker has stored all but those that it refuses for good, and MessageTooLarge if the
        first of these is too large.
        """


class RequestStream(Protocol):
    """The requests topic, read as one member of the consumer group, by one task."""

    async def poll(self) -> list[Record]:
        """
        The next records, in order within each partition; none after a moment without any.

        Don't cancel it: the member could stay in the group without reading anything.
        """

    async def commit(self) -> None:
        """
        Commit the offsets of all records that `poll` has returned. Records of partitions that were reassigned
        meanwhile are left to the new owner, which reads them again.
        """

    async def lag(self) -> int:
        """Number of records after those that `poll` has returned, in the partitions assigned to this member."""


class Topics(Protocol):
    """Reads topics without joining a group."""

    async def ensure(self) -> None:
        """Create the topics of this service that are missing, if it may. Raises TopicMissing if it may not."""

    async def ends(self, topic: str) -> Offsets:
        """Partition → offset after its last record."""

    async def offsets_at(self, topic: str, moment: datetime) -> Offsets:
        """Partition → offset of its first record of `moment` or later; the end if there is none."""

    async def committed(self, topic: str) -> Offsets:
        """Partition → offset that the consumer group has committed; 0 if none."""

    def read(self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None) -> AsyncIterator[Record]:
        """
        The records from `start` (the oldest by default) up to, but not including, `stop` (the current end), in order
        within each partition. Records that retention has removed are skipped.
        """

    def following(self, topics: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Records that are sent after the block was entered, without end."""
