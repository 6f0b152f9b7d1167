"""Run a step's blocking code in a dedicated thread."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from pipeline_processing.user_code import harmless

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepPlace:
    """The step's name for the log."""

    step: str
    dataset: str | None = None


class StepThread(threading.Thread):
    """
    A thread that runs a step's user code. The watchdog finds it by `threading.enumerate()`.

    It is a daemon, so that the process can end while user code hangs. `context` holds the step's context variables,
    which include the run's log fields.
    """

    def __init__(self, place: StepPlace, *, context: contextvars.Context, target: Callable[[], None]) -> None:
        super().__init__(name=place.step, target=target, daemon=True)
        self.place = place
        self.context = context
        self.busy = False
        """Whether user code is running."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of this thread, if it runs one."""


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]


class OwnThread:
    """
    Runs calls one after the other in one thread, so that they may share state that isn't thread-safe.

    A call that hangs delays only later calls of this thread. Cancelling a waiting task takes effect at once; the call's
    result is dropped. The thread is a daemon: unlike those of `asyncio.to_thread`, it doesn't keep the process alive.

    Each call gets a copy of `context`, by default that in which this object is created.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context | None = None) -> None:
        context = contextvars.copy_context() if context is None else context
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = StepThread(place, context=context, target=self._work)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function in the thread. A BaseException such as SystemExit is raised as NoException."""
        if self._thread.ident is None:
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(lambda: function(*args), future))
        return await future

    def close(self) -> None:
        """End the thread after the queued calls."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if call.future.cancelled():
                continue
            result, error = None, None
            self._thread.busy = True
            try:
                result = self._thread.context.copy().run(call.function)
            except BaseException as raised:
                error = harmless(raised)
            self._thread.busy = False
            if not settled(call.future, result, error):
                return
            del call, result, error  # free their memory before waiting for the next call


def settled(future: asyncio.Future[Any], result: Any, error: Exception | None) -> bool:
    """Settle a future of another thread. Return False if its event loop is closed."""
    try:
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)
    except RuntimeError:
        return False
    return True


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
