"""Batches of one cursor's records."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from msgspec import Raw

from pipeline_processing.errors import RowTooLarge
from pipeline_processing.ports import Records
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.ahead import ReadAhead
from pipeline_processing.sources.postgres.metered import Meter
from pipeline_processing.usage import current_usage

MAX_BATCH_ROWS = 1000
"""Larger batches are slower, because they don't stay in the CPU's caches until they are encoded."""


class CursorBatches(ReadAhead):
    """
    Batches of one cursor. The next one is read ahead unless the current one has a large row.

    `batch_bytes` is the target size of a batch, estimated from earlier rows; the meter enforces the maximum.
    `located(n)` returns a context manager that translates the driver's errors after `n` rows.
    """

    def __init__(
        self,
        cursor: Any,
        columns: Columns,
        *,
        dataset: str,
        meter: Meter,
        batch_bytes: int,
        located: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self._cursor = cursor
        self._dataset = dataset
        self._meter = meter
        self._batch_bytes = batch_bytes
        self._located = located
        self._rows_read = 0
        self._received = meter.received
        self._size = MAX_BATCH_ROWS  # the size of the rows isn't known yet: the meter ends a fetch of large ones early
        super().__init__(columns)

    @property
    def _reads_ahead(self) -> bool:
        return not self._meter.holds_large_row

    async def __anext__(self) -> Records:
        with current_usage().waiting_for_database():
            return await super().__anext__()

    async def _read(self) -> Records:
        self._meter.give_back()
        with self._located(self._rows_read):
            records = await self._fetch()
        if records:
            self._rows_read += len(records)
            self._size = self._rows_that_fit(records)
        return records

    async def _fetch(self) -> Records:
        try:
            with self._meter.fetching(self._size) as rows:
                records: Records = await self._cursor.fetch(rows)
            before, self._received = self._received, self._meter.received
            current_usage().bytes_read += self._received - before
        except Exception:
            if self._meter.too_large is None:
                raise
            raise RowTooLarge(
                dataset=self._dataset, size=self._meter.too_large, limit=self._meter.max_row_bytes
            ) from None
        if self._meter.ended_early:
            self._cursor._exhausted = False  # asyncpg assumes the end if it gets fewer rows than requested
        return records

    def _rows_that_fit(self, records: Records) -> int:
        """Estimate the rows per batch from a sample. The result grows slowly but shrinks at once."""
        sample = records[:: len(records) // 8 + 1]
        row_bytes = max(sum(map(_size_of, record)) for record in sample)
        return max(1, min(MAX_BATCH_ROWS, self._size * 4, self._batch_bytes // row_bytes))

    async def close(self) -> None:
        """Cancel the read in progress, and close the meter."""
        await super().close()
        await self._meter.close()


def _size_of(value: Any) -> int:
    if isinstance(value, str | bytes):
        return 32 + len(value)
    return 32 + memoryview(value).nbytes if isinstance(value, Raw) else 32
