"""Which partitions topics have, asked in a way that creates none."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import aiokafka.client
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.protocol.metadata import MetadataRequest

from pipeline_processing.errors import TopicMissing
from pipeline_processing.messaging.kafka.errors import Where, translated

MAX_AGE_MS = 15_000
"""How often clients ask for new partitions: a small question each time. By default they ask every 300 s."""

_PAUSE_SECONDS = 0.1

# Or else a deleted topic comes back at the next look-up, where brokers have auto.create.topics.enable (their default),
# and with settings of theirs. aiokafka has no option for it.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


async def partitions_of(client: Any, topics: Sequence[str], *, where: Where, seconds: float) -> list[TopicPartition]:
    """
    All partitions of the topics, each of which has a leader.

    `client` is an AIOKafkaClient that has been started. aiokafka's own look-up has brokers create what is missing if
    they do such things, and can't tell a missing topic from brokers that are down. Raises TopicMissing with all that
    are missing, AccessDenied, KafkaUnavailable.
    """
    found, missing = await existing(client, topics, where=where, seconds=seconds)
    if missing:
        raise TopicMissing(missing)
    return found


async def existing(
    client: Any, topics: Sequence[str], *, where: Where, seconds: float
) -> tuple[list[TopicPartition], list[str]]:
    """As `partitions_of`, but returns the names of the missing topics."""
    last: kafka.KafkaError | None = None
    with translated(where):
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await _look(client, topics)
                    except kafka.KafkaError as error:
                        if not error.retriable:
                            raise
                        last = error
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            if last is None:
                raise
            raise last from None  # which says more


async def _look(client: Any, topics: Iterable[str]) -> tuple[list[TopicPartition], list[str]]:
    node = client.get_random_node()
    if node is None:
        # As a cluster says that has only just come up; aiokafka asks again when it is told to.
        await client.force_metadata_update()
        raise kafka.NoBrokersAvailable("no broker is known")
    answer = await client.send(node, MetadataRequest(sorted(topics), allow_auto_topic_creation=False))
    found: list[TopicPartition] = []
    missing: list[str] = []
    for code, topic, _internal, partitions in answer.topics:
        error = kafka.for_code(code)
        if error is kafka.UnknownTopicOrPartitionError:
            missing.append(topic)
        elif error is not kafka.NoError:
            raise error(topic)
        for _code, partition, leader, *_ in partitions:
            if leader == -1:
                raise kafka.LeaderNotAvailableError(f"partition {partition} of {topic} has no leader")
            found.append(TopicPartition(topic, partition))
    return sorted(found), missing
