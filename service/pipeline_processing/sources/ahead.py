"""Batches of a source, of which the next is read while the present one is worked on."""

import asyncio
from abc import ABC, abstractmethod
from typing import Self

from pipeline_processing.ports import Records
from pipeline_processing.rows.columns import Columns


class ReadAhead(ABC):
    """See `ports.Batches`. One batch is in memory beside the present one, unless `reads_ahead` is False."""

    def __init__(self, columns: Columns) -> None:
        """Starts to read the first batch: call it last."""
        self.columns = columns
        self._next: asyncio.Future[Records] | None = asyncio.ensure_future(self._read())

    @abstractmethod
    async def _read(self) -> Records:
        """The next records; none at the end."""

    @property
    def _reads_ahead(self) -> bool:
        """Whether the next batch may be read before the last one is done with."""
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Records:
        if self._next is None:
            self._next = asyncio.ensure_future(self._read())
        records = await self._next
        if not records:
            raise StopAsyncIteration
        self._next = None
        if self._reads_ahead:
            self._next = asyncio.ensure_future(self._read())
            await asyncio.sleep(0)  # lets the request go out before this batch keeps the thread busy
        return records

    async def close(self) -> None:
        """Give up the batch under way."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
