"""A thread that belongs to one step: for code that may block, or hang."""

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
    """Which step, for the log."""

    step: str
    dataset: str | None = None


class StepThread(threading.Thread):
    """
    A thread that runs a step's user code. The watchdog finds it by `threading.enumerate()`.

    It is a daemon: the process may end while user code hangs in it. `context` holds the context variables of the step,
    the run's log fields among them.
    """

    def __init__(self, place: StepPlace, *, context: contextvars.Context, target: Callable[[], None]) -> None:
        super().__init__(name=place.step, target=target, daemon=True)
        self.place = place
        self.context = context
        self.busy = False
        """Whether a call of user code is under way."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that runs in it, if one does."""


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]


class OwnThread:
    """
    Runs calls one after the other in one thread, so that two threads never use at once what the calls share.

    A call that never returns delays only later calls of this thread. Whoever waits for it can be cancelled at once, and
    its result is dropped. The thread is a daemon, so unlike those of `asyncio.to_thread` it doesn't keep the process
    from ending.

    Each call gets a copy of `context`, by default that in which this object is made.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context | None = None) -> None:
        context = contextvars.copy_context() if context is None else context
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = StepThread(place, context=context, target=self._work)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns or raises. What isn't an Exception, such as SystemExit, becomes NoException."""
        if self._thread.ident is None:
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(lambda: function(*args), future))
        return await future

    def close(self) -> None:
        """The thread ends after the call under way."""
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
            del call, result, error  # or they would stay in memory until the next call


def settled(future: asyncio.Future[Any], result: Any, error: Exception | None) -> bool:
    """Settle a future of another thread. False if its event loop is closed, so that nothing waits for it."""
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
