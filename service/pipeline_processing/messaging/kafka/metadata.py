"""
Look up the partitions and ids of topics without creating any topic.

aiokafka's own look-up lets brokers create missing topics automatically, and can't distinguish a missing topic from
brokers that are down. It doesn't return topic ids either, which Kafka has since 2.8.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any
from uuid import UUID

import aiokafka.client
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v5
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from pipeline_processing.errors import TopicMissing
from pipeline_processing.messaging.kafka.errors import Where, translated

MAX_AGE_MS = 15_000
"""How often clients refresh metadata, to find new partitions. A small request; aiokafka's default is 300 s."""

_PAUSE_SECONDS = 0.1
_NOT_TOLD = -(2**31)

# Otherwise the next look-up would recreate a deleted topic with the brokers' settings, if they have
# auto.create.topics.enable, which is the default. aiokafka has no option for it.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


@dataclass(frozen=True, slots=True)
class Found:
    """The brokers' answer about some topics."""

    partitions: list[TopicPartition] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ids: dict[str, UUID] = field(default_factory=dict)
    """Topic → id. Empty with brokers before 2.8."""
    replicas: dict[str, int] = field(default_factory=dict)
    """Topic → replicas of the partition with the fewest."""
    allowed: dict[str, int] = field(default_factory=dict)
    """Topic → the operations that this identity is allowed, a bit for each. Empty with brokers before 2.8."""


async def partitions_of(client: Any, topics: Sequence[str], *, where: Where, seconds: float) -> list[TopicPartition]:
    """
    Return all partitions of the topics, each of which has a leader. `client` is a started AIOKafkaClient.

    Raises TopicMissing listing all missing topics, AccessDenied or KafkaUnavailable.
    """
    found = await look_up(client, topics, where=where, seconds=seconds)
    if found.missing:
        raise TopicMissing(found.missing)
    return found.partitions


async def look_up(client: Any, topics: Sequence[str], *, where: Where, seconds: float) -> Found:
    """Return partitions, ids and missing topics. Raises AccessDenied or KafkaUnavailable."""
    last: kafka.KafkaError | None = None
    with translated(where):
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await _look_up(client, topics)
                    except kafka.KafkaError as error:
                        if not error.retriable:
                            raise
                        last = error
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            if last is None:
                raise
            raise last from None  # more informative than the timeout


async def _look_up(client: Any, topics: Iterable[str]) -> Found:
    node = client.get_random_node()
    if node is None:
        # A cluster that has just started may list no nodes. aiokafka asks again only if forced to.
        await client.force_metadata_update()
        raise kafka.NoBrokersAvailable("no broker is known")
    answer = await client.send(node, _TopicsRequest(topics))
    found = Found()
    for code, topic, ids, partitions, allowed in _topics_in(answer):
        error = kafka.for_code(code)
        if error is kafka.UnknownTopicOrPartitionError:
            found.missing.append(topic)
        elif error is not kafka.NoError:
            raise error(topic)
        else:
            found.ids.update((topic, each) for each in ids)
            found.allowed.update((topic, each) for each in allowed if each != _NOT_TOLD)
        for _code, partition, leader, *more in partitions:
            if leader == -1:
                raise kafka.LeaderNotAvailableError(f"partition {partition} of {topic} has no leader")
            found.partitions.append(TopicPartition(topic, partition))
            replicas = len(next(each for each in more if isinstance(each, list)))  # before it, there may be an epoch
            found.replicas[topic] = min(replicas, found.replicas.get(topic, replicas))
    found.partitions.sort()
    return found


def _topics_in(answer: Any) -> Iterable[tuple[int, str, list[UUID], list[Any], list[int]]]:
    """Yield of each topic: error code, name, id, partitions and allowed operations; two of which may be missing."""
    with_ids = answer.API_VERSION >= _Response.API_VERSION
    for code, name, *more in answer.topics:
        if with_ids:
            topic_id, _internal, partitions, allowed, *_ = more
            yield code, name, [topic_id], partitions, [allowed]
        else:
            yield code, name, [], more[1], []


# -- version 10 of the metadata request, the first with topic ids. aiokafka implements versions up to 5. -------------
# https://kafka.apache.org/protocol#The_Messages_Metadata


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka has no types
    """A UUID of 16 bytes, for which aiokafka has no type."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


def _array(**fields: Any) -> Any:
    return CompactArray(*fields.items(), ("tags", TaggedFields))


_Text = CompactString("utf-8")


class _Response(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _array(node_id=Int32, host=_Text, port=Int32, rack=_Text)),
        ("cluster_id", _Text),
        ("controller_id", Int32),
        (
            "topics",
            _array(
                error_code=Int16,
                topic=_Text,
                topic_id=_Uuid,
                is_internal=Boolean,
                partitions=_array(
                    error_code=Int16,
                    partition=Int32,
                    leader=Int32,
                    leader_epoch=Int32,
                    replicas=CompactArray(Int32),
                    isr=CompactArray(Int32),
                    offline_replicas=CompactArray(Int32),
                ),
                authorized_operations=Int32,
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _RequestWithIds(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("topics", _array(topic_id=_Uuid, topic=_Text)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsRequest(Request[MetadataRequest_v5 | _RequestWithIds]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = sorted(topics)

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is _RequestWithIds:
            return _RequestWithIds([(UUID(int=0), topic, {}) for topic in self._topics], False, False, True, {})
        return request_struct_class(self._topics, False)
