"""Batches of a source that are read ahead: the next one is read while the current one is processed."""

import asyncio
from abc import ABC, abstractmethod
from typing import Self

from pipeline_processing.ports import Records
from pipeline_processing.rows.columns import Columns


class ReadAhead(ABC):
    """Base of `ports.Batches`. Holds one batch beside the current one, unless `_reads_ahead` is False."""

    def __init__(self, columns: Columns) -> None:
        """Start reading the first batch. Subclasses call this last."""
        self.columns = columns
        self._next: asyncio.Future[Records] | None = asyncio.ensure_future(self._read())

    @abstractmethod
    async def _read(self) -> Records:
        """Read the next records; empty at the end."""

    @property
    def _reads_ahead(self) -> bool:
        """Whether the next batch may be read while the current one is processed."""
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
            await asyncio.sleep(0)  # sends the request before this batch occupies the thread
        return records

    async def close(self) -> None:
        """Cancel the read in progress."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
