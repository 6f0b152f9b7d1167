"""A second event loop in its own thread, for tasks that must run while the main loop is blocked."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")

_JOIN_SECONDS = 5.0


class SideLoop:
    """Runs coroutines in a second event loop, inside a block. They must share no state with the main loop."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="side loop", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, _JOIN_SECONDS)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start `work` in this loop. Return a future of the caller's loop; cancelling it cancels the work."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @asynccontextmanager
    async def opened(self, block: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Enter and exit `block` in this loop, and yield its value."""

        async def enter() -> T:
            return await block.__aenter__()

        async def leave() -> None:
            await block.__aexit__(None, None, None)

        given = await self.start(enter())
        try:
            yield given
        finally:
            await self.start(leave())

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()
