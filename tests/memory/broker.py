"""An in-memory Kafka for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from zlib import crc32

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import KafkaUnavailable, MessageRefused, MessageTooLarge, TopicMissing
from pipeline_processing.messaging.port import Member, Offsets, Outgoing, Record, RequestStream

_MAX_RECORDS = 500
_POLL_SECONDS = 0.3


class MemoryPartition:
    """One partition of a topic: records with rising offsets, possibly with gaps."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.records: list[Record] = []
        self.start = 0
        self.end = 0

    def append(self, message: Outgoing, *, timestamp_ms: int) -> Record:
        """Store a message."""
        record = Record(
            topic=self.topic,
            partition=self.number,
            offset=self.end,
            timestamp_ms=timestamp_ms,
            key=message.key,
            value=message.value,
            headers=message.headers,
        )
        self.records.append(record)
        self.end += 1
        return record

    def skip(self) -> None:
        """Use up an offset without a record, as a transaction marker does."""
        self.end += 1

    def expire(self, start: int) -> None:
        """Remove the records before this offset, as retention does."""
        self.start = start
        self.records = [record for record in self.records if record.offset >= start]

    def between(self, first: int, after: int) -> list[Record]:
        """Return the records from `first` up to, but excluding, `after`."""
        return [record for record in self.records if first <= record.offset < after]


class MemoryMember:
    """
    A `RequestStream`: a member of the only consumer group.

    As in Kafka, a rebalance takes all its partitions away, and uncommitted records are delivered again.
    """

    def __init__(self, broker: "MemoryBroker", topic: str, worker: str | None) -> None:
        self.topic = topic
        self.worker = worker
        self._broker = broker
        self._positions: dict[MemoryPartition, int] = {}
        self._given: dict[int, int] = {}

    def assign(self, positions: Mapping[MemoryPartition, int]) -> None:
        """Own exactly these partitions, and read each from its position."""
        self._positions = dict(positions)
        self._given.clear()

    async def poll(self) -> list[Record]:
        self._broker.check(self.topic)
        if not (records := self._next()):
            await self._broker.change(seconds=_POLL_SECONDS)
            self._broker.check(self.topic)
            records = self._next()
        return records

    async def commit(self) -> None:
        self._broker.check(self.topic)
        self._broker.committed_by_member(self.topic, self._given)

    async def lag(self) -> int:
        self._broker.check(self.topic)
        return sum(max(0, each.end - position) for each, position in self._positions.items())

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(sorted(each.number for each in self._positions))

    def _next(self) -> list[Record]:
        records: list[Record] = []
        for partition, position in self._positions.items():
            found = partition.between(position, partition.end)
            room = _MAX_RECORDS - len(records)
            after = partition.end if len(found) <= room else found[room].offset
            records += found[:room]
            self._positions[partition] = self._given[partition.number] = after
        return records


