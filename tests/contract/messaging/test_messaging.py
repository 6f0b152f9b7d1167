"""What every Kafka promises: the one in memory, and a real one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from pipeline_processing.errors import KafkaUnavailable, MessageTooLarge, TopicMissing
from pipeline_processing.messaging.port import Outgoing, Record, RequestStream
from tests.contract.messaging.messaging_backends import (
    PARTITIONS,
    SECONDS,
    Backend,
    message,
    settled,
    take,
    until,
    values,
)


async def send(backend: Backend, *numbers: int) -> None:
    await backend.events.send([message(backend.requests, number) for number in numbers])


async def read(backend: Backend, **bounds: dict[int, int]) -> list[Record]:
    return [record async for record in backend.topics.read(backend.requests, **bounds)]


# -- requests ------------------------------------------------------------------------------------


async def test_a_message_arrives_byte_for_byte(backend: Backend) -> None:
    """Key, value, headers in order and more than one of a name, and time; an absent key or value stays absent."""
    headers = (("ce_id", b"1"), ("x", b"\xff"), ("x", b""), ("x", None))
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    sent = [
        Outgoing(backend.requests, b"k", b"\x00value", headers, timestamp_ms=now_ms),
        Outgoing(backend.requests, b"k", None),
        Outgoing(backend.requests, None, b"v"),
        Outgoing(backend.requests, None, None, (("only", b"headers"),)),
    ]
    await backend.events.send(sent)

    async with backend.subscribe() as stream:
        records = await take(stream, len(sent))

    got = {(record.key, record.value): record for record in records}
    assert set(got) == {(each.key, each.value) for each in sent}
    assert got[b"k", b"\x00value"].headers == headers
    assert got[b"k", b"\x00value"].timestamp_ms == now_ms
    assert got[None, None].headers == (("only", b"headers"),)


async def test_records_of_one_key_come_in_order(backend: Backend) -> None:
    """From one partition, whether they were sent in one call or in several."""
    for start in range(0, 600, 200):
        await send(backend, *range(start, start + 200))

    async with backend.subscribe() as stream:
        records = await take(stream, 600)

    for key in range(10):
        mine = [record for record in records if record.key == str(key).encode()]
        assert values(mine) == list(range(key, 600, 10))
        assert len({record.partition for record in mine}) == 1
        assert [record.offset for record in mine] == sorted(record.offset for record in mine)


async def test_what_is_committed_does_not_come_again(backend: Backend) -> None:
    """The next member of the group goes on where the last one stopped."""
    await send(backend, 1, 2, 3)
    async with backend.subscribe() as stream:
        await take(stream, 3)
        await stream.commit()
    assert await settled(backend)

    await send(backend, 4)

    async with backend.subscribe() as stream:
        assert values(await take(stream, 1)) == [4]
        assert await stream.poll() == []


async def test_what_is_not_committed_comes_again(backend: Backend) -> None:
    """To the same group's next member, and all of it."""
    await send(backend, *range(20))
    async with backend.subscribe() as stream:
        await take(stream, 20)

    async with backend.subscribe() as stream:
        assert sorted(values(await take(stream, 20))) == list(range(20))


async def test_a_commit_says_only_what_poll_has_given(backend: Backend) -> None:
    """What lies in the topic, or was fetched ahead, isn't settled by it."""
    await send(backend, 1)
    async with backend.subscribe() as stream:
        await take(stream, 1)
        await send(backend, *range(2, 50))
        await stream.commit()

    async with backend.subscribe() as stream:
        assert sorted(values(await take(stream, 48))) == list(range(2, 50))


async def test_two_members_share_the_partitions(backend: Backend) -> None:
    """Each record goes to one of them, and when one leaves, the other has all."""
    async with backend.subscribe() as first:
        async with backend.subscribe() as second:
            await shared(backend, first, second)
            await send(backend, *range(100))
            got: dict[RequestStream, list[int]] = {first: [], second: []}

            async def all_came() -> bool:
                for member, mine in got.items():
                    mine += values(await member.poll())
                    await member.commit()
                return len(got[first]) + len(got[second]) >= 100

            await until(all_came)
            assert sorted(got[first] + got[second]) == list(range(100))
            assert got[first]
            assert got[second]

        await send(backend, *range(100, 150))
        rest: set[int] = set()  # what came before the group had noticed comes again

        async def the_rest_came() -> bool:
            rest.update(values(await first.poll()))
            return rest == set(range(100, 150))

        await until(the_rest_came)


