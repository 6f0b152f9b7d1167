"""Runs a command's coroutine. Ctrl-C and SIGTERM unwind it, so that uploads are aborted and connections closed."""

import gc
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline_processing.signals import Terminated, raise_interrupted

T = TypeVar("T")

_START_SECONDS = 1.0
"""How long garbage stays, if `main` has turned its collection off for the start."""
_TRACKED_OBJECTS = 10_000
"""How many more objects there must be before the garbage collector runs; Python's default is 700."""


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run the coroutine and return its result.

    SIGINT and SIGTERM cancel it. Raises KeyboardInterrupt or Terminated once it has unwound.
    """
    import asyncio  # here, because some commands need no event loop

    import uvloop

    with _default_sigint(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_terminable(coroutine))


def collect_garbage_rarely() -> None:
    """
    Exempt all existing objects from garbage collection, and collect new ones less often. Call it after the start.

    A batch of rows is thousands of objects without cycles. By default they would start collection after collection,
    some of which look at every module.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(_TRACKED_OBJECTS, *gc.get_threshold()[1:])


def give_back_memory() -> None:
    """Return what the start has freed to the system, some MiB. Call it in processes that may be idle for hours."""
    import ctypes

    # glibc keeps it otherwise. Other C libraries have no such function.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


@contextmanager
def _default_sigint() -> Iterator[None]:
    """Restore the default SIGINT handler inside the block: the Runner handles SIGINT only in its place."""
    ours = signal.getsignal(signal.SIGINT) is raise_interrupted
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, raise_interrupted)


async def _terminable(coroutine: Coroutine[Any, Any, T]) -> T:
    import asyncio

    asyncio.get_running_loop().call_later(_START_SECONDS, gc.enable)
    task = asyncio.current_task()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    before = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await coroutine
    except asyncio.CancelledError:
        if terminated:
            raise Terminated from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
