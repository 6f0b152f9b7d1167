"""How fast an API is asked."""

import asyncio
import gc

from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Pace, Paces
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

A = ("http", "a.example", 80)
B = ("http", "b.example", 80)


async def times(pace: Pace, count: int) -> list[float]:
    """When each of so many requests at once may go out."""
    clock = VirtualClock()

    async def one() -> float:
        await pace.wait()
        return clock.monotonic()

    return await asyncio.gather(*(one() for _ in range(count)))


@in_virtual_time
async def test_requests_are_spaced_evenly():
    """However many wait, each gets a moment of its own, in the order of coming."""
    assert await times(Pace(per_second=4, clock=VirtualClock()), 5) == [0, 0.25, 0.5, 0.75, 1]


@in_virtual_time
async def test_idle_time_is_not_saved_up():
    """After a rest there is no burst."""
    pace = Pace(per_second=1, clock=VirtualClock())
    await pace.wait()
    await asyncio.sleep(10)

    assert await times(pace, 2) == [10, 11]


@in_virtual_time
async def test_no_limit():
    """Without a limit nobody waits."""
    assert await times(Pace(per_second=None, clock=VirtualClock()), 3) == [0, 0, 0]


@in_virtual_time
async def test_a_pause_holds_everybody_back():
    """Also those who wait already; a shorter pause doesn't end a longer one."""
    pace = Pace(per_second=1, clock=VirtualClock())
    waiting = asyncio.create_task(times(pace, 3))
    await asyncio.sleep(0.5)
    pace.pause(10)
    pace.pause(2)

    assert await waiting == [0, 10.5, 11.5]


@in_virtual_time
async def test_whoever_gives_up_keeps_nobody_waiting():
    """A request that is cancelled while it waits takes no turn."""
    pace = Pace(per_second=1, clock=VirtualClock())
    await pace.wait()
    waiting = asyncio.create_task(pace.wait())
    await asyncio.sleep(0.5)
    waiting.cancel()

    assert await times(pace, 1) == [1]


@in_virtual_time
async def test_one_pace_for_one_way_to_ask_an_api():
    """All runs that ask the same server in the same way share it; another server, or another way, is another."""
    paces = Paces(clock=VirtualClock())
    options = UpstreamOptions(requests_per_second=5)
    pace = paces.of(options, A)

    assert paces.of(UpstreamOptions(requests_per_second=5), A) is pace
    assert paces.of(options, B) is not pace
    assert paces.of(UpstreamOptions(requests_per_second=6), A) is not pace


@in_virtual_time
async def test_a_pace_that_nobody_keeps_is_gone():
    """Servers that were asked once don't fill the memory."""
    paces = Paces(clock=VirtualClock())
    paces.of(UpstreamOptions(), A).pause(1000)
    gc.collect()

    assert await times(paces.of(UpstreamOptions(), A), 1) == [0]
