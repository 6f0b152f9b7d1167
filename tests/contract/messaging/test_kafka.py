"""What only a real Kafka has: transactions, brokers that refuse, connections that must not be left behind."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.util import calc_crc32c

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.errors import KafkaUnavailable, MessageRefused, MessageTooLarge, SettingsError, TopicMissing
from pipeline_processing.messaging.kafka.creation import ensure_topics
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.settings.settings import KafkaSettings
from tests.contract.messaging.messaging_backends import (
    KafkaBackend,
    message,
    nothing_left,
    own_settings,
    settled,
    take,
    until,
    values,
)

MIB = 1024 * 1024


@asynccontextmanager
async def transactions(backend: KafkaBackend) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=list(backend.settings.bootstrap_servers), transactional_id=uuid4().hex
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def admin(backend: KafkaBackend) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=list(backend.settings.bootstrap_servers))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


# -- transactions --------------------------------------------------------------------------------


async def test_what_was_aborted_is_never_seen(real: KafkaBackend) -> None:
    """Not by the group, not by a reader, not by a follower; and the marks at the end hold nobody up."""
    async with transactions(real) as producer, real.topics.following([real.requests]) as following:
        async with producer.transaction():
            await producer.send_and_wait(real.requests, b"1", key=b"k")
        await producer.begin_transaction()
        await producer.send_and_wait(real.requests, b"2", key=b"k")
        await producer.abort_transaction()

        read = [record async for record in real.topics.read(real.requests)]
        assert values(read) == [1]
        async with real.subscribe() as stream:
            assert values(await take(stream, 1)) == [1]

            async def done() -> bool:
                assert await stream.poll() == []
                await stream.commit()
                return await settled(real)

            await until(done)
            assert await stream.lag() == 0
        await real.events.send([Outgoing(real.requests, b"k", b"3")])
        async with asyncio.timeout(20):
            assert values([await anext(following), await anext(following)]) == [1, 3]


async def test_an_open_transaction_holds_nobody_up(real: KafkaBackend) -> None:
    """The end lies before it: a reader ends there, and a group is settled."""
    await real.events.send([Outgoing(real.requests, b"k", b"1")])
    async with transactions(real) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(real.requests, b"2", key=b"k")

        assert values([record async for record in real.topics.read(real.requests)]) == [1]
        async with real.subscribe() as stream:
            assert values(await take(stream, 1)) == [1]
            await stream.commit()
            assert await stream.lag() == 0
            assert await settled(real)
            await producer.commit_transaction()
            assert values(await take(stream, 1)) == [2]


# -- the member of a group -----------------------------------------------------------------------


async def test_a_cancelled_poll_loses_nothing(real: KafkaBackend) -> None:
    """What it would have given, the next one gives; and no commit says that it was given."""
    async with real.subscribe() as stream:
        assert await stream.poll() == []  # it has its partitions
        polling = asyncio.create_task(stream.poll())
        await asyncio.sleep(0)
        polling.cancel()
        await real.events.send([message(real.requests, 1)])
        with pytest.raises(asyncio.CancelledError):
            await polling

        async def taken_inside() -> bool:
            return stream._polling.done()  # type: ignore[attr-defined]

        await until(taken_inside)
        await stream.commit()
        assert not await settled(real)
        assert values(await take(stream, 1)) == [1]
        await stream.commit()
        assert await settled(real)


async def test_a_member_that_is_not_polled_gives_its_partitions_to_another(real: KafkaBackend) -> None:
    """A cancelled poll must not make the group believe that somebody still reads."""
    async with real.subscribe() as stream:
        for _ in range(3):
            polling = asyncio.create_task(stream.poll())
            await asyncio.sleep(0)
            polling.cancel()
            await asyncio.wait([polling])
        await until(lambda: _idle(stream))


async def _idle(stream: object) -> bool:
    # aiokafka's own count of calls under way, by which it knows whether anybody polls.
    return stream._consumer._subscription._fetch_count == 0  # type: ignore[attr-defined]


async def test_leaving_the_block_leaves_the_group(real: KafkaBackend) -> None:
    """So the next one has the partitions at once, not after the session has run out."""
    await real.events.send([message(real.requests, 1)])
    with nothing_left():
        async with KafkaRequests(settings=real.settings, session_seconds=60) as stream:
            await take(stream, 1)
        async with asyncio.timeout(20), real.subscribe() as stream:
            await take(stream, 1)


async def test_a_block_can_be_left_in_the_middle_of_a_rebalance(real: KafkaBackend) -> None:
    """While another member keeps the group waiting."""
    with nothing_left():
        async with KafkaRequests(settings=real.settings, session_seconds=40) as stream:
            await stream.poll()
            # It learns by its next heartbeat that it has to join again, in 4 s at most.
            async with asyncio.timeout(10), real.subscribe() as second:
                await second.poll()


async def test_a_topic_that_is_missing_is_found_out_at_once(real: KafkaBackend) -> None:
    """Not by a member that waits for its partitions for ever."""
    settings = real.settings.model_copy(update={"requests_topic": "nowhere"})
    with nothing_left(), pytest.raises(TopicMissing, match="nowhere"):
        async with KafkaRequests(settings=settings):
            pass


async def test_partitions_that_were_added_are_read(real: KafkaBackend) -> None:
    """By whoever joins after that."""
    async with admin(real) as client:
        await client.create_partitions({real.requests: NewPartitions(6)})
    async with real.subscribe() as stream:
        for number in range(50):
            await real.events.send([message(real.requests, number, keys=50)])
        assert {record.partition for record in await take(stream, 50)} == set(range(6))


async def test_a_record_that_cannot_be_read_stops_no_other(real: KafkaBackend) -> None:
    """It comes without its content, so that it becomes a dead letter; those around it come as they are."""
    await real.events.send([message(real.requests, number, keys=1) for number in range(30)])
    partition = next(number for number, end in (await real.topics.ends(real.requests)).items() if end)
    await send_unreadable(real, partition)
    await real.events.send([message(real.requests, number, keys=1) for number in range(30, 60)])

    async with real.subscribe() as stream:
        records = await take(stream, 61)
        await stream.commit()
        assert await settled(real)
        # And from there on as fast as ever.
        await real.events.send([message(real.requests, number) for number in range(60, 600)])
        records += await take(stream, 540)

    assert [record.offset for record in records if record.value is None] == [30]
    assert values([record for record in records if record.value is not None])[:60] == list(range(60))


async def send_unreadable(backend: KafkaBackend, partition: int) -> None:
    """A header's name in Latin-1, as a careless C program sends it. aiokafka itself can't: so change what it made."""
    producer = AIOKafkaProducer(bootstrap_servers=list(backend.settings.bootstrap_servers))
    await producer.start()
    try:
        batch = producer.create_batch()
        batch.append(key=b"0", value=b"unreadable", timestamp=None, headers=[("name", b"")])
        batch.close()
        made = bytearray(batch._build().replace(b"name", b"n\xe4me"))
        struct.pack_into(">I", made, 17, calc_crc32c(bytes(made[21:])))
        batch._buffer = bytes(made)
        await (await producer.send_batch(batch, backend.requests, partition=partition))
    finally:
        await producer.stop()


# -- the producer --------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_producers_compress_as_they_like(real: KafkaBackend, compression: str) -> None:
    """Every codec that Kafka has can be read."""
    producer = AIOKafkaProducer(bootstrap_servers=list(real.settings.bootstrap_servers), compression_type=compression)
    await producer.start()
    try:
        await producer.send_and_wait(real.requests, b"compressed " * 100)
    finally:
        await producer.stop()

    async with real.subscribe() as stream:
        assert [record.value for record in await take(stream, 1)] == [b"compressed " * 100]


async def test_one_by_one_where_the_broker_refuses_a_whole_batch(real: KafkaBackend) -> None:
    """Small messages share a batch: with a topic that takes little, the large ones alone are refused."""
    topic = uuid4().hex
    async with admin(real) as client:
        await client.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "500"})])
    await until(lambda: _has(real, topic))

    with pytest.raises(MessageTooLarge, match=f"to the topic {topic} because of its size.*max.message.bytes"):
        await real.events.send([Outgoing(topic, b"k", b"%d" % size + b"x" * size) for size in (1, 600, 20, 700, 3)])

    read = [len((record.value or b"").strip(b"0123456789")) for record in [r async for r in real.topics.read(topic)]]
    assert read == [1, 20, 3]


async def test_what_a_topic_never_takes_is_refused_for_good(real: KafkaBackend) -> None:
    """A message without a key, where the topic is compacted. It takes no other with it, though they share a batch."""
    topic = uuid4().hex
    async with admin(real) as client:
        await client.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    await until(lambda: _has(real, topic))

    with pytest.raises(MessageRefused, match=f"to the topic {topic} for good.*compacted") as raised:
        await real.events.send([Outgoing(topic, key, b"1") for key in (b"a", None, b"b", b"")])

    assert not isinstance(raised.value, MessageTooLarge)
    assert {record.key async for record in real.topics.read(topic)} == {b"a", b"b", b""}


async def test_offsets_beyond_the_end_pass_over_nothing(real: KafkaBackend) -> None:
    """They were committed of an earlier topic, by somebody who hadn't noticed."""
    await real.events.send([message(real.requests, number) for number in range(30)])
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(real.settings.bootstrap_servers),
        group_id=real.settings.group_id,
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(real.requests, number) for number in range(3)]
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 500))
    finally:
        await consumer.stop()

    assert await real.topics.committed(real.requests) == {0: 0, 1: 0, 2: 0}
    async with real.subscribe() as stream:
        assert sorted(values(await take(stream, 30))) == list(range(30))
        await stream.commit()
        assert await settled(real)


