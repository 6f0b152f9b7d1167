"""Stopping: waiting that ends when it is time to, and how much time there is."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline_processing.aio.shielded import give_up

T = TypeVar("T")


class Stopped(Exception):
    """Told to stop before it was done."""


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of the events is set, and for so long at most."""
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
    """The result of `work`. Raises Stopped at once when it is time to stop, whatever the work waits for."""
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


def hand_back_seconds(drain_seconds: float) -> float:
    """How much of the drain time is for handing back what isn't finished, and for cleaning up and closing."""
    return min(10.0, drain_seconds / 4)


def leave_seconds(drain_seconds: float) -> float:
    """How much of that each run may take."""
    return max(1.0, hand_back_seconds(drain_seconds) / 2)
