"""An event loop that belongs to one step: for async code that may compute for long, or hang."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from pipeline_processing.aio.own_thread import settled
from pipeline_processing.aio.step_thread import StepPlace, StepThread
from pipeline_processing.user_code import NoException, harmless

T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    function: Callable[[], Awaitable[Any]]
    future: asyncio.Future[Any]
    """Settled once the call has ended, also if nobody waits for it any more."""
    last: bool
    left: bool = False
    """Nobody waits for it."""


class OwnLoop:
    """
    Runs async calls one after the other in one task of an event loop in a thread of its own, so that contexts may be
    entered, used and left in it. What computes there for minutes, or hangs, holds up nothing else.

    Whoever waits for a call can be cancelled at once: the call is cancelled as well, and its result dropped. The
    thread is a daemon and never waited for.

    The task runs in `context`, which no other thread may enter.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context) -> None:
        self._thread = StepThread(place, context=context, target=self._work)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: asyncio.Queue[_Call] = asyncio.Queue()
        self._latest: asyncio.Future[Any] | None = None
        self._current: _Call | None = None
        self._cancels = 0
        """How often the current call was cancelled from here."""
        self._stray: Exception | None = None
        """What something raised that user code has started beside its calls, until somebody is told."""

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """What the function returns or raises; what isn't an Exception, such as SystemExit, as NoException."""
        call = self._submitted(lambda: function(*args), last=False)
        try:
            return await asyncio.shield(call.future)
        except asyncio.CancelledError:
            self._leave(call)
            raise

    async def close(self, function: Callable[..., Awaitable[Any]], *args: Any, stop_seconds: float) -> bool:
        """
        Make a last call, after which the thread ends. False if a call that was left before doesn't stop within so many
        seconds: then nobody waits for the last one either.
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
            self._leave(call)
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

    def _leave(self, call: _Call) -> None:
        call.left = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the event loop has ended meanwhile, and the call with it
                self._loop.call_soon_threadsafe(self._cancel, call)

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        # What tasks raise that user code has left behind is nobody's.
        with suppress(BaseException), asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop()
            self._task = loop.create_task(self._serve(), context=self._thread.context)
            while not self._task.done():
                try:
                    loop.run_until_complete(self._task)
                except BaseException as raised:  # of a task that user code has started, or it has stopped the loop
                    self._stray = harmless(raised)
                    if self._current is not None:
                        self._cancel(self._current)

    async def _serve(self) -> None:
        goes_on = True
        while goes_on:
            try:
                call = await self._calls.get()
            except asyncio.CancelledError as error:  # a TaskGroup of user code that failed between two calls
                self._stray = self._stray or harmless(error)
                continue
            if call.left and not call.last:
                goes_on = settled(call.future, None, None)
            else:
                goes_on = await self._serve_one(call) and not call.last
            del call  # or its rows would be kept while the next one is waited for

    async def _serve_one(self, call: _Call) -> bool:
        """False if nobody waits any more, as the event loop that asked is closed."""
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
    """Nobody may be there any more to be told of an error, and asyncio needn't complain."""
    if not future.cancelled():
        future.exception()
