"""A second event loop goes on while the main one is blocked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline_processing.aio.side_loop import SideLoop


async def test_it_runs_while_the_main_loop_is_blocked() -> None:
    """Its results come back when that goes on."""
    beaten = threading.Event()

    async def beat() -> str:
        await asyncio.sleep(0.01)
        beaten.set()
        return "done"

    async with SideLoop() as side:
        work = side.start(beat())
        assert beaten.wait(10), "blocks this loop"
        assert await work == "done"


async def test_errors_and_cancellations_come_through() -> None:
    """Both ways."""
    cancelled = threading.Event()

    async def fail() -> None:
        raise LookupError("no such street")

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async with SideLoop() as side:
        with pytest.raises(LookupError, match="no such street"):
            await side.start(fail())
        hanging = side.start(hang())
        await side.start(asyncio.sleep(0))
        hanging.cancel()
        assert await asyncio.to_thread(cancelled.wait, 10)


async def test_what_is_left_ends_with_it() -> None:
    """Its thread, too."""
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async def thread() -> threading.Thread:
        return threading.current_thread()

    async with SideLoop() as side:
        itself = await side.start(thread())
        side.start(hang())
        await side.start(asyncio.sleep(0))

    assert cancelled.is_set()
    assert not itself.is_alive()


async def test_a_block_is_opened_and_closed_there() -> None:
    """What it opens belongs to that loop."""
    loops = []

    @asynccontextmanager
    async def block() -> AsyncIterator[int]:
        loops.append(asyncio.get_running_loop())
        yield 5
        loops.append(asyncio.get_running_loop())

    async with SideLoop() as side, side.opened(block()) as given:
        assert given == 5

    assert len(loops) == 2
    assert loops[0] is loops[1] is not asyncio.get_running_loop()
