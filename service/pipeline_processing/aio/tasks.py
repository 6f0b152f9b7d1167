"""Waiting for asyncio tasks: what a cancellation may only delay, what must delay nothing, and what ends with a stop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline_processing.user_code import contained

T = TypeVar("T")


class Stopped(Exception):
    """Told to stop before the work was done."""


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """
    Run `work` to its end even if the caller is cancelled meanwhile, and only then raise the CancelledError.

    Unlike a bare `asyncio.shield`, it never leaves the work behind as an orphan. Limit the time inside `work`.
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
            task.exception()  # retrieved, so that asyncio doesn't log it: the cancellation takes precedence
        raise cancelled
    return task.result()


async def in_time(work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """
    Return the result of `work`. Raises TimeoutError when it takes longer.

    Unlike `asyncio.timeout`, it doesn't wait until late work has unwound, which may hang.
    """
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        return task.result()
    give_up(task)
    raise TimeoutError


def give_up(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that nobody waits for any more, whatever its result."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved, so that it isn't logged
    task.cancel()


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of the events is set, but no longer than this."""
    if any(event.is_set() for event in events):
        return
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
    """Return the result of `work`. Raises Stopped as soon as `stop` is set, whatever the work waits for."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Stopped
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        if not task.done():
            give_up(task)
