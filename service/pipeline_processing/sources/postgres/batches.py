"""The rows of one cursor, batch by batch, the next one prefetched."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from msgspec import Raw

from pipeline_processing.errors import RowTooLarge
from pipeline_processing.ports import RowMaker
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection
from pipeline_processing.sources.postgres.metered import Meter

MAX_BATCH_ROWS = 1000
"""More rows at a time are slower: they leave the processor's caches before they are encoded."""
_FIRST_BATCH_ROWS = 4
"""Few, as nothing is known yet of how wide the rows are."""


class CursorBatches:
    """
    Batches of one cursor. While a batch is worked on, the next is already on its way, unless a row of it is large.

    `batch_bytes` is what one batch should hold, as far as the rows before it tell; what it may hold is the meter's.
    `fetching(n)` is the block in which a batch is waited for, where `n` rows have been read: it says what the driver's
    errors mean, and a row that is too large.
    """

    def __init__(
        self,
        cursor: Any,
        columns: Columns,
        *,
        dataset: str,
        meter: Meter,
        batch_bytes: int,
        fetching: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self.columns = columns
        self.make_rows: RowMaker = Projection.of(columns.names).rows
        self._cursor = cursor
        self._meter = meter
        self._dataset = dataset
        self._batch_bytes = batch_bytes
        self._fetching = fetching
        self._read = 0
        self._size = _FIRST_BATCH_ROWS
        self._next: asyncio.Future[Any] | None = asyncio.ensure_future(self._fetch())

    def __aiter__(self) -> "CursorBatches":
        return self

    async def __anext__(self) -> list[Any]:
        if self._next is None:
            self._meter.give_back()
            self._next = asyncio.ensure_future(self._fetch())
        with self._fetching(self._read):
            records = await self._next
        if not records:
            raise StopAsyncIteration
        self._read += len(records)
        self._size = self._rows_that_fit(records)
        self._next = None
        if not self._meter.holds_large_row:
            self._next = asyncio.ensure_future(self._fetch())
            await asyncio.sleep(0)  # lets the request go out before this batch keeps the thread busy
        return self.make_rows(records)

    async def _fetch(self) -> Any:
        # A coroutine of ours: asyncpg's refuses a closed connection when it is called, not when it is awaited.
        try:
            with self._meter.fetching(self._size) as rows:
                records = await self._cursor.fetch(rows)
        except Exception:
            if self._meter.too_large is None:
                raise
            raise RowTooLarge(
                dataset=self._dataset, size=self._meter.too_large, limit=self._meter.max_row_bytes
            ) from None
        if self._meter.ended_early:
            self._cursor._exhausted = False  # asyncpg takes fewer rows than it asked for as the last ones
        return records

    def _rows_that_fit(self, records: Sequence[Any]) -> int:
        """How many rows like these make a batch, judged by a few of them; it grows slowly and shrinks at once."""
        sample = records[:: len(records) // 8 + 1]
        row_bytes = max(sum(map(_size_of, record)) for record in sample)
        return max(1, min(MAX_BATCH_ROWS, self._size * 4, self._batch_bytes // row_bytes))

    async def close(self) -> None:
        """Give up the batch under way."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._meter.close()


def _size_of(value: Any) -> int:
    return (
        32 + len(value)
        if isinstance(value, str | bytes)
        else 32 + memoryview(value).nbytes
        if isinstance(value, Raw)
        else 32
    )