async def test_a_rebalance_leaves_nothing_out(backend: Backend) -> None:
    """A commit that comes too late is dropped without a word; what it was for comes again, to whom it belongs now."""
    await send(backend, *range(50))
    async with backend.subscribe() as first:
        await take(first, 50)
        async with backend.subscribe() as second:
            again: list[int] = []

            async def all_came_again() -> bool:
                for member in (second, first):
                    again.extend(values(await member.poll()))
                return set(again) == set(range(50))

            await until(all_came_again)
            await first.commit()
            await second.commit()
            assert await settled(backend)
            # And it goes on as if nothing had been.
            await send(backend, *range(50, 60))
            again.clear()

            async def the_rest_came() -> bool:
                for member in (first, second):
                    again.extend(values(await member.poll()))
                    await member.commit()
                return len(again) == 10

            await until(the_rest_came)
            assert await settled(backend)


async def test_members_are_listed_with_their_names_and_partitions(backend: Backend) -> None:
    """None before somebody joins, and nobody who reads another topic."""
    assert await backend.topics.members(backend.requests) == []

    async with backend.subscribe() as stream:

        async def assigned() -> bool:
            await stream.poll()
            return any(each.partitions for each in await backend.topics.members(backend.requests))

        await until(assigned)
        (member,) = await backend.topics.members(backend.requests)
        others = await backend.topics.members(backend.other)

    assert (member.worker, member.partitions, bool(member.host)) == ("ours:1", tuple(range(PARTITIONS)), True)
    assert others == []


async def test_lag_counts_what_poll_has_not_given(backend: Backend) -> None:
    """Not what is committed, and not what was fetched ahead."""
    await send(backend, 1, 2, 3)
    async with backend.subscribe() as stream:
        await take(stream, 3)
        assert await stream.lag() == 0
        await send(backend, 4, 5)
        assert await stream.lag() == 2
        await take(stream, 2)
        assert await stream.lag() == 0


async def test_an_empty_poll_comes_back_soon(backend: Backend) -> None:
    """So that its caller sees that it is time to stop."""
    async with backend.subscribe() as stream:
        async with asyncio.timeout(5):
            assert await stream.poll() == []
        await stream.commit()
        assert await stream.lag() == 0


async def until_sent(backend: Backend, *numbers: int) -> None:
    """To a topic that has only just been made."""

    async def stored() -> bool:
        try:
            await send(backend, *numbers)
        except (TopicMissing, KafkaUnavailable):
            return False
        return True

    await until(stored)


async def test_a_topic_that_is_deleted_is_missed_and_then_read_from_its_beginning(backend: Backend) -> None:
    """Whatever was committed of the old one; and nobody brings it back by asking."""
    await send(backend, *range(30))
    async with backend.subscribe() as stream:
        await take(stream, 30)
        await stream.commit()
        await backend.delete_requests()
        with pytest.raises(TopicMissing, match=backend.requests):
            await take(stream, 1)
    with pytest.raises(TopicMissing):
        async with backend.subscribe():
            pass

    await backend.create_requests()
    await until_sent(backend, *range(100, 140))

    got: set[int] = set()
    async with backend.subscribe() as stream:

        async def all_came() -> bool:
            got.update(values(await stream.poll()))
            await stream.commit()
            return got == set(range(100, 140))

        await until(all_came)


async def test_a_topic_that_is_made_anew_at_once_is_read_from_its_beginning(backend: Backend) -> None:
    """Before anybody could miss it, and with as many records as the old one had."""
    await send(backend, *range(30))
    async with backend.subscribe() as stream:
        await take(stream, 30)
        await stream.commit()
        await backend.delete_requests()
        await backend.create_requests()
        await until_sent(backend, *range(100, 160))
        got: set[int] = set()

        async def all_came() -> bool:
            await stream.lag()  # as an intake asks now and then
            got.update(values(await stream.poll()))
            await stream.commit()
            return got == set(range(100, 160))

        await until(all_came)
        assert await settled(backend)


