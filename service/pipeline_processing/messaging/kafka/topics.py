"""Read topics without joining a group."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.creation import ensure_topics
from pipeline_processing.messaging.kafka.errors import Where, answered, translated
from pipeline_processing.messaging.kafka.group import members_of
from pipeline_processing.messaging.kafka.lifecycle import running
from pipeline_processing.messaging.kafka.metadata import MAX_AGE_MS, partitions_of
from pipeline_processing.messaging.kafka.reading import Silence, positions_of, record_of
from pipeline_processing.messaging.port import Member, Offsets, Record
from pipeline_processing.messaging.service_topics import ServiceTopic
from pipeline_processing.settings.settings import KafkaSettings

_LOOK_SECONDS = 0.3
_MAX_RECORDS = 500
_FETCH_BYTES = 8 * 1024 * 1024
_NEW_PARTITIONS_SECONDS = MAX_AGE_MS / 1000


class KafkaTopics:
    """
    `Topics` on Kafka. Each call opens and closes its own connection.

    Records of a transaction become visible when it is committed. A topic ends before its first open transaction.
    """

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        others: Sequence[ServiceTopic] = (),
        answer_seconds: float = 10.0,
    ) -> None:
        """
        `others`: topics to create besides those of the settings. `answer_seconds` limits each request, and how long
        brokers may send nothing while there is more to read.
        """
        self._connection = Connection.of(settings)
        self._where = self._connection.where
        self._settings = settings
        self._group = settings.group_id
        self._others = others
        self._answer_seconds = answer_seconds

    async def ensure(self) -> None:
        """See `Topics`. Safe to run in several processes at once."""
        await ensure_topics(self._settings, others=self._others)

    async def ends(self, topic: str) -> Offsets:
        async with self._consumer() as consumer:
            ends = await self._ends(consumer, await self._partitions(consumer, [topic]))
        return {at.partition: end for at, end in ends.items()}

    async def offsets_at(self, topic: str, moment: datetime) -> Offsets:
        # Timestamps are in milliseconds. Rounding `moment` down would include records before it.
        milliseconds = max(0, math.ceil(moment.timestamp() * 1000))
        async with self._consumer() as consumer:
            partitions = await self._partitions(consumer, [topic])
            # Before the other request, so that records sent between the two aren't skipped.
            ends = await self._ends(consumer, partitions)
            found = await self._answer(consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds)))
        return {at.partition: ends[at] if found[at] is None else min(found[at].offset, ends[at]) for at in partitions}

    async def committed(self, topic: str) -> Offsets:
        async with self._consumer(group_id=self._group) as consumer:
            partitions = await self._partitions(consumer, [topic])
            offsets = await self._answer(asyncio.gather(*map(consumer.committed, partitions)))
            ends = await self._ends(consumer, partitions)
        # An offset beyond the end was committed for an earlier topic with that name.
        committed = zip(partitions, offsets, strict=True)
        return {at.partition: offset if offset is not None and offset <= ends[at] else 0 for at, offset in committed}

    async def members(self, topic: str) -> list[Member]:
        return await members_of(self._group, topic, connection=self._connection, seconds=self._answer_seconds)

    async def read(
        self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None
    ) -> AsyncIterator[Record]:
        """See `Topics`. Also raises KafkaUnavailable if nothing arrives for `answer_seconds` before the end."""
        async with self._consumer() as consumer:
            partitions = await self._partitions(consumer, [topic])
            ends = await self._ends(consumer, partitions)
            oldest = await self._answer(consumer.beginning_offsets(partitions))
            first = {at: max(oldest[at], (start or {}).get(at.partition, 0)) for at in partitions}
            # Never beyond the end, to avoid waiting for records that don't exist.
            after = {at: min(ends[at], (stop or {}).get(at.partition, ends[at])) for at in partitions}
            left = {at: after[at] for at in partitions if first[at] < after[at]}
            consumer.assign(list(left))
            for at in left:
                consumer.seek(at, first[at])
            positions, silent = dict(first), 0.0
            while left:
                asked_at = asyncio.get_running_loop().time()
                batches = await self._fetch(consumer)
                silent += asyncio.get_running_loop().time() - asked_at
                if (reached := positions_of(consumer)) != positions:
                    positions, silent = reached, 0.0
                elif silent > self._answer_seconds:
                    raise KafkaUnavailable(
                        f"Kafka at {self._where.brokers} has sent nothing of {topic} for {silent:.0f} s, though there "
                        "is more to read. Check that all its partitions have a leader."
                    )
                for at, messages in batches.items():
                    for message in messages:
                        if message.offset < after[at]:
                            yield record_of(message)
                # Compares positions, as the last offsets may belong to transaction markers or compacted records.
                for at in [at for at in left if positions.get(at, 0) >= left[at]]:
                    del left[at]
                    consumer.pause(at)

    @asynccontextmanager
    async def following(self, topics: Sequence[str]) -> AsyncIterator[AsyncIterator[Record]]:
        """See `Topics`. Partitions that are added later are read from their beginning."""
        async with self._consumer() as consumer:
            partitions = await self._partitions(consumer, topics)
            ends = await self._ends(consumer, partitions)
            consumer.assign(partitions)
            for at in partitions:
                consumer.seek(at, ends[at])
            yield self._follow(consumer, topics)

    async def _follow(self, consumer: Any, topics: Sequence[str]) -> AsyncIterator[Record]:
        silence = Silence(consumer, where=self._where, topics=topics)
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            if loop.time() - looked_at >= _NEW_PARTITIONS_SECONDS:
                looked_at = loop.time()
                await self._follow_new(consumer, topics)
            batches = await self._fetch(consumer)
            for messages in batches.values():
                for message in messages:
                    yield record_of(message)
            if not batches:
                await silence.check()

    async def _follow_new(self, consumer: Any, topics: Sequence[str]) -> None:
        there = set(await self._partitions(consumer, topics))
        if there <= consumer.assignment():
            return
        positions = positions_of(consumer)
        consumer.assign(sorted(there))
        for at in there:
            consumer.seek(at, positions.get(at, 0))

    @asynccontextmanager
    async def _consumer(self, **options: object) -> AsyncIterator[Any]:
        consumer = AIOKafkaConsumer(
            **self._connection.options(),
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # if retention overtakes the reader
            isolation_level="read_committed",
            max_poll_records=_MAX_RECORDS,
            fetch_max_bytes=_FETCH_BYTES,
            request_timeout_ms=round(self._answer_seconds * 1000),
        )
        async with running(consumer, connection=self._connection):
            yield consumer

    async def _partitions(self, consumer: Any, topics: Sequence[str]) -> list[TopicPartition]:
        return await partitions_of(consumer._client, topics, where=self._where, seconds=self._answer_seconds)

    async def _ends(self, consumer: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await self._answer(consumer.end_offsets(partitions))
        return ends

    async def _answer(self, question: Awaitable[Any]) -> Any:
        where = Where(self._where.brokers, group=self._group)
        return await answered(question, where=where, seconds=self._answer_seconds)

    async def _fetch(self, consumer: Any) -> dict[TopicPartition, list[Any]]:
        with translated(self._where):
            batches: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=round(_LOOK_SECONDS * 1000))
        return batches
