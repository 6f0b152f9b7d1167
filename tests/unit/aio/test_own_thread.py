"""A step's own thread: what blocks there blocks nobody else."""

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline_processing.aio.own_thread import OwnThread, StepPlace

variable = contextvars.ContextVar("variable", default="unset")


@asynccontextmanager
async def own_thread() -> AsyncIterator[OwnThread]:
    thread = OwnThread(StepPlace("test"))
    try:
        yield thread
    finally:
        thread.close()


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


async def test_all_calls_are_made_in_one_thread():
    """Not the event loop's, and the same every time, so that what belongs to a thread can be kept."""
    async with own_thread() as thread:
        [one, other] = await asyncio.gather(thread.run(threading.current_thread), thread.run(threading.current_thread))

    assert one is other is not threading.current_thread()
    assert one.daemon


async def test_results_errors_and_context_come_through():
    """As if the function had been called here."""
    variable.set("here")
    async with own_thread() as thread:
        assert await thread.run(max, 3, 5) == 5
        assert await thread.run(variable.get) == "here"
        with pytest.raises(LookupError, match="no such street"):
            await thread.run(raising(LookupError("no such street")))
        assert await thread.run(str) == ""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()])
async def test_nothing_raised_there_ends_more_than_the_call(error: BaseException):
    """SystemExit in a task would end the event loop, and StopIteration fits into no future."""
    async with own_thread() as thread:
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await thread.run(raising(error))
        assert await thread.run(str) == ""


async def test_a_hanging_call_can_be_left_at_once():
    """Its result comes to nobody; calls behind it that were left as well are never made."""
    may_go_on = threading.Event()
    made: list[str] = []
    async with own_thread() as thread:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await thread.run(may_go_on.wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await thread.run(made.append, "left")
        may_go_on.set()
        assert await thread.run(made.append, "awaited") is None

    assert made == ["awaited"]


async def test_the_thread_ends():
    """Once the step is closed and the call under way is over."""
    may_go_on = threading.Event()
    thread = OwnThread(StepPlace("test"))
    itself = await thread.run(threading.current_thread)
    hanging = asyncio.create_task(thread.run(may_go_on.wait))
    await asyncio.sleep(0)
    thread.close()
    assert itself.is_alive()

    may_go_on.set()
    assert await hanging
    await asyncio.to_thread(itself.join, 10)

    assert not itself.is_alive()


HANGING_PROCESS = """
import asyncio, threading
from pipeline_processing.aio.own_thread import OwnThread
from pipeline_processing.aio.own_thread import StepPlace

async def main():
    thread = OwnThread(StepPlace("test"))
    try:
        async with asyncio.timeout(0.1):
            await thread.run(threading.Event().wait)
    except TimeoutError:
        print("left")

asyncio.run(main())
"""


def test_the_process_ends_while_a_call_hangs():
    """Neither the event loop's end nor the interpreter's waits for it."""
    process = subprocess.run([sys.executable, "-c", HANGING_PROCESS], capture_output=True, text=True, timeout=60)

    assert (process.stdout, process.returncode, process.stderr) == ("left\n", 0, "")


def test_a_result_after_the_event_loop_is_closed_is_dropped():
    """The thread ends without a word."""
    started, may_go_on = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        may_go_on.wait()

    async def leave() -> threading.Thread:
        itself = await thread.run(threading.current_thread)
        task = asyncio.create_task(thread.run(hang))
        await asyncio.to_thread(started.wait)
        task.cancel()
        return itself

    thread = OwnThread(StepPlace("test"))
    itself = asyncio.run(leave())
    may_go_on.set()
    itself.join(10)

    assert not itself.is_alive()
