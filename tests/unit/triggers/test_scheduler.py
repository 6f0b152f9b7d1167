"""Ticks become runs: once each, whatever happens to the processes that ask."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.aio.asking import Server
from pipeline_processing.errors import PipelineError, QueryInvalid, SourceUnavailable
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import JobRequest
from pipeline_processing.triggers import scheduler as module
from pipeline_processing.triggers.config import ScheduleTrigger
from pipeline_processing.triggers.schedule import ticks
from pipeline_processing.triggers.scheduler import Scheduler
from pipeline_processing.triggers.windows import AgencyWindows, apply, read_entry
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time

MONDAY = datetime(2026, 10, 19, tzinfo=UTC)
"""The week in which Europe/Zurich goes back to winter time, on Sunday."""
WEEK = 7 * 24 * 60 * 60.0
QUERY = "SELECT id FROM agencies"


class Clock(VirtualClock):
    """Begins at a certain moment."""

    def __init__(self, start: datetime) -> None:
        self._ahead = start - EPOCH

    def now(self) -> datetime:
        return super().now() + self._ahead


def trigger(name: str, cron: str, **changes: Any) -> ScheduleTrigger:
    schedule = {"cron": cron, "agencies": [1, 2], **changes}
    return ScheduleTrigger.model_validate({"name": name, "schedule": schedule})


class World:
    """The log of entries, the windows made from it, and the database of agencies."""

    def __init__(self, start: datetime = MONDAY) -> None:
        self.clock = Clock(start)
        self.leaders: set[str] = set()
        self.agencies: list[Sequence[int] | PipelineError] = [(1, 2, 3)]
        """Answers of the database, in turn; the last one for good."""
        self.asked: list[JobRequest] = []
        self.source = Server("the source", clock=self.clock)
        self.slow: Callable[[], float] = lambda: 0.0
        self._states: dict[bytes, AgencyWindows] = {}
        self._end = 0

    async def send(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            await self.clock.sleep(self.slow())
            assert message.key is not None
            assert message.value is not None
            entry = read_entry(message.value)
            state = self._states.get(message.key, AgencyWindows(agency_id=entry.agency_id))
            state, ask = apply(state, entry, offset=self._end, at=self.clock.now())
            self._states[message.key], self._end = state, self._end + 1
            if ask is not None:
                self.asked.append(ask.request)

    async def listed(self, query: str) -> Sequence[int]:
        assert query == QUERY
        answer = self.agencies.pop(0) if len(self.agencies) > 1 else self.agencies[0]
        if isinstance(answer, PipelineError):
            raise answer
        return answer

    def scheduler(self, schedules: Sequence[ScheduleTrigger], *, process: str = "a") -> Scheduler:
        return Scheduler(
            schedules,
            agency_ids=self,
            leads=lambda: process in self.leaders,
            triggers_id="t",
            entries_topic="entries",
            events=self,
            source=self.source,
            kafka=Server("Kafka", clock=self.clock),
        )

    async def run(self, *schedules: ScheduleTrigger, seconds: float) -> None:
        """Run one process that leads."""
        self.leaders = {"a"}
        stop = asyncio.Event()
        task = asyncio.create_task(self.scheduler(schedules).run(stop))
        await self.clock.sleep(seconds)
        stop.set()
        await task

    @property
    def run_ids(self) -> list[str]:
        return [str(request.run_id) for request in self.asked]


def run_ids_of(each: ScheduleTrigger, agencies: Sequence[int], *, start: datetime, end: datetime) -> set[str]:
    found = list(_until(ticks(each.schedule, after=start), end))
    return {f"trigger-{each.name}-{agency}-{tick:%Y%m%dT%H%M%SZ}" for tick in found for agency in agencies}


def _until(moments: Any, end: datetime) -> Any:
    for moment in moments:
        if moment > end:
            return
        yield moment


def test_each_tick_of_a_week_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two processes that are killed at any moment, or paused while the other one takes over."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 240.0)
    schedules = [
        trigger("often", "*/20 * * * *"),
        trigger("nightly", "30 2 * * *", time_zone="Europe/Zurich", agencies={"query": QUERY}),
    ]
    world, chance = World(), random.Random(12)
    world.slow = lambda: chance.choice([0.0, 0.1, 30.0])  # so that kills also come between two entries
    kills = Counter[str]()

    async def live(process: str, rank: int) -> None:
        """Start, lead if no other one does, be killed or paused, and start again after a while."""
        while True:
            running = asyncio.create_task(world.scheduler(schedules, process=process).run(asyncio.Event()))
            try:
                await world.clock.sleep(rank)
                until = world.clock.monotonic() + chance.expovariate(1 / 3000)
                while world.clock.monotonic() < until:
                    if not world.leaders:
                        world.leaders = {process}
                    await world.clock.sleep(60)
                if chance.random() < 0.3 and process in world.leaders:
                    kills["paused"] += 1
                    world.leaders = {"a", "b"}  # it doesn't know yet that it isn't the one
                    await world.clock.sleep(chance.uniform(0, 120))
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            kills["killed"] += 1
            world.leaders.discard(process)
            await world.clock.sleep(chance.uniform(1, 300))

    @in_virtual_time
    async def simulate() -> None:
        processes = [asyncio.create_task(live(name, rank)) for rank, name in enumerate("ab")]
        await world.clock.sleep(WEEK)
        for each in processes:
            each.cancel()
        await asyncio.gather(*processes, return_exceptions=True)

    simulate()
    end = MONDAY + timedelta(seconds=WEEK - 15 * 60)  # the last tick may still be on its way
    expected = [
        run_ids_of(schedules[0], [1, 2], start=MONDAY - timedelta(seconds=1), end=end),
        run_ids_of(schedules[1], [1, 2, 3], start=MONDAY - timedelta(seconds=1), end=end),
    ]
    assert len(expected[1]) == 21
    assert kills["killed"] > 100
    assert kills["paused"] > 10
    assert Counter(each for each in world.run_ids if each in set().union(*expected)) == Counter(
        sorted(set().union(*expected))
    )


@in_virtual_time
async def test_a_tick_is_asked_for_when_it_comes() -> None:
    """For each agency, with what the trigger says."""
    world = World()
    await world.run(trigger("minutely", "* * * * *", catch_up="1m"), seconds=2 * 60 + 5)
    assert world.run_ids == [
        "trigger-minutely-1-20261019T000000Z",
        "trigger-minutely-2-20261019T000000Z",
        "trigger-minutely-1-20261019T000100Z",
        "trigger-minutely-2-20261019T000100Z",
        "trigger-minutely-1-20261019T000200Z",
        "trigger-minutely-2-20261019T000200Z",
    ]
    assert {request.requested_by for request in world.asked} == {"trigger:minutely"}


@in_virtual_time
async def test_a_process_that_doesnt_lead_asks_for_nothing() -> None:
    """Until it leads; then it makes up for the newest tick that was missed."""
    world = World()
    stop = asyncio.Event()
    task = asyncio.create_task(world.scheduler([trigger("minutely", "* * * * *")]).run(stop))
    await world.clock.sleep(3 * 60 + 5)
    assert world.asked == []
    world.leaders = {"a"}
    await world.clock.sleep(2)
    stop.set()
    await task
    assert world.run_ids == ["trigger-minutely-1-20261019T000300Z", "trigger-minutely-2-20261019T000300Z"]


@in_virtual_time
async def test_the_agencies_are_read_for_each_tick() -> None:
    """And again until the database answers."""
    world = World()
    world.agencies = [SourceUnavailable("away"), SourceUnavailable("away"), (5,), (5, 6)]
    await world.run(trigger("minutely", "* * * * *", agencies={"query": QUERY}), seconds=65)
    assert [request.agency_id for request in world.asked] == [5, 5, 6]
    assert world.source.problem is None


@in_virtual_time
async def test_a_tick_whose_agencies_cant_be_read_is_given_up_in_the_end() -> None:
    """The problem is shown meanwhile, and other schedules go on."""
    world = World()
    world.agencies = [QueryInvalid("no such table")]
    by_query = trigger("nightly", "0 0 * * *", agencies={"query": QUERY}, catch_up="2m")
    running = asyncio.create_task(world.run(by_query, trigger("minutely", "* * * * *"), seconds=4 * 60 + 5))
    await world.clock.sleep(65)
    assert world.source.problem == "no such table"
    assert len(world.asked) == 4
    await running
    assert world.source.problem is None
    assert len(world.asked) == 10


@in_virtual_time
async def test_many_agencies_are_all_asked_for() -> None:
    """In several messages."""
    world = World()
    world.agencies = [range(1, 1235)]
    await world.run(trigger("nightly", "0 0 * * *", agencies={"query": QUERY}), seconds=5)
    assert [request.agency_id for request in world.asked] == list(range(1, 1235))
