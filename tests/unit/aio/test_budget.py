"""The byte budget never over-commits, never leaks, and serves in order."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.aio.budget import ByteBudget
from tests.properties import examples


async def waits(task: asyncio.Task[None]) -> bool:
    """Whether a task is stuck once everything that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def test_it_waits_until_enough_is_free() -> None:
    """A release lets the next one in."""
    budget = ByteBudget(10)
    await budget.acquire(8)
    second = asyncio.create_task(budget.acquire(5))
    assert await waits(second)
    budget.release(8)
    await second
    assert (budget.reserved, budget.peak) == (5, 8)


async def test_a_large_request_isnt_overtaken() -> None:
    """Small ones that would fit queue behind it."""
    budget = ByteBudget(10)
    await budget.acquire(5)
    large, small = asyncio.create_task(budget.acquire(10)), asyncio.create_task(budget.acquire(1))
    assert await waits(large)
    assert await waits(small)
    budget.release(5)
    await large
    assert await waits(small)
    budget.release(10)
    await small


async def test_a_cancelled_request_makes_way() -> None:
    """Those behind it don't wait for what nobody wants any more."""
    budget = ByteBudget(10)
    await budget.acquire(5)
    large, small = asyncio.create_task(budget.acquire(10)), asyncio.create_task(budget.acquire(1))
    assert await waits(large)
    large.cancel()
    await small
    assert budget.reserved == 6


async def test_a_grant_that_meets_a_cancellation_is_given_back() -> None:
    """Granted and cancelled in the same turn of the loop."""
    budget = ByteBudget(10)
    await budget.acquire(10)
    second = asyncio.create_task(budget.acquire(10))
    assert await waits(second)
    budget.release(10)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert budget.reserved == 0


@pytest.mark.parametrize("size", [-1, 11])
async def test_the_impossible_is_refused(size: int) -> None:
    """More than the limit could only wait for ever."""
    with pytest.raises(ValueError, match="can never be reserved"):
        await ByteBudget(10).acquire(size)


async def test_more_cant_be_given_back_than_was_taken() -> None:
    """That would raise the limit behind everybody's back."""
    with pytest.raises(ValueError, match="can't be released"):
        ByteBudget(10).release(1)


@given(
    limit=st.integers(1, 50),
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
@examples(300)
def test_tasks_that_come_go_and_are_cancelled(limit: int, sizes: list[int], seed: int) -> None:
    """Never more than the limit, nothing left at the end, and whoever isn't cancelled gets in."""
    choose = random.Random(seed)

    async def scenario() -> None:
        budget = ByteBudget(limit)
        served: list[int] = []

        async def work(number: int, size: int) -> None:
            async with budget.reserve(size):
                served.append(number)
                assert 0 <= budget.reserved <= limit
                for _ in range(choose.randrange(4)):
                    await asyncio.sleep(0)

        tasks = []
        for number, size in enumerate(sizes):
            tasks.append(asyncio.create_task(work(number, min(size, limit))))
            for _ in range(choose.randrange(3)):
                await asyncio.sleep(0)
            if choose.random() < 0.4:
                choose.choice(tasks).cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert set(served) >= {number for number, result in enumerate(results) if result is None}
        assert budget.reserved == 0
        assert budget.peak <= limit

    asyncio.run(scenario())