async def test_a_poll_is_bounded_by_bytes(real: KafkaBackend) -> None:
    """A burst of large requests comes in pieces, whatever the number of records that would be allowed."""
    filler = b"x" * 210_000
    await real.events.send([Outgoing(real.requests, b"%d" % number, filler) for number in range(100)])

    async with real.subscribe() as stream:
        sizes: list[int] = []

        async def all_came() -> bool:
            sizes.append(sum(record.size for record in await stream.poll()))
            return sum(sizes) >= 100 * len(filler)

        await until(all_came)
    assert max(sizes) <= 3 * (256 * 1024 + len(filler))  # of each partition so much, or a record more


async def _has(backend: KafkaBackend, topic: str) -> bool:
    try:
        await backend.topics.ends(topic)
    except TopicMissing:
        return False
    return True


async def test_a_dead_letter_of_the_largest_request_fits(real: KafkaBackend) -> None:
    """The topic of dead letters is created with room for what is added to a request."""
    letters = real.settings.dead_letters_topic
    await real.events.send([Outgoing(letters, b"k", b"x" * MIB, (("dlq_message", b"x" * MIB),))])

    async with admin(real) as client:
        (answer,) = await client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, letters, {"max.message.bytes": None})]
        )
    assert int(answer.resources[0][4][0][1]) == 1_048_588 + 2 * MIB