async def test_new_partitions_are_noticed(backend: Backend) -> None:
    """Within 30 s, by the group and by whoever follows; from their first record."""
    async with backend.subscribe() as stream, backend.topics.following([backend.requests]) as live:
        await stream.poll()
        await backend.add_partitions(PARTITIONS + 6)
        followed: list[Record] = []

        async def follow() -> None:
            async for record in live:
                followed.append(record)
                if len(followed) == 100:
                    return

        following = asyncio.create_task(follow())
        await until(partial(has_partitions, backend, PARTITIONS + 6))
        await backend.events.send([message(backend.requests, number, keys=50) for number in range(100)])
        taken: list[Record] = []

        async def all_came() -> bool:
            taken.extend(await stream.poll())
            await stream.commit()
            return set(values(taken)) == set(range(100))

        await until(all_came)
        async with asyncio.timeout(SECONDS):
            await following
        assert sorted(values(followed)) == list(range(100))
        assert {record.partition for record in taken} > set(range(PARTITIONS))


async def has_partitions(backend: Backend, total: int) -> bool:
    return len(await backend.topics.ends(backend.requests)) == total


# -- events --------------------------------------------------------------------------------------


async def test_a_message_too_large_takes_no_other_with_it(backend: Backend) -> None:
    """All others arrive, those of its partition in order; and sending goes on afterwards."""
    large = Outgoing(backend.requests, b"1", b"x" * 1_100_000)
    sent = [message(backend.requests, number, keys=2) for number in range(40)]

    with pytest.raises(MessageTooLarge, match="because of its size"):
        await backend.events.send([*sent[:11], large, *sent[11:21], large, *sent[21:]])

    await send(backend, 99)
    records = await read(backend)
    assert sorted(values(records)) == [*range(40), 99]
    for key in range(2):
        mine = [record for record in records if record.key == str(key).encode()]
        assert values(mine)[:20] == list(range(key, 40, 2))


async def test_senders_side_by_side_do_not_disturb_each_other(backend: Backend) -> None:
    """Though some of them are refused all the time, for which the others' producer is replaced."""
    large = Outgoing(backend.requests, b"1", b"x" * 1_100_000)

    async def small(number: int) -> None:
        for step in range(5):
            await send(backend, number * 5 + step)

    async def refused() -> None:
        for _ in range(3):
            with pytest.raises(MessageTooLarge):
                await backend.events.send([large])

    await asyncio.gather(*map(small, range(20)), *(refused() for _ in range(3)))

    assert sorted(values(await read(backend))) == list(range(100))


async def test_sending_nothing_is_nothing(backend: Backend) -> None:
    await backend.events.send([])


# -- topics --------------------------------------------------------------------------------------


async def test_a_missing_topic_is_named(backend: Backend) -> None:
    """Wherever it is asked for; and nobody creates it by asking."""
    for _ in range(2):
        with pytest.raises(TopicMissing, match="nowhere"):
            await backend.topics.ends("nowhere")
    with pytest.raises(TopicMissing, match="nowhere"):
        await backend.topics.committed("nowhere")
    with pytest.raises(TopicMissing, match="nowhere"):
        await backend.topics.offsets_at("nowhere", datetime.now(UTC))
    with pytest.raises(TopicMissing, match="nowhere"):
        await anext(aiter(backend.topics.read("nowhere")))
    with pytest.raises(TopicMissing, match="nowhere"):
        async with backend.topics.following([backend.requests, "nowhere"]):
            pass
    with pytest.raises(TopicMissing, match="nowhere"):
        await backend.events.send([Outgoing("nowhere", b"1", b"1")])


async def test_offsets_of_a_moment(backend: Backend) -> None:
    """The first record of that moment or later, and the end where there is none."""
    noon = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)  # older ones would be removed by retention
    at = {minute: round((noon + timedelta(minutes=minute)).timestamp() * 1000) for minute in range(4)}
    await backend.events.send(
        [Outgoing(backend.requests, b"k", str(minute).encode(), timestamp_ms=at[minute]) for minute in range(4)]
    )
    ends = await backend.topics.ends(backend.requests)
    (mine,) = [partition for partition, end in ends.items() if end]

    async def offset(moment: datetime) -> int:
        offsets = await backend.topics.offsets_at(backend.requests, moment)
        assert {**offsets, mine: 0} == dict.fromkeys(range(PARTITIONS), 0)
        return offsets[mine]

    assert await offset(datetime(1969, 7, 20, tzinfo=UTC)) == 0
    assert await offset(noon) == 0
    assert await offset(noon + timedelta(minutes=2)) == 2
    assert await offset(noon + timedelta(minutes=2, microseconds=1)) == 3
    assert await offset(noon + timedelta(minutes=2, seconds=1)) == 3
    assert await offset(noon + timedelta(minutes=3, seconds=1)) == 4


