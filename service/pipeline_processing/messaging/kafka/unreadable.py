"""Skip a record that aiokafka can't decode, because it has a header whose name isn't UTF-8."""

from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from pipeline_processing.log import get_logger

log = get_logger(__name__)

_LOOK_MS = 100


class OneByOne:
    """
    Like `getmany`, but returns at most one record per partition, and an empty record in place of an undecodable one.

    `getmany` fails on such a record, drops the records read before it, and still advances its position. aiokafka
    decodes whole batches, so records that follow in the same batch are lost.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._found = False
        self.done = False
        """Whether the position is past the undecodable records."""

    async def __call__(self) -> dict[TopicPartition, list[Any]]:
        batches: dict[TopicPartition, list[Any]] = {}
        unreadable = False
        for partition in sorted(self._consumer.assignment()):
            try:
                batches.update(await self._consumer.getmany(partition, timeout_ms=_LOOK_MS, max_records=1))
            except UnicodeDecodeError as error:
                batches[partition] = [await self._skip(partition, error)]
                unreadable = True
        self.done = self._found and not unreadable
        self._found = self._found or unreadable
        return batches

    async def _skip(self, partition: TopicPartition, error: UnicodeDecodeError) -> Any:
        # aiokafka never uncounts a failed call: see `KafkaRequests.poll`.
        self._consumer._subscription._fetch_count = 0
        offset: int = await self._consumer.position(partition)
        self._consumer.seek(partition, offset + 1)
        log.error(
            "a record can't be read, and is treated as an empty one",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
            error=str(error),
        )
        return ConsumerRecord(partition.topic, partition.partition, offset, -1, 0, None, None, None, -1, -1, ())
