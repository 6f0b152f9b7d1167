"""A step's own event loop: async code that computes or hangs there blocks nobody else."""

import asyncio
import contextvars
import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline_processing.aio.own_thread import StepPlace
from pipeline_processing.steps.own_loop import OwnLoop

variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="unset")

Function = Callable[..., Awaitable[Any]]


async def nothing() -> None:
    return


def new_loop() -> OwnLoop:
    return OwnLoop(StepPlace("test"), contextvars.copy_context())


@asynccontextmanager
async def own_loop() -> AsyncIterator[OwnLoop]:
    loop = new_loop()
    try:
        yield loop
    finally:
        await loop.close(nothing, stop_seconds=10)


async def where() -> tuple[threading.Thread, Any, Any]:
    return threading.current_thread(), asyncio.get_running_loop(), asyncio.current_task()


async def raising(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def test_all_calls_are_made_in_one_task():
    """So that what may be entered, used and left in one task only can be opened, called and closed."""
    async with own_loop() as loop:
        one, other = await loop.run(where), await loop.run(where)

    assert one == other
    assert one[0] is not threading.current_thread()
    assert one[1] is not asyncio.get_running_loop()


async def test_results_errors_and_context_come_through():
    """As if the function had been awaited here; what a call sets, the next one sees."""

    async def read() -> str:
        return variable.get()

    async def write(value: str) -> None:
        variable.set(value)

    variable.set("here")
    async with own_loop() as loop:
        assert await loop.run(read) == "here"
        await loop.run(write, "there")
        assert await loop.run(read) == "there"
        with pytest.raises(LookupError, match="no such street"):
            await loop.run(raising, LookupError("no such street"))
        assert await loop.run(read) == "there"
    assert variable.get() == "here"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException("x")]
)
async def test_nothing_raised_there_ends_more_than_the_call(error: BaseException):
    """The next call is made as ever."""
    async with own_loop() as loop:
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await loop.run(raising, error)
        assert await loop.run(where)


async def exits_in_a_task() -> None:
    task = asyncio.create_task(raising(SystemExit("enough")))
    await asyncio.sleep(3600)
    await task


async def exits_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raising(SystemExit("enough")))


async def exits_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, "enough")
    await asyncio.sleep(3600)


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (exits_in_a_task, "SystemExit: enough"),
        (exits_in_a_group, "SystemExit: enough"),
        (exits_in_a_callback, "SystemExit: enough"),
        (stops_the_loop, "stopped"),
    ],
)
async def test_what_a_call_has_started_ends_the_call(function: Function, message: str):
    """asyncio raises SystemExit of any task out of the event loop, past the one that waits."""
    async with own_loop() as loop:
        with pytest.raises(RuntimeError, match=message):
            await loop.run(function)
        assert await loop.run(where)


async def test_what_is_raised_between_two_calls_fails_the_next_one():
    """Nobody else could be told."""
    ended = threading.Event()

    async def starts() -> None:
        async def later() -> None:
            await asyncio.sleep(0.01)
            ended.set()
            raise SystemExit("enough")

        variable.set(asyncio.create_task(later()))  # kept

    async with own_loop() as loop:
        await loop.run(starts)
        assert await asyncio.to_thread(ended.wait, 10)
        with pytest.raises(RuntimeError, match="SystemExit: enough"):
            await loop.run(where)
        assert await loop.run(where)


async def test_a_call_that_is_left_is_cancelled():
    """It can clean up, and is waited for when the loop is closed."""
    cleaned_up = threading.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned_up.set()

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    loop = new_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop.run(hangs)
    assert await loop.close(nothing, stop_seconds=10)
    assert cleaned_up.is_set()
    gc.collect()
    assert complaints == [], "nobody misses its outcome"


async def test_a_call_that_does_not_stop_is_left_alone():
    """Closing goes on without it; what closes the rest is done when it has ended after all."""
    may_go_on, closed = threading.Event(), threading.Event()

    async def computes() -> threading.Thread:
        may_go_on.wait()
        return threading.current_thread()

    async def close() -> None:
        closed.set()

    loop = new_loop()
    thread, _, _ = await loop.run(where)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop.run(computes)
    assert not await loop.close(close, stop_seconds=0.05)
    assert not closed.is_set()

    may_go_on.set()
    await asyncio.to_thread(thread.join, 10)
    assert closed.is_set()
    assert not thread.is_alive()


async def test_the_thread_ends_with_the_last_call():
    """And with it all tasks that were left behind."""
    cancelled = threading.Event()

    async def starts() -> None:
        async def background() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                cancelled.set()

        variable.set(asyncio.create_task(background()))
        await asyncio.sleep(0)

    loop = new_loop()
    thread, _, _ = await loop.run(where)
    await loop.run(starts)
    assert await loop.close(nothing, stop_seconds=10)
    await asyncio.to_thread(thread.join, 10)

    assert cancelled.is_set()
    assert not thread.is_alive()


async def test_a_loop_that_was_never_used_has_no_thread():
    """Most steps are no async code."""
    loop = OwnLoop(StepPlace("never used"), contextvars.copy_context())
    assert await loop.close(nothing, stop_seconds=10)
    assert "never used" not in {thread.name for thread in threading.enumerate()}


async def test_subprocesses_work_there():
    """asyncio ties them to the main thread in some event loops."""

    async def echo() -> bytes:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(5)", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    async with own_loop() as loop:
        assert await loop.run(echo) == b"5\n"
