"""Wait for asyncio tasks: shielded from cancellation, with a time limit, or until told to stop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline_processing.user_code import contained

T = TypeVar("T")


class Stopped(Exception):
    """The work was stopped before it was done."""


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """
    Run `work` to its end. If the caller is cancelled meanwhile, raise the CancelledError only then.

    Unlike `asyncio.shield`, this leaves no orphan task. `work` must limit its own time.
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
            task.exception()  # retrieve it, so that asyncio doesn't log it; the cancellation takes precedence
        raise cancelled
    return task.result()


async def in_time(work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """
    Return the result of `work`. Raises TimeoutError if it takes longer than `seconds`.

    Unlike `asyncio.timeout`, this doesn't wait for the cancelled work to unwind, which may hang.
    """
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        return task.result()
    give_up(task)
    raise TimeoutError


def give_up(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and ignore its result."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved, so that it isn't logged
    task.cancel()


async def first_of(*events: asyncio.Event, seconds: float | None) -> None:
    """Wait until one of the events is set, for `seconds` at most; None is no limit."""
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
    """Return the result of `work`. Cancels it and raises Stopped as soon as `stop` is set."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Stopped
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        give_up(task)  # also if it is done: this may have been cancelled in the moment in which it failed
