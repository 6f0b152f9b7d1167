"""Telling a topic from a later one of the same name: Kafka 2.8 and later give each an id of its own."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka import errors as kafka
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_METADATA = 3


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka has no types
    """16 bytes, for which aiokafka has no type."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


# https://kafka.apache.org/protocol#The_Messages_Metadata: version 10 is the first with ids, and aiokafka knows 5.


class _Response(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _RequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Request(Request[_RequestV10]):  # type: ignore[misc]
    API_KEY = _METADATA

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_RequestV10]) -> _RequestV10:
        return request_struct_class([(UUID(int=0), self._topic, {})], False, False, False, {})


async def topic_id(client: Any, topic: str) -> UUID | None:
    """
    The topic's id; None if it isn't there, or the brokers give none. `client` is an AIOKafkaClient that has been
    started. Raises as that does.
    """
    node = client.get_random_node()
    if node is None:
        raise kafka.NoBrokersAvailable("no broker is known")
    try:
        answer = await client.send(node, _Request(topic))
    except NotImplementedError:  # brokers before 2.8
        return None
    for code, _name, found, *_ in answer.topics:
        if kafka.for_code(code) is kafka.NoError:
            return UUID(bytes=found.bytes)
    return None


class Incarnation:
    """
    Which of several topics of one name is being read, over all subscriptions of a process. What was committed of an
    earlier one says nothing about a later one, which is to be read from its beginning.
    """

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._seen = False
        self._missed = False
        self._anew = False
        self._begun: set[int] = set()

    def gone(self) -> None:
        """
        There seems to be no such topic now: the next one is another, also where brokers give no ids, unless its id says
        that it was only missed.
        """
        self._missed = self._seen

    def saw(self, found: UUID | None) -> None:
        """There is one, with this id."""
        is_same = found is not None and found == self._id
        is_other = None not in (found, self._id) and not is_same
        if self._seen and (is_other or (self._missed and not is_same)):
            self._anew = True
            self._begun.clear()
        self._id, self._seen, self._missed = found or self._id, True, False

    def to_begin(self, partitions: Iterable[int]) -> list[int]:
        """Of these partitions, those that this process has to read from their beginning now: each of them once."""
        if not self._anew:
            return []
        found = [partition for partition in partitions if partition not in self._begun]
        self._begun.update(found)
        return found
