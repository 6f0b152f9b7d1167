"""Shielded work ends before a cancellation goes on."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pipeline_processing.aio.tasks import in_time, shielded, unless_stopped


async def test_it_gives_back_what_the_work_returns() -> None:
    """Without a cancellation it is a plain call."""

    async def work() -> int:
        return 7

    assert await shielded(work()) == 7


async def test_the_works_own_error_comes_through() -> None:
    """As from a plain call."""

    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await shielded(work())


@pytest.mark.parametrize("fails", [False, True])
async def test_however_often_cancelled_the_work_ends_first(fails: bool) -> None:
    """The cancellation is raised after it, before any error of the work."""
    ended = False

    async def work() -> None:
        nonlocal ended
        for _ in range(10):
            await asyncio.sleep(0)
        ended = True
        if fails:
            raise KeyError("x")

    task = asyncio.create_task(shielded(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_work_in_time_is_a_plain_call() -> None:
    """With its result, or its error."""

    async def work(error: Exception | None = None) -> int:
        if error is not None:
            raise error
        return 7

    assert await in_time(work(), seconds=10) == 7
    with pytest.raises(KeyError):
        await in_time(work(KeyError("x")), seconds=10)


async def test_late_work_isnt_waited_for_though_it_ignores_its_cancellation() -> None:
    """It ends by itself."""
    release, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
            ended.set()

    with pytest.raises(TimeoutError):
        await in_time(hangs(), seconds=0.01)
    assert not ended.is_set()
    release.set()
    await asyncio.wait_for(ended.wait(), 10)


async def test_work_that_fails_in_the_moment_of_a_cancellation() -> None:
    """Its error isn't logged as one that nobody has seen."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context["message"]))
    go = asyncio.Event()

    async def fails() -> None:
        await go.wait()
        raise ValueError

    waiting = asyncio.create_task(unless_stopped(fails(), asyncio.Event()))
    await asyncio.sleep(0.01)
    go.set()
    await asyncio.sleep(0)  # fails, which nobody knows yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    await asyncio.sleep(0)
    gc.collect()
    assert unseen == []
