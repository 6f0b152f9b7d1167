"""A thread that belongs to one step: for code that may block, or hang."""

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from pipeline_processing.aio.step_thread import StepPlace, StepThread
from pipeline_processing.user_code import harmless

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]


class OwnThread:
    """
    Runs calls one after the other in one thread, so that what they share is never used by two threads at once.

    A call that never returns holds up nothing but later calls of this thread: whoever waits for it can be cancelled at
    once, and its result is dropped. The thread is a daemon and never waited for, so the process can end meanwhile;
    threads of `asyncio.to_thread` would be waited for.

    Each call gets a copy of `context`, by default that in which this object is made.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context | None = None) -> None:
        context = contextvars.copy_context() if context is None else context
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = StepThread(place, context=context, target=self._work)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns or raises; what isn't an Exception, such as SystemExit, as NoException."""
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
            del call, result, error  # or the last call's rows would be kept while the next one is waited for


def settled(future: asyncio.Future[Any], result: Any, error: Exception | None) -> bool:
    """Settle a future of another thread; False if its event loop is closed, so that nobody waits any more."""
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
