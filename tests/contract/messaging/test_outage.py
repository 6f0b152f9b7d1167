"""A Kafka that goes away and comes back: everybody says so in time, goes on by himself, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Protocol

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.messaging.kafka.creation import ensure_topics
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.port import Outgoing, Record, RequestStream
from tests.contract.messaging.messaging_backends import (
    Backend,
    KafkaBackend,
    MemoryBackend,
    message,
    nothing_left,
    own_settings,
    settled,
    take,
    until,
    values,
)

DELIVERY_SECONDS = 2.0


@pytest.fixture(scope="module")
def mortal() -> Iterator[KafkaServer]:
    """A server of this module's own, which it may stop."""
    with KafkaServer() as server:
        yield server


class Mortal(Backend, Protocol):
    """A Kafka, and the power over it."""

    def away(self) -> Any:
        """A block in which it is down."""


class MortalMemory(MemoryBackend):
    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        self.broker.outage = True
        yield
        self.broker.outage = False


class MortalKafka(KafkaBackend):
    server: KafkaServer

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self.server.start)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """It takes connections and bytes, and answers nothing: a machine that hangs, a network that swallows."""
        os.kill(self.server.pid, SIGSTOP)
        try:
            await until(self._stopped)
            yield
        finally:
            os.kill(self.server.pid, SIGCONT)

    async def _stopped(self) -> bool:
        # Each thread stops when it next looks: until then it may well answer.
        return states_of_threads(self.server.pid) == {"T"}


def states_of_threads(pid: int) -> set[str]:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {thread.read_text().rpartition(")")[2].split()[0] for thread in threads}


@asynccontextmanager
async def mortal_kafka(server: KafkaServer) -> AsyncIterator[MortalKafka]:
    settings = own_settings(server.bootstrap_servers)
    await ensure_topics(settings)
    async with KafkaEvents(settings=settings, delivery_seconds=DELIVERY_SECONDS) as events:
        backend = MortalKafka(settings, events)
        backend.server = server
        yield backend


@pytest.fixture
async def real(mortal: KafkaServer) -> AsyncIterator[MortalKafka]:
    async with mortal_kafka(mortal) as backend:
        yield backend


