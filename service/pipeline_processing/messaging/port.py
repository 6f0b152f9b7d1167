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
"""In the order in which they were sent; a name may stand there twice, and a value be missing."""

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
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

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


class Events(Protocol):
    """Sends messages. May be used by several tasks at once."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """
        Send all of these, those of one key in order; returns when every one is stored by all in-sync replicas.

        After an error some of them may have been sent: whoever repeats the call relies on what makes repetition
        harmless. Raises MessageRefused when the broker has taken all but those that it refuses for good; it is
        MessageTooLarge if the first of them is too large.
        """


class RequestStream(Protocol):
    """The requests topic, read as one member of the consumer group, by one task."""

    async def poll(self) -> list[Record]:
        """
        The next records, in order within each partition; none after a moment without any.

        Never cancel it: a broken-off poll can leave the member in the group without taking anything.
        """

    async def commit(self) -> None:
        """
        Say that all that `poll` has given is settled. What belongs to partitions that were taken away meanwhile is
        left to their new owner, who is given it again.
        """

    async def lag(self) -> int:
        """Records that the brokers have beyond what `poll` has given, over the partitions assigned to this member."""


class Topics(Protocol):
    """Looks into topics, outside of any group."""

    async def ensure(self) -> None:
        """Create the topics of this service that are missing, if it may. Raises TopicMissing if it may not."""

    async def ends(self, topic: str) -> Offsets:
        """The offset after the last record of each partition."""

    async def offsets_at(self, topic: str, moment: datetime) -> Offsets:
        """The first offset of each partition whose record's time is `moment` or later; the end if there is none."""

    async def committed(self, topic: str) -> Offsets:
        """What the consumer group has committed for each partition; 0 where it has committed nothing."""

    def read(self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None) -> AsyncIterator[Record]:
        """
        The records from `start` (the oldest there are) up to, but not including, `stop` (the end as of now), in order
        within each partition. Where `start` is older than what retention has left, from the oldest that there is.
        """

    def following(self, topics: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Records that are sent after the block was entered, as they come, without an end."""
