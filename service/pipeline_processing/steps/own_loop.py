"""A separate event loop for a step's async code, which may block or hang."""

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
    """Settled when the call has ended, even if it was abandoned."""
    last: bool
    abandoned: bool = False
    """Whether the caller has stopped waiting."""


class OwnLoop:
    """
    Runs async calls one at a time, all in the same task of an event loop in a separate thread. So async context
    managers can be entered, used and exited there, and code that blocks or hangs doesn't affect the service.

    Cancelling the caller takes effect at once: the call is cancelled too, and its result dropped. The thread is a
    daemon and is never joined.

    The task runs in `context`, which no other thread may enter at the same time.
    """

    def __init__(self, place: StepPlace, context: contextvars.Context) -> None:
        self._thread = StepThread(place, context=context, target=self._work)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: asyncio.Queue[_Call] = asyncio.Queue()
        self._latest: asyncio.Future[Any] | None = None
        self._current: _Call | None = None
        self._cancels = 0
        """How often `_cancel` has cancelled the current call."""
        self._stray: Exception | None = None
        """An error from a background task of user code. The next call raises it."""

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the function. Anything it raises that isn't an Exception, such as SystemExit, becomes NoException."""
        call = self._submitted(lambda: function(*args), last=False)
        try:
            return await asyncio.shield(call.future)
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    async def close(self, function: Callable[..., Awaitable[Any]], *args: Any, stop_seconds: float) -> bool:
        """
        Make a last call, then end the thread. Returns False, and abandons the last call too, if an abandoned call
        doesn't stop within `stop_seconds`.
        """
        latest = self._latest
        if latest is None:
            return True  # the loop was never started
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
        # Retrieved, so that asyncio doesn't report an exception that nobody waits for.
        call.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._latest = call.future
        self._loop.call_soon_threadsafe(self._calls.put_nowait, call)
        return call

    def _abandon(self, call: _Call) -> None:
        call.abandoned = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the event loop has ended, and the call with it
                self._loop.call_soon_threadsafe(self._cancel, call)

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        # Errors of leftover tasks of user code belong to no call.
        with suppress(BaseException), asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop()
            self._task = loop.create_task(self._serve(), context=self._thread.context)
            while not self._task.done():
                try:
                    loop.run_until_complete(self._task)
                except BaseException as raised:  # raised by a task of user code, or it stopped the loop
                    self._stray = harmless(raised)
                    if self._current is not None:
                        self._cancel(self._current)

    async def _serve(self) -> None:
        running = True
        while running:
            try:
                call = await self._calls.get()
            except asyncio.CancelledError as error:  # from a TaskGroup of user code that failed between calls
                self._stray = self._stray or harmless(error)
                continue
            if call.abandoned and not call.last:
                running = settled(call.future, None, None)
            else:
                running = await self._serve_one(call) and not call.last
            del call  # frees its rows before the next call

    async def _serve_one(self, call: _Call) -> bool:
        """Run one call. Returns False if the caller's event loop is closed."""
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