async def test_a_cancelled_send_leaves_a_producer_that_works(real: KafkaBackend) -> None:
    """And no complaint about acknowledgements that nobody has looked at."""
    with nothing_left():
        async with KafkaEvents(settings=real.settings) as events:
            for number in range(5):
                sending = asyncio.create_task(events.send([message(real.requests, number)]))
                for _ in range(number):
                    await asyncio.sleep(0)
                sending.cancel()
                await asyncio.wait([sending])
            await events.send([message(real.requests, 99)])
    assert 99 in values([record async for record in real.topics.read(real.requests)])


async def test_order_is_kept_over_many_batches(real: KafkaBackend) -> None:
    """One call that takes hundreds of them."""
    sent = [Outgoing(real.requests, b"k", b"%d" % number + b" " * 1000) for number in range(2000)]
    await real.events.send(sent)
    read = values([record async for record in real.topics.read(real.requests)])
    assert read == list(range(2000))


# -- topics --------------------------------------------------------------------------------------


async def test_several_processes_create_the_topics_at_once(kafka: KafkaServer) -> None:
    """Whoever comes second finds them there."""
    settings = own_settings(kafka.bootstrap_servers)
    with nothing_left():
        await asyncio.gather(*(ensure_topics(settings) for _ in range(4)))
    topics = KafkaTopics(settings=settings)
    for topic in (settings.requests_topic, settings.completions_topic, settings.dead_letters_topic):
        assert await topics.ends(topic) == dict.fromkeys(range(settings.partitions), 0)


