"""What the process does beside Faust: when it serves, and that it notices what Faust doesn't deliver."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.triggers.faust_app import FaustLog
from tests.unit.triggers.triggered import ENTRIES, Triggered
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

_CONNECTION: Any = None


class Beside:
    """The process on a Faust that does nothing."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.triggered = Triggered(self.clock)
        self.log = FaustLog(
            connection=_CONNECTION,
            app_id="triggers",
            entries_topic=ENTRIES,
            keeper=self.triggered.keeper,
            topics=self.triggered.broker,
            clock=self.clock,
            health=self.triggered.health,
            pulse=Pulse("windows", clock=self.clock),
        )
        assigned = [SimpleNamespace(topic=ENTRIES, partition=partition) for partition in self.triggered.partitions]
        consumer = SimpleNamespace(assignment=lambda: assigned)
        self.log._app = SimpleNamespace(crashed=False, rebalancing=False, consumer_generation_id=1, consumer=consumer)
        self.log._awake_at = self.clock.monotonic()
        self.log._restored = 1
        for partition in self.triggered.partitions:
            self.log._states[partition] = {b"complete": b"{}"}

    async def work(self, then: Any) -> list[str]:
        """Work until `then`, which is called twice a second, returns true. Return the states of the health."""
        stop, states = asyncio.Event(), list[str]()

        async def tick(_: asyncio.Event) -> None:
            states.append(self.triggered.health.state)
            if then(len(states)):
                stop.set()

        await asyncio.wait_for(self.log._work(stop, [tick]), timeout=600)
        return states


@in_virtual_time
async def test_it_serves_again_after_a_pause() -> None:
    """Although its partitions haven't moved."""
    beside = Beside()
    began = beside.clock.monotonic()

    def then(ticks: int) -> bool:
        if ticks == 2:
            beside.log._awake_at -= 8
        return ticks == 4

    assert await beside.work(then) == ["serving"] * 4
    assert beside.clock.monotonic() - began >= 5


@in_virtual_time
async def test_a_partition_that_faust_doesnt_deliver_is_noticed() -> None:
    """Although another one's entries keep coming."""
    beside = Beside()
    began = beside.clock.monotonic()
    triggered = beside.triggered
    triggered.broker.put(Outgoing(topic=ENTRIES, key=b"7", value=b"{}"))
    (partition,) = [each for each, end in (await triggered.broker.ends(ENTRIES)).items() if end]

    def then(ticks: int) -> bool:
        for other in triggered.partitions:
            if other != partition:
                triggered.keeper._next[other] += 1
        return ticks == 200

    with pytest.raises(KafkaUnavailable, match=f"no entries of partition {partition}"):
        await beside.work(then)
    assert beside.clock.monotonic() - began >= 60
