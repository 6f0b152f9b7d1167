"""Shared by all readers of topics: records, positions, and telling an outage from a lack of messages."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition

from pipeline_processing.messaging.kafka.errors import Where, answered
from pipeline_processing.messaging.kafka.metadata import partitions_of
from pipeline_processing.messaging.port import Record

_SILENT_SECONDS = 5.0
_PROBE_SECONDS = 2.0


def record_of(message: Any) -> Record:
    """Convert a ConsumerRecord to a Record."""
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=message.timestamp,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers),
    )


def positions_of(consumer: Any) -> dict[TopicPartition, int]:
    """
    Return the offset of the next record to read from each assigned partition.

    Uses aiokafka's private attributes, because its public method waits for a rebalance to end.
    """
    assignment = consumer._subscription.subscription.assignment
    return {} if assignment is None else {at: each.offset for at, each in assignment.all_consumed_offsets().items()}


class Silence:
    """
    Detects that the brokers no longer answer a consumer.

    In an outage, aiokafka retries in the background forever and returns no records, just as when there are none. But
    when there are none, brokers answer an empty fetch every second or sooner.
    """

    def __init__(self, consumer: Any, *, where: Where, topics: Sequence[str]) -> None:
        self._consumer = consumer
        self._where = where
        self._topics = topics
        self._heard: dict[TopicPartition, int | None] = {}
        self._heard_at = asyncio.get_running_loop().time()

    async def check(self) -> None:
        """
        Query the brokers if they have been silent for 5 s.

        Raises KafkaUnavailable if they don't answer within 2 s, or TopicMissing if the topic was deleted.
        """
        now = asyncio.get_running_loop().time()
        mine = self._consumer.assignment()
        heard = {at: self._consumer.last_poll_timestamp(at) for at in mine}
        if heard != self._heard:
            self._heard, self._heard_at = heard, now
        if now - self._heard_at < _SILENT_SECONDS:
            return
        there = await partitions_of(self._consumer._client, self._topics, where=self._where, seconds=_PROBE_SECONDS)
        await answered(self._consumer.end_offsets(mine or there), where=self._where, seconds=_PROBE_SECONDS)
        self._heard_at = asyncio.get_running_loop().time()