async def test_all_missing_topics_are_named_where_none_may_be_created(kafka: KafkaServer) -> None:
    """And none is created by looking."""
    settings = own_settings(kafka.bootstrap_servers).model_copy(update={"create_topics": False})
    for _ in range(2):
        with nothing_left(), pytest.raises(TopicMissing) as raised:
            await KafkaTopics(settings=settings).ensure()
        for topic in ("requests", "completions", "progress", "dead_letters"):
            assert getattr(settings, f"{topic}_topic") in str(raised.value)


async def test_more_replicas_than_brokers_are_a_setting_to_correct(kafka: KafkaServer) -> None:
    """Kafka's own words, and the variable."""
    settings = own_settings(kafka.bootstrap_servers).model_copy(update={"replication_factor": 3})
    with pytest.raises(SettingsError, match="PIPELINE_KAFKA__REPLICATION_FACTOR"):
        await ensure_topics(settings)


async def test_looking_leaves_nothing_behind(real: KafkaBackend) -> None:
    """Also when a reader stops in the middle."""
    await real.events.send([message(real.requests, number) for number in range(2000)])
    with nothing_left():
        await real.topics.ends(real.requests)
        await real.topics.committed(real.requests)
        reading = real.topics.read(real.requests)
        await anext(reading)
        await reading.aclose()  # type: ignore[attr-defined]
        async with real.topics.following([real.requests]):
            pass


async def test_a_group_of_which_nobody_has_heard_has_committed_nothing(real: KafkaBackend) -> None:
    """Which is the first thing that a fresh installation asks."""
    assert await real.topics.committed(real.requests) == {0: 0, 1: 0, 2: 0}


async def test_reading_keeps_the_order_of_each_partition(real: KafkaBackend) -> None:
    """Through many fetches, each with a part of every partition."""
    await real.events.send([message(real.requests, number) for number in range(3000)])
    offsets: dict[int, list[int]] = {}
    async for record in real.topics.read(real.requests):
        offsets.setdefault(record.partition, []).append(record.offset)
    assert sum(map(len, offsets.values())) == 3000
    assert all(before < after for each in offsets.values() for before, after in pairwise(each))


# -- brokers that aren't there -------------------------------------------------------------------


@pytest.mark.parametrize("brokers", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "nowhere.invalid:9092"])
async def test_brokers_that_are_not_there(brokers: str) -> None:
    """Everything says so within seconds, names them, and leaves nothing behind."""
    settings = KafkaSettings(bootstrap_servers=brokers)
    topics, events = KafkaTopics(settings=settings), KafkaEvents(settings=settings)

    async def subscribe() -> None:
        async with KafkaRequests(settings=settings):
            pass

    async def follow() -> None:
        async with topics.following(["t"]):
            pass

    with nothing_left():
        async with asyncio.timeout(20), events:
            for attempt in (
                subscribe,
                follow,
                topics.ensure,
                lambda: topics.ends("t"),
                lambda: topics.committed("t"),
                lambda: anext(aiter(topics.read("t"))),
                lambda: events.send([Outgoing("t", b"k", b"v")]),
            ):
                with pytest.raises(KafkaUnavailable, match=brokers.split(",")[0]):
                    await attempt()
