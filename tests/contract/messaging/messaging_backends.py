"""The Kafkas that one suite runs against, what tests do behind their backs, and how they read."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol
from uuid import uuid4

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Offsets, Outgoing, Record, RequestStream, Topics
from pipeline_processing.settings.settings import KafkaSettings
from tests.memory.broker import MemoryBroker

PARTITIONS = 3
SECONDS = 30.0
"""Longer than anything here takes: the rest of the time is spent on failing."""


class Backend(Protocol):
    """Kafka, with topics and a group of this test's own."""

    requests: str
    other: str
    events: Events
    topics: Topics

    def subscribe(self) -> AbstractAsyncContextManager[RequestStream]:
        """One more member of the group, named `ours:1`."""

    async def expire(self, partition: int, *, before: int) -> None:
        """Remove the requests before this offset, as retention does."""

    async def delete_requests(self) -> None:
        """Remove the requests topic."""

    async def create_requests(self) -> None:
        """Make it anew."""

    async def add_partitions(self, total: int) -> None:
        """Have the requests topic have so many from now on."""


class MemoryBackend:
    def __init__(self) -> None:
        self.requests, self.other = "requests", "other"
        self.broker = MemoryBroker(clock=SystemClock(), topics=[self.requests, self.other], partitions=PARTITIONS)
        self.events: Events = self.broker
        self.topics: Topics = self.broker

    def subscribe(self) -> AbstractAsyncContextManager[RequestStream]:
        return self.broker.subscribe(self.requests, worker="ours:1")

    async def expire(self, partition: int, *, before: int) -> None:
        self.broker.partition(self.requests, partition).expire(before)

    async def delete_requests(self) -> None:
        self.broker.delete(self.requests)

    async def create_requests(self) -> None:
        self.broker.create(self.requests)

    async def add_partitions(self, total: int) -> None:
        self.broker.add_partitions(self.requests, total)


class KafkaBackend:
    def __init__(self, settings: KafkaSettings, events: Events) -> None:
        self.settings = settings
        self.requests, self.other = settings.requests_topic, settings.completions_topic
        self.events = events
        self.topics: Topics = KafkaTopics(settings=settings)
        self._incarnation = Incarnation()

    def subscribe(self) -> AbstractAsyncContextManager[RequestStream]:
        return KafkaRequests(settings=self.settings, incarnation=self._incarnation, worker="ours:1")

    async def expire(self, partition: int, *, before: int) -> None:
        async with self._admin() as admin:
            await admin.delete_records({TopicPartition(self.requests, partition): RecordsToDelete(before)})

    async def delete_requests(self) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([self.requests])

    async def create_requests(self) -> None:
        async with self._admin() as admin:

            async def created() -> bool:
                answer = await admin.create_topics([NewTopic(self.requests, PARTITIONS, 1)])
                return bool(answer.topic_errors[0][1] == 0)  # until then it is still being deleted

            await until(created)

    async def add_partitions(self, total: int) -> None:
        async with self._admin() as admin:
            await admin.create_partitions({self.requests: NewPartitions(total)})

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=list(self.settings.bootstrap_servers))
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


def own_settings(bootstrap_servers: str) -> KafkaSettings:
    """Topics and a group that nobody else uses."""
    name = uuid4().hex
    return KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        group_id=name,
        partitions=PARTITIONS,
        **{f"{topic}_topic": f"{name}.{topic}" for topic in ("requests", "completions", "progress", "dead_letters")},
    )


def message(topic: str, number: int, *, keys: int = 10) -> Outgoing:
    return Outgoing(topic, str(number % keys).encode(), str(number).encode(), (("n", b"%d" % number),))


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value or b"-1") for record in records]


async def take(stream: RequestStream, count: int) -> list[Record]:
    """So many records, and not one more."""
    records: list[Record] = []
    async with asyncio.timeout(SECONDS):
        while len(records) < count:
            records += await stream.poll()
    assert len(records) == count
    return records


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until it holds."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)  # between two looks: nothing tells us of a change at the brokers


async def settled(backend: Backend) -> bool:
    """Whether the group has nothing left to do."""
    ends: Offsets = await backend.topics.ends(backend.requests)
    return ends == await backend.topics.committed(backend.requests)


@contextmanager
def nothing_left() -> Iterator[None]:
    """
    The block leaves no task and no connection behind, and no complaint of aiokafka's about one.

    For use while no other client is at work.
    """
    before = asyncio.all_tasks()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
        gc.collect()
    # One that is cancelled already is gone with the next turn of the loop.
    assert [task for task in asyncio.all_tasks() - before if not task.cancelling()] == []
