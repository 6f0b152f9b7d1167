"""One process-wide limit on buffered bytes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """
    A semaphore counted in bytes, shared by whoever buffers.

    Strictly first come, first served: a large request at the head of the queue is not overtaken by small ones
    that would fit, so that it can't starve. To ask for more than the whole limit is a ValueError, not a
    clamp: a clamped caller would buffer more than it holds.

    Whoever holds bytes while waiting for more can deadlock with others that do the same. So reserve what you
    need at once, or hold only bytes that are freed without anybody's help while you wait.

    Belongs to one event loop; not thread-safe.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        if limit < 1:
            raise ValueError(f"the limit must be at least 1 byte, not {limit}")
        self.limit = limit
        self.reserved = 0
        self.peak = 0
        """The most that was ever reserved at one time."""
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def acquire(self, size: int) -> None:
        """
        Wait until `size` bytes are free, and take them. Cancelled while waiting, it takes nothing.

        Raises ValueError when `size` is negative or more than the limit.
        """
        if not 0 <= size <= self.limit:
            raise ValueError(f"{size} bytes can never be reserved from a budget of {self.limit}")
        if not self._waiting and self.reserved + size <= self.limit:
            self._take(size)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (granted, size)
        self._waiting.append(waiter)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(size)  # granted and cancelled in the same turn of the loop
            else:
                self._waiting.remove(waiter)
                self._grant()  # it may have stood in the way of smaller ones behind it
            raise

    def release(self, size: int) -> None:
        """Give back what `acquire` took. Raises ValueError when that is more than is reserved."""
        if not 0 <= size <= self.reserved:
            raise ValueError(f"{size} bytes were given back, but only {self.reserved} are reserved")
        self.reserved -= size
        self._grant()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes inside the block. Raises as `acquire` does."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    def _grant(self) -> None:
        while self._waiting:
            granted, size = self._waiting[0]
            # A cancelled one removes itself, and calls here again, as soon as its task runs.
            if granted.cancelled() or self.reserved + size > self.limit:
                return
            self._waiting.popleft()
            self._take(size)
            granted.set_result(None)

    def _take(self, size: int) -> None:
        self.reserved += size
        self.peak = max(self.peak, self.reserved)
