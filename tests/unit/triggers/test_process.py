"""The parts of `triggers` start together, stop in order, and end the process if one fails."""

import asyncio

import pytest

from pipeline_processing.errors import AccessDenied, KafkaUnavailable, SettingsError
from pipeline_processing.telemetry.health import Health
from pipeline_processing.triggers.process import NeededByTriggers, TriggersProcess
from tests.memory.broker import MemoryBroker
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

ENTRIES, CHANGELOG = "entries", "changelog"


class Part:
    """A part that takes a second to stop, or fails."""

    def __init__(self, name: str, log: list[str], *, fails: Exception | None = None) -> None:
        self.name = name
        self.log = log
        self.fails = fails

    async def run(self, stop: asyncio.Event) -> None:
        self.log.append(f"{self.name} starts")
        if self.fails is not None:
            raise self.fails
        await stop.wait()
        await asyncio.sleep(1)
        self.log.append(f"{self.name} ends")


class Parts:
    """A process of two parts on an in-memory Kafka."""

    def __init__(self, *, fails: Exception | None = None) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(clock=self.clock, creates=(ENTRIES, CHANGELOG))
        self.log: list[str] = []
        needed = NeededByTriggers([], clock=self.clock)
        self.health = Health(pulses=[], servers=needed)
        self.process = TriggersProcess(
            writers=[Part("intake", self.log, fails=fails).run],
            windows=Part("windows", self.log).run,
            topics=self.broker,
            paired=(ENTRIES, CHANGELOG),
            kafka=needed.kafka,
            health=self.health,
        )
        self.stop = asyncio.Event()


@in_virtual_time
async def test_windows_are_kept_until_no_events_are_taken() -> None:
    """So that what was taken is settled. The topics are created first."""
    parts = Parts()
    running = asyncio.create_task(parts.process.run(parts.stop))
    await parts.clock.sleep(1)
    assert set(await parts.broker.ends(ENTRIES)) == set(await parts.broker.ends(CHANGELOG))
    parts.stop.set()
    await parts.clock.sleep(0.5)
    assert parts.health.not_ready() == ["stopping"]
    await running
    assert parts.log == ["intake starts", "windows starts", "intake ends", "windows ends"]


@in_virtual_time
async def test_without_brokers_it_gives_up_after_a_minute() -> None:
    """With the exit code of an unreachable server; brokers that come in time are enough."""
    parts = Parts()
    parts.broker.outage = True
    began_at = parts.clock.monotonic()
    with pytest.raises(KafkaUnavailable) as error:
        await parts.process.run(parts.stop)
    assert error.value.exit_code == 69
    assert 55 < parts.clock.monotonic() - began_at <= 60

    running = asyncio.create_task(parts.process.run(parts.stop))
    await parts.clock.sleep(30)
    parts.broker.outage = False
    await parts.clock.sleep(5)
    parts.stop.set()
    await running
    assert parts.log


@in_virtual_time
async def test_it_stops_while_it_waits_for_brokers() -> None:
    """At once."""
    parts = Parts()
    parts.broker.outage = True
    running = asyncio.create_task(parts.process.run(parts.stop))
    await parts.clock.sleep(10)
    parts.stop.set()
    await running
    assert parts.log == []


@in_virtual_time
async def test_topics_that_differ_in_their_partitions_are_refused() -> None:
    """A state would be in another partition than its entries."""
    parts = Parts()
    parts.broker.create(ENTRIES, partitions=3)
    with pytest.raises(SettingsError, match="same number of partitions"):
        await parts.process.run(parts.stop)


@in_virtual_time
async def test_a_part_that_fails_ends_the_process() -> None:
    """With its own error."""
    parts = Parts(fails=AccessDenied("no"))
    with pytest.RaisesGroup(AccessDenied):
        await parts.process.run(parts.stop)
