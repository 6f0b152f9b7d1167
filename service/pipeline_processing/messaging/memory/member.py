"""A member of the consumer group of a Kafka in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline_processing.messaging.memory.partition import MemoryPartition
from pipeline_processing.messaging.port import Record

if TYPE_CHECKING:
    from pipeline_processing.messaging.memory.broker import MemoryBroker

_MAX_RECORDS = 500
_MOMENT_SECONDS = 0.3


class MemoryMember:
    """A `RequestStream`. As with Kafka, a rebalance takes all its partitions, and what isn't committed comes again."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self.topic = topic
        self._broker = broker
        self._positions: dict[MemoryPartition, int] = {}
        self._given: dict[int, int] = {}

    def assign(self, positions: Mapping[MemoryPartition, int]) -> None:
        """Have these partitions, read from there on, and no others."""
        self._positions = dict(positions)
        self._given.clear()

    async def poll(self) -> list[Record]:
        """See `RequestStream`."""
        self._broker.check(self.topic)
        if not (records := self._next()):
            await self._broker.change(seconds=_MOMENT_SECONDS)
            self._broker.check(self.topic)
            records = self._next()
        return records

    async def commit(self) -> None:
        """See `RequestStream`."""
        self._broker.check(self.topic)
        self._broker.committed_by_member(self.topic, self._given)

    async def lag(self) -> int:
        """See `RequestStream`."""
        self._broker.check(self.topic)
        return sum(max(0, each.end - position) for each, position in self._positions.items())

    def _next(self) -> list[Record]:
        records: list[Record] = []
        for partition, position in self._positions.items():
            found = partition.between(position, partition.end)
            room = _MAX_RECORDS - len(records)
            after = partition.end if len(found) <= room else found[room].offset
            records += found[:room]
            self._positions[partition] = self._given[partition.number] = after
        return records
