"""Work that a cancellation may delay, never break off; and work that may delay nothing."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline_processing.user_code import contained

T = TypeVar("T")


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """
    Run `work` to its end even if the caller is cancelled meanwhile, and only then raise the CancelledError.

    Unlike a bare `asyncio.shield`, which leaves the work behind as an orphan. Limit the time inside `work`.
    """
    task = asyncio.create_task(contained(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio doesn't complain; the cancellation goes before it
        raise cancelled
    return task.result()


async def in_time(work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """
    The result of `work` if it comes in time. Raises TimeoutError.

    Unlike `asyncio.timeout`, it doesn't wait for late work to unwind, which may hang: the work is cancelled and ends
    by itself.
    """
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        return task.result()
    give_up(task)
    raise TimeoutError


def give_up(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that nobody waits for any more, whatever it ends in."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, or asyncio complains
    task.cancel()
