"""A limit on buffered bytes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """
    A semaphore counted in bytes, shared by everything that buffers.

    Strictly first come, first served: smaller requests never overtake a large one, so it can't starve.

    Callers that hold bytes while they wait for more can deadlock. Reserve all you need at once, or hold only bytes that
    are freed without another caller's progress.

    Bound to one event loop; not thread-safe.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        if limit < 1:
            raise ValueError(f"the limit must be at least 1 byte, not {limit}")
        self.limit = limit
        self.reserved = 0
        self.peak = 0
        """Highest number of bytes reserved at once."""
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def acquire(self, size: int) -> None:
        """
        Wait until `size` bytes are free, and reserve them. Reserves nothing if cancelled.

        Raises ValueError if `size` is negative or more than the limit.
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
                self.release(size)  # granted and cancelled in the same iteration of the event loop
            else:
                self._waiting.remove(waiter)
                self._grant()  # smaller requests behind it may fit now
            raise

    def release(self, size: int) -> None:
        """Free bytes that `acquire` reserved. Raises ValueError if `size` is more than is reserved."""
        if not 0 <= size <= self.reserved:
            raise ValueError(f"{size} bytes can't be released: only {self.reserved} are reserved")
        self.reserved -= size
        self._grant()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes inside the block. Raises the same errors as `acquire`."""
        await self.acquire(size)
        try:
            yield
        finally:
            self.release(size)

    def _grant(self) -> None:
        while self._waiting:
            granted, size = self._waiting[0]
            # A cancelled request removes itself and calls `_grant` when its task runs.
            if granted.cancelled() or self.reserved + size > self.limit:
                return
            self._waiting.popleft()
            self._take(size)
            granted.set_result(None)

    def _take(self, size: int) -> None:
        self.reserved += size
        self.peak = max(self.peak, self.reserved)
