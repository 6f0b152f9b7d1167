"""What tests can make of a Kafka in memory; what it promises besides is in the contract suite."""

from __future__ import annotations

import asyncio

import pytest

from pipeline_processing.errors import KafkaUnavailable, TopicMissing
from pipeline_processing.messaging.port import Outgoing
from tests.memory.broker import MemoryBroker
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time


def broker(**options: object) -> MemoryBroker:
    return MemoryBroker(clock=VirtualClock(), **{"topics": ["t"], "partitions": 1, **options})


@in_virtual_time
async def test_an_empty_poll_takes_a_moment_of_virtual_time() -> None:
    """So that a loop around it doesn't spin while everybody else waits."""
    async with broker().subscribe("t") as stream:
        before = asyncio.get_running_loop().time()
        assert await stream.poll() == []
        assert 0.1 < asyncio.get_running_loop().time() - before < 1


@in_virtual_time
async def test_a_poll_wakes_when_something_comes() -> None:
    """At once, and with the time of the clock."""
    kafka = broker()
    async with kafka.subscribe("t") as stream:
        polling = asyncio.create_task(stream.poll())
        await asyncio.sleep(0.01)
        kafka.put(Outgoing("t", b"k", b"v"))
        (record,) = await polling
        assert (record.value, record.timestamp_ms) == (b"v", round(EPOCH.timestamp() * 1000) + 10)
        assert asyncio.get_running_loop().time() == pytest.approx(0.01)


@in_virtual_time
async def test_an_outage_fails_every_call_and_ends_those_under_way() -> None:
    """And when it is over everything goes on where it was."""
    kafka = broker()
    async with kafka.subscribe("t") as stream, kafka.following(["t"]) as records:
        kafka.put(Outgoing("t", b"k", b"1"))
        assert (await anext(records)).value == b"1"
        under_way = [asyncio.ensure_future(each) for each in (stream.poll(), anext(records))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert under_way[0].done()
        kafka.outage = True
        with pytest.raises(KafkaUnavailable):
            await under_way[1]
        for call in (
            stream.poll,
            stream.commit,
            stream.lag,
            kafka.ensure,
            lambda: kafka.ends("t"),
            lambda: kafka.committed("t"),
            lambda: kafka.offsets_at("t", EPOCH),
            lambda: anext(aiter(kafka.read("t"))),
            lambda: kafka.send([Outgoing("t", b"k", b"2")]),
            lambda: kafka.following(["t"]).__aenter__(),
            lambda: kafka.subscribe("t").__aenter__(),
        ):
            with pytest.raises(KafkaUnavailable):
                await call()
        kafka.outage = False
        await stream.commit()
        assert await kafka.committed("t") == {0: 1}


@in_virtual_time
async def test_a_lost_reply_stores_the_messages() -> None:
    """The sender can't know."""
    kafka = broker()
    kafka.lost_replies = 1
    with pytest.raises(KafkaUnavailable):
        await kafka.send([Outgoing("t", b"k", b"v")])
    await kafka.send([Outgoing("t", b"k", b"v")])
    assert [record.value for record in kafka.records("t")] == [b"v", b"v"]


@in_virtual_time
async def test_a_rebalance_gives_again_what_is_not_committed() -> None:
    """A commit that comes after it says nothing about what was taken away."""
    kafka = broker()
    kafka.put(Outgoing("t", b"k", b"1"))
    async with kafka.subscribe("t") as stream:
        assert len(await stream.poll()) == 1
        kafka.rebalance()
        await stream.commit()
        assert await kafka.committed("t") == {0: 0}
        assert len(await stream.poll()) == 1
        await stream.commit()
        assert await kafka.committed("t") == {0: 1}


@in_virtual_time
async def test_a_skipped_offset_is_no_record_and_is_settled() -> None:
    """As the marks of transactions are: the end counts them, nobody is given them, a commit passes by them."""
    kafka = broker()
    kafka.put(Outgoing("t", b"k", b"1"))
    kafka.partition("t", 0).skip()
    async with kafka.subscribe("t") as stream:
        assert len(await stream.poll()) == 1
        await stream.commit()
    assert await kafka.committed("t") == await kafka.ends("t") == {0: 2}
    assert len([record async for record in kafka.read("t")]) == 1


@in_virtual_time
async def test_missing_topics_are_created_or_named() -> None:
    """As the settings of a real one say."""
    kafka = broker(creates=["a", "b"])
    await kafka.ensure()
    assert await kafka.ends("b") == {0: 0}
    with pytest.raises(TopicMissing, match="a, b"):
        await broker(creates=["a", "b"], may_create=False).ensure()