@pytest.fixture(params=["memory", "kafka"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Mortal]:
    if request.param == "memory":
        yield MortalMemory()
    else:
        async with mortal_kafka(request.getfixturevalue("mortal")) as opened:
            yield opened


async def fails(attempt: Callable[[], Awaitable[Any]], *, seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable):
        await attempt()
    assert time.monotonic() - began < seconds


async def succeeds(attempt: Callable[[], Awaitable[Any]]) -> None:
    """Again and again until it does."""

    async def once() -> bool:
        try:
            await attempt()
        except KafkaUnavailable:
            return False
        return True

    await until(once)


# -- memory and the real one ---------------------------------------------------------------------


async def test_sending_fails_in_time_and_recovers(backend: Mortal) -> None:
    """Each message that was acknowledged is there, whatever became of those that were not."""
    await backend.events.send([message(backend.requests, 1)])
    async with backend.away():
        for _ in range(2):  # the second through a new producer
            await fails(lambda: backend.events.send([message(backend.requests, 2)]), seconds=DELIVERY_SECONDS + 3)

    await succeeds(lambda: backend.events.send([message(backend.requests, 3)]))
    await backend.events.send([message(backend.requests, number) for number in range(4, 50)])

    read = values([record async for record in backend.topics.read(backend.requests)])
    assert set(read) - {2} == {1, *range(3, 50)}


async def test_senders_side_by_side_all_learn_of_an_outage_and_all_recover(backend: Mortal) -> None:
    """One failed producer, and one new one, for all of them."""
    attempts = [lambda number=number: backend.events.send([message(backend.requests, number)]) for number in range(20)]
    async with backend.away():
        await asyncio.gather(*(fails(attempt, seconds=DELIVERY_SECONDS + 3) for attempt in attempts))

    await asyncio.gather(*map(succeeds, attempts))

    read = values([record async for record in backend.topics.read(backend.requests)])
    assert set(read) == set(range(20))


async def test_a_member_goes_on_after_an_outage(backend: Mortal) -> None:
    """It says that the brokers are away, and then gives what was not committed, and what is new."""
    await backend.events.send([message(backend.requests, 1)])
    async with backend.subscribe() as stream:
        await take(stream, 1)
        await stream.commit()
        await backend.events.send([message(backend.requests, 2)])
        await take(stream, 1)
        async with backend.away():
            await fails(stream.lag, seconds=8)
            await fails(stream.commit, seconds=8)
            await fails(lambda: _polled_until_it_fails(stream), seconds=15)

        await succeeds(lambda: backend.events.send([message(backend.requests, 3)]))
        got: list[int] = []

        async def caught_up() -> bool:
            got.extend(values(await stream.poll()))
            await stream.commit()
            return 3 in got and await settled(backend)

        await until_it_holds(caught_up)
        assert set(got) <= {2, 3}
        assert await stream.lag() == 0


async def test_nobody_joins_and_nobody_looks_while_it_is_away(backend: Mortal) -> None:
    """Within seconds, and as soon as it is back they do."""

    async def join() -> None:
        async with backend.subscribe() as stream:
            await stream.poll()

    async def follow() -> None:
        async with backend.topics.following([backend.requests]):
            pass

    attempts = (join, follow, lambda: backend.topics.ends(backend.requests), backend.topics.ensure)
    async with backend.away():
        for attempt in attempts:
            await fails(attempt, seconds=6)
    for attempt in attempts:
        await succeeds(attempt)


async def test_a_follower_is_told(backend: Mortal) -> None:
    """Rather than waiting for what can't come."""
    async with backend.topics.following([backend.requests]) as records:
        following = asyncio.create_task(_next(records))
        async with backend.away():
            await fails(lambda: following, seconds=15)


async def test_a_reader_is_told(backend: Mortal) -> None:
    """In the middle of what it reads, which is more than is fetched ahead."""
    for _ in range(30):
        await backend.events.send([Outgoing(backend.requests, b"k", b"x" * 5000) for _ in range(100)])
    read: list[Record] = []

    async def on() -> None:
        async for record in backend.topics.read(backend.requests):
            if not read:
                await away.__aenter__()
            read.append(record)

    away = backend.away()
    try:
        await fails(on, seconds=20)
    finally:
        await away.__aexit__(None, None, None)
    assert 0 < len(read) < 3000


# -- the real one --------------------------------------------------------------------------------


async def test_a_batch_that_was_given_up_leaves_no_gap(real: MortalKafka) -> None:
    """
    Brokers that hang make senders give up in the middle of a batch, which they may store later on.

    An idempotent producer that went on after this would be refused for good.
    """
    await real.events.send([message(real.requests, 0, keys=1)])
    for number in (1, 3, 5):
        async with real.frozen():
            await fails(lambda n=number: real.events.send([message(real.requests, n, keys=1)]), seconds=8)
        await succeeds(lambda n=number: real.events.send([message(real.requests, n + 1, keys=1)]))

    read = values([record async for record in real.topics.read(real.requests)])
    assert set(read) >= {0, 2, 4, 6}
    acknowledged = [number for number in read if number % 2 == 0]
    assert acknowledged == sorted(acknowledged)


async def test_a_member_of_brokers_that_hang(real: MortalKafka) -> None:
    """They don't refuse connections: nothing but a time limit tells."""
    async with real.subscribe() as stream:
        await stream.poll()
        async with real.frozen():
            await fails(lambda: _polled_until_it_fails(stream), seconds=15)
        await succeeds(lambda: real.events.send([message(real.requests, 1)]))

        async def came() -> bool:
            return bool(values(await stream.poll()))

        await until_it_holds(came)


@pytest.mark.parametrize("how", ["away", "frozen"])
async def test_everything_can_be_left_in_an_outage(mortal: KafkaServer, how: str) -> None:
    """Within seconds, and nothing of it goes on: no task, no connection, no complaint."""
    async with mortal_kafka(mortal) as looking:
        assert await looking.topics.ends(looking.requests)
    with nothing_left():
        async with mortal_kafka(mortal) as real:
            async with real.subscribe() as stream, real.topics.following([real.requests]) as records:
                await stream.poll()
                following = asyncio.create_task(_next(records))
                sending = [
                    asyncio.create_task(real.events.send([message(real.requests, number)])) for number in range(10)
                ]
                power = getattr(real, how)()
                await power.__aenter__()
                await fails(lambda: _polled_until_it_fails(stream), seconds=15)
                await asyncio.wait(sending)
                following.cancel()
                await asyncio.wait([following, *sending])
                for task in (following, *sending):
                    assert (
                        task.cancelled() or task.exception() is None or isinstance(task.exception(), KafkaUnavailable)
                    )
                began = time.monotonic()
            sending_on = asyncio.create_task(real.events.send([message(real.requests, 1)]))
            await asyncio.sleep(0)
            sending_on.cancel()
            await asyncio.wait([sending_on])
        assert time.monotonic() - began < 20
    await power.__aexit__(None, None, None)


async def test_joining_is_given_up_in_time_by_whoever_is_cancelled(mortal: KafkaServer) -> None:
    """A service that is told to stop while it tries to join."""
    async with mortal_kafka(mortal) as real, real.frozen():
        with nothing_left():
            joining = asyncio.create_task(KafkaRequests(settings=real.settings).__aenter__())
            await asyncio.sleep(0.2)  # it waits for an answer by now, or has yet to connect: both must do
            joining.cancel()
            async with asyncio.timeout(3):
                await asyncio.wait([joining])
            assert joining.cancelled()


async def _next(records: AsyncIterator[Record]) -> Record:
    return await anext(records)


async def _polled_until_it_fails(stream: RequestStream) -> None:
    while True:
        await stream.poll()


async def until_it_holds(condition: Callable[[], Awaitable[bool]]) -> None:
    """As `until`, with patience for brokers that have only just come back."""

    async def holds() -> bool:
        try:
            return await condition()
        except KafkaUnavailable:
            return False

    await until(holds)