class MemoryBroker:
    """
    `Events` and `Topics`; `subscribe` returns a `RequestStream` to each member of the group.

    It only uses asyncio's timers, so it works in virtual time, too. `topics` exist from the start. `ensure` creates
    those of `creates`, or reports them as missing unless `may_create` is set.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        topics: Iterable[str] = (),
        creates: Iterable[str] = (),
        may_create: bool = True,
        partitions: int = 6,
        max_message_bytes: int = 1_048_588,
    ) -> None:
        self.lost_replies = 0
        """The number of next calls of `send` that store their messages but fail."""
        self.max_message_bytes = max_message_bytes
        self.refuses: Callable[[Outgoing], bool] = lambda message: False
        """Whether to refuse a message for good, as a compacted topic refuses one without a key."""
        self._outage = False
        self._clock = clock
        self._creates = tuple(creates)
        self._may_create = may_create
        self._count = partitions
        self._topics: dict[str, list[MemoryPartition]] = {}
        self._committed: dict[str, dict[int, int]] = {}
        self._members: list[MemoryMember] = []
        self._waiting: list[asyncio.Future[None]] = []
        for topic in topics:
            self.create(topic)

    # -- for tests -------------------------------------------------------------------------------

    @property
    def outage(self) -> bool:
        """While set, every call fails, including those in progress."""
        return self._outage

    @outage.setter
    def outage(self, outage: bool) -> None:
        self._outage = outage
        self._wake()

    def create(self, topic: str, *, partitions: int | None = None) -> None:
        """Create a topic."""
        self._topics[topic] = [MemoryPartition(topic, number) for number in range(partitions or self._count)]
        self.rebalance(topic)

    def delete(self, topic: str) -> None:
        """Delete a topic, with its records and committed offsets."""
        del self._topics[topic]
        self._committed.pop(topic, None)
        self._wake()

    def add_partitions(self, topic: str, total: int) -> None:
        """Raise the number of a topic's partitions."""
        there = self._topics[topic]
        there += [MemoryPartition(topic, number) for number in range(len(there), total)]
        self.rebalance(topic)

    def records(self, topic: str) -> list[Record]:
        """Return all records of a topic, by partition."""
        return [record for partition in self._topics[topic] for record in partition.records]

    def partition(self, topic: str, number: int) -> MemoryPartition:
        """Return a partition, which a test may change."""
        return self._topics[topic][number]

    def put(self, message: Outgoing) -> Record:
        """Store a message, even in an outage."""
        partitions = self._topics[message.topic]
        partition = partitions[crc32(message.key or b"") % len(partitions)]
        now_ms = round(self._clock.now().timestamp() * 1000)
        record = partition.append(
            message, timestamp_ms=now_ms if message.timestamp_ms is None else message.timestamp_ms
        )
        self._wake()
        return record

    def rebalance(self, topic: str | None = None) -> None:
        """Reassign all partitions (of one topic), as when a member joins or leaves."""
        for member in self._members:
            if topic not in (None, member.topic):
                continue
            partitions = self._topics.get(member.topic, [])
            others = [each for each in self._members if each.topic == member.topic]
            mine = partitions[others.index(member) :: len(others)]
            committed = self._committed.get(member.topic, {})
            member.assign({each: committed.get(each.number, each.start) for each in mine})
        self._wake()

    # -- the group -------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(self, topic: str, *, worker: str | None = None) -> AsyncIterator[RequestStream]:
        """Be a member of the group inside the block, with that name."""
        self.check(topic)
        member = MemoryMember(self, topic, worker)
        self._members.append(member)
        self.rebalance()
        try:
            yield member
        finally:
            self._members.remove(member)
            self.rebalance()

    def committed_by_member(self, topic: str, offsets: Offsets) -> None:
        """Commit offsets, for a member."""
        self._committed.setdefault(topic, {}).update(offsets)

    # -- Events ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)
        self.check(*{message.topic for message in messages})
        refused = [each for each in messages if self.refuses(each) or _size(each) > self.max_message_bytes]
        for message in messages:
            if message not in refused:
                self.put(message)
        if self.lost_replies:
            self.lost_replies -= 1
            raise KafkaUnavailable("Kafka in memory has stored the messages, and its reply was lost.")
        if refused:
            first, size = refused[0], _size(refused[0])
            if self.refuses(first):
                raise MessageRefused(f"Kafka in memory refuses a message to the topic {first.topic} for good.")
            raise MessageTooLarge(
                f"Kafka in memory refuses a message to the topic {first.topic} because of its size: it has "
                f"{size:,} bytes, and {self.max_message_bytes:,} are allowed."
            )

    # -- Topics ----------------------------------------------------------------------------------

    async def ensure(self) -> None:
        self.check()
        missing = [topic for topic in self._creates if topic not in self._topics]
        if missing and not self._may_create:
            raise TopicMissing(missing)
        for topic in missing:
            self.create(topic)

    async def ends(self, topic: str) -> Offsets:
        self.check(topic)
        return {each.number: each.end for each in self._topics[topic]}

    async def offsets_at(self, topic: str, moment: datetime) -> Offsets:
        self.check(topic)
        milliseconds = moment.timestamp() * 1000
        return {
            each.number: next((one.offset for one in each.records if one.timestamp_ms >= milliseconds), each.end)
            for each in self._topics[topic]
        }

    async def committed(self, topic: str) -> Offsets:
        self.check(topic)
        committed = self._committed.get(topic, {})
        return {each.number: committed.get(each.number, 0) for each in self._topics[topic]}

    async def members(self, topic: str) -> list[Member]:
        self.check()
        return [Member(each.worker, "memory", each.partitions) for each in self._members if each.topic == topic]

    async def read(
        self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None
    ) -> AsyncIterator[Record]:
        self.check(topic)
        stop = await self.ends(topic) if stop is None else stop
        for each in self._topics[topic]:
            first, after = (start or {}).get(each.number, 0), stop.get(each.number, each.end)
            for record in each.between(first, after):
                self.check()
                yield record

    @asynccontextmanager
    async def following(self, topics: Sequence[str]) -> AsyncIterator[AsyncIterator[Record]]:
        self.check(*topics)
        yield self._follow(topics, {each: each.end for topic in topics for each in self._topics[topic]})

    async def _follow(self, topics: Sequence[str], positions: dict[MemoryPartition, int]) -> AsyncIterator[Record]:
        while True:
            self.check(*topics)
            found = False
            for each in [each for topic in topics for each in self._topics[topic]]:
                for record in each.between(positions.get(each, 0), each.end):
                    self.check()
                    yield record
                    positions[each] = record.offset + 1
                    found = True
            if not found:
                await self.change()

    # -- inside ----------------------------------------------------------------------------------

    def check(self, *topics: str) -> None:
        """Raises KafkaUnavailable in an outage, and TopicMissing for a missing topic. Every call checks this first."""
        if self.outage:
            raise KafkaUnavailable("Kafka in memory can't be reached: this test has an outage.")
        if missing := sorted(set(topics) - self._topics.keys()):
            raise TopicMissing(missing)

    async def change(self, *, seconds: float | None = None) -> None:
        """Wait for the next change, at most this long."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


def _size(message: Outgoing) -> int:
    headers = sum(len(name.encode()) + len(value or b"") for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers
