"""A thread that belongs to one step: for code that may block, or hang."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]
    context: contextvars.Context


class OwnThread:
    """
    Runs calls one after the other in one thread, so that what they share is never used by two threads at once.

    A call that never returns holds up nothing but later calls of this thread: whoever waits for it can be cancelled at
    once, and its result is dropped. The thread is a daemon and never waited for, so the process can end meanwhile;
    threads of `asyncio.to_thread` would be waited for.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = False

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns or raises; whatever isn't an Exception, such as SystemExit, as a RuntimeError."""
        if not self._started:
            self._started = True
            threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True).start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(lambda: function(*args), future, contextvars.copy_context()))
        return await future

    def close(self) -> None:
        """The thread ends after the call under way."""
        self._calls.put(None)


def _work(calls: "SimpleQueue[_Call | None]") -> None:
    while (call := calls.get()) is not None:
        if call.future.cancelled():
            continue
        result, error = None, None
        try:
            result = call.context.run(call.function)
        except BaseException as raised:
            error = _bearable(raised)
        try:
            call.future.get_loop().call_soon_threadsafe(_settle, call.future, result, error)
        except RuntimeError:  # the event loop is closed: nobody waits any more
            return
        del call, result, error  # or the last call's rows would be kept while the next one is waited for


def _bearable(error: BaseException) -> Exception:
    """An error that a future can carry, and that ends neither the event loop nor a task of ours."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    bearable = RuntimeError(f"{type(error).__name__}: {error}")
    bearable.__cause__ = error
    return bearable


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
