"""Telling an outage from a quiet hour."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition

from pipeline_processing.messaging.kafka.errors import Where, translated
from pipeline_processing.messaging.kafka.metadata import partitions_of

_PATIENCE_SECONDS = 5.0
_PROBE_SECONDS = 2.0


class Silence:
    """
    How long the brokers have said nothing to a consumer.

    aiokafka tries again in the background for ever, and in an outage gives no records, as in a quiet hour. But brokers
    answer a fetch of nothing twice a second, too.
    """

    def __init__(self, consumer: Any, *, where: Where, topics: Sequence[str]) -> None:
        self._consumer = consumer
        self._where = where
        self._topics = topics
        self._heard: dict[TopicPartition, int | None] = {}
        self._heard_at = self._now()

    @property
    def seconds(self) -> float:
        """Since they were last heard of."""
        return self._now() - self._heard_at

    async def check(self) -> None:
        """
        Raise KafkaUnavailable if they have said nothing for 5 s, and don't answer within 2 s when asked; or
        TopicMissing if that is why.
        """
        mine = self._consumer.assignment()
        heard = {at: self._consumer.last_poll_timestamp(at) for at in mine}
        if heard != self._heard:
            self._heard = heard
            self.broken()
        if self.seconds < _PATIENCE_SECONDS:
            return
        there = await partitions_of(self._consumer._client, self._topics, where=self._where, seconds=_PROBE_SECONDS)
        with translated(self._where):
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._consumer.end_offsets(mine or there)
        self.broken()

    def broken(self) -> None:
        """They have been heard just now."""
        self._heard_at = self._now()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
