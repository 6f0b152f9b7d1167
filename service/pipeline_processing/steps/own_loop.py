"""An event loop that belongs to one step: for async code that may compute for long, or hang."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from pipeline_processing.aio.own_thread import StepPlace, StepThread, settled
from pipeline_processing.user_code import NoException, harmless

T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    function: Callable[[], Awaitable[Any]]
    future: asyncio.Future[Any]
    """Settled once the call has ended, also if it is abandoned."""
    last: bool
    abandoned: bool = False
    """Nothing waits for it any more."""


class OwnLoop:
    """
    Runs async calls one after the other in one task of an event loop, in a thread of its own. So async contexts can be
    entered, used and left there, and code that computes for minutes, or hangs, blocks nothing else.

    Whoever waits for a call can be cancelled at once. The call is then cancelled too, and its result dropped. The
    thread is a daemon, and never joined.

    The task runs in `context`, which no other thread may enter.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context) -> None:
        self._thread = StepThread(place, context=context, target=self._work)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: asyncio.Queue[_Call] = asyncio.Queue()
        self._latest: asyncio.Future[Any] | None = None
        self._current: _Call | None = None
        self._cancels = 0
        """How often the current call was cancelled by `_cancel`."""
        self._stray: Exception | None = None
        """An error of something that user code has started beside its calls. The next call raises it."""

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """What the function returns or raises. What isn't an Exception, such as SystemExit, becomes NoException."""
        call = self._submitted(lambda: function(*args), last=False)
        try:
            return await asyncio.shield(call.future)
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    async def close(self, function: Callable[..., Awaitable[Any]], *args: Any, stop_seconds: float) -> bool:
        """
        Make a last call, after which the thread ends. False if an abandoned call doesn't stop within `stop_seconds`:
        then the last one is abandoned too.
        """
        latest = self._latest
        if latest is None:
            return True  # nothing was ever called
        if not latest.done():
            await asyncio.wait((latest,), timeout=stop_seconds)
        call = self._submitted(lambda: function(*args), last=True)
        if not latest.done():
            return False
        try:
            await asyncio.shield(call.future)
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        return True

    def _submitted(self, function: Callable[[], Awaitable[Any]], *, last: bool) -> _Call:
        if self._loop is None:
            self._loop = self._thread.loop = uvloop.new_event_loop()
            self._thread.start()
        call = _Call(function, asyncio.get_running_loop().create_future(), last)
        call.future.add_done_callback(_seen)
        self._latest = call.future
        self._loop.call_soon_threadsafe(self._calls.put_nowait, call)
        return call

    def _abandon(self, call: _Call) -> None:
        call.abandoned = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the event loop has ended meanwhile, and the call with it
                self._loop.call_soon_threadsafe(self._cancel, call)

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        # Errors of tasks that user code has left behind belong to no call.
        with suppress(BaseException), asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop()
            self._task = loop.create_task(self._serve(), context=self._thread.context)
            while not self._task.done():
                try:
                    loop.run_until_complete(self._task)
                except BaseException as raised:  # from a task of user code, or user code has stopped the loop
                    self._stray = harmless(raised)
                    if self._current is not None:
                        self._cancel(self._current)

    async def _serve(self) -> None:
        goes_on = True
        while goes_on:
            try:
                call = await self._calls.get()
            except asyncio.CancelledError as error:  # by a TaskGroup of user code that failed between two calls
                self._stray = self._stray or harmless(error)
                continue
            if call.abandoned and not call.last:
                goes_on = settled(call.future, None, None)
            else:
                goes_on = await self._serve_one(call) and not call.last
            del call  # or its rows would stay in memory until the next call

    async def _serve_one(self, call: _Call) -> bool:
        """False if the caller's event loop is closed."""
        result, error = None, None
        self._current, self._thread.busy = call, True
        try:
            if self._stray is None or call.last:
                result = await call.function()
        except BaseException as raised:
            error = harmless(raised)
        self._current, self._thread.busy = None, False
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        if self._stray is not None and (error is None or isinstance(error, NoException)):
            error, self._stray = self._stray, None
        return settled(call.future, result, error)

    def _cancel(self, call: _Call) -> None:
        if self._current is call:
            self._cancels += 1
            self._task.cancel()


def _seen(future: asyncio.Future[Any]) -> None:
    """Keeps asyncio from reporting an error that nothing waits for any more."""
    if not future.cancelled():
        future.exception()