async def test_reading_ends_at_the_end_as_of_its_start(backend: Backend) -> None:
    """Whatever is sent meanwhile is left; an empty topic has an end, too."""
    assert await read(backend) == []
    await send(backend, *range(30))

    seen = []
    async for record in backend.topics.read(backend.requests):
        if not seen:
            await send(backend, 99)
        seen.append(record)

    assert sorted(values(seen)) == list(range(30))


async def test_reading_between_offsets(backend: Backend) -> None:
    """Where a partition isn't named, all of it; beyond the end there is nothing to wait for."""
    await backend.events.send([message(backend.requests, number, keys=1) for number in range(30)])
    ends = await backend.topics.ends(backend.requests)
    (mine,) = [partition for partition, end in ends.items() if end]

    assert values(await read(backend, start={mine: 10}, stop={mine: 13})) == [10, 11, 12]
    assert values(await read(backend, start={mine: 27})) == [27, 28, 29]
    assert values(await read(backend, stop={mine: 2})) == [0, 1]
    assert values(await read(backend, start={mine: 28}, stop={mine: 1000})) == [28, 29]
    assert await read(backend, start={mine: 30}) == []
    assert await read(backend, start={mine: 1000}) == []
    assert await read(backend, start={mine: 5}, stop={mine: 5}) == []
    assert len(await read(backend, start={(mine + 1) % PARTITIONS: 0})) == 30


async def test_reading_what_retention_has_overtaken(backend: Backend) -> None:
    """From the oldest there is; and if all that was asked for is gone, nothing."""
    await backend.events.send([message(backend.requests, number, keys=1) for number in range(30)])
    ends = await backend.topics.ends(backend.requests)
    (mine,) = [partition for partition, end in ends.items() if end]
    await backend.expire(mine, before=20)

    assert values(await read(backend, start={mine: 5}, stop={mine: 22})) == [20, 21]
    assert await read(backend, start={mine: 5}, stop={mine: 10}) == []
    assert len(await read(backend)) == 10
    await backend.expire(mine, before=30)
    assert await read(backend) == []
    assert (await backend.topics.ends(backend.requests))[mine] == 30


async def test_a_group_settles_what_retention_has_emptied(backend: Backend) -> None:
    """Or whoever waits for committed and end to meet waits for ever."""
    await backend.events.send([message(backend.requests, number, keys=1) for number in range(3)])
    (mine,) = [partition for partition, end in (await backend.topics.ends(backend.requests)).items() if end]
    await backend.expire(mine, before=3)

    async with backend.subscribe() as stream:

        async def done() -> bool:
            assert await stream.poll() == []
            await stream.commit()
            return await settled(backend)

        await until(done)


async def test_following_gives_what_comes_after_the_block_was_entered(backend: Backend) -> None:
    """Of all the topics, in order for each key, and none from before."""
    await send(backend, 1)
    async with backend.topics.following([backend.requests, backend.other]) as records:
        await send(backend, 2, 3)
        await backend.events.send([message(backend.other, 4)])
        async with asyncio.timeout(20):
            got = [await anext(records) for _ in range(3)]
        await send(backend, 5)
        async with asyncio.timeout(20):
            got.append(await anext(records))

    assert sorted(values(got)) == [2, 3, 4, 5]
    assert {record.topic for record in got if record.value == b"4"} == {backend.other}


async def shared(backend: Backend, *members: RequestStream) -> None:
    """Wait until each of them has partitions, and leave nothing behind."""
    got: set[RequestStream] = set()

    async def all_have_some() -> bool:
        await backend.events.send([Outgoing(backend.requests, str(key).encode(), b"0") for key in range(20)])
        for member in members:
            if await member.poll():
                got.add(member)
            else:
                got.discard(member)
            await member.commit()
        return len(got) == len(members)

    await until(all_have_some)

    async def nothing_left() -> bool:
        for member in members:
            await member.poll()
            await member.commit()
        return await settled(backend)

    await until(nothing_left)
