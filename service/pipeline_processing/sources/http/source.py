"""Reads an agency's rows from an HTTP API: pages of JSON records, one batch prefetched."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

from pipeline_processing.aio.clock import Clock
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.ports import RowMaker, Upstream
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection
from pipeline_processing.sources.http.dataset import DatasetRecords, errors_at
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.paging import Way
from pipeline_processing.sources.http.records import RecordReader

OpenUpstream = Callable[[UpstreamOptions], AbstractAsyncContextManager[Upstream]]
"""As `Services.upstream`."""


class HttpSource:
    """
    APIs with agencies' data.

    `batch_bytes` is what one batch should hold, as text of JSON; there are two at a time. `max_record_bytes` is the
    longest record.
    """

    def __init__(
        self,
        *,
        upstream: OpenUpstream,
        clock: Clock,
        batch_bytes: int = 1024 * 1024,
        max_record_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._batch_bytes = batch_bytes
        self._max_record_bytes = max_record_bytes

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, HttpSourceConfig]) -> AsyncIterator["HttpSnapshot"]:
        """
        An API has no snapshots: rows are what it says when it is asked, from this time on.

        The access to all of them is set up first, so that a missing secret is found before the first row is read.
        """
        taken_at = self._clock.now()
        async with AsyncExitStack() as stack:
            upstreams = {
                name: await stack.enter_async_context(self._upstream(config)) for name, config in datasets.items()
            }
            yield HttpSnapshot(
                datasets,
                upstreams,
                taken_at=taken_at,
                batch_bytes=self._batch_bytes,
                max_record_bytes=self._max_record_bytes,
            )


class HttpSnapshot:
    """See `ports.Snapshot`."""

    def __init__(
        self,
        datasets: Mapping[str, HttpSourceConfig],
        upstreams: Mapping[str, Upstream],
        *,
        taken_at: datetime,
        batch_bytes: int,
        max_record_bytes: int,
    ) -> None:
        self.taken_at = taken_at
        self._datasets = datasets
        self._upstreams = upstreams
        self._batch_bytes = batch_bytes
        self._max_record_bytes = max_record_bytes

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """Those of the job config."""
        return self._datasets[dataset].columns_in(carry)

    @asynccontextmanager
    async def rows(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AsyncIterator["HttpBatches"]:
        """The records of all pages; see `ports.Snapshot`."""
        config = self._datasets[dataset]
        with errors_at(f"Dataset {dataset!r}"):
            way = Way(config, config.first_url(arguments))
        records = DatasetRecords(
            dataset,
            config,
            way,
            upstream=self._upstreams[dataset],
            reader=RecordReader(config.schema_columns, carry=carry),
            batch_bytes=self._batch_bytes,
            max_record_bytes=self._max_record_bytes,
        )
        async with records:
            batches = HttpBatches(records, config.columns_in(carry))
            try:
                yield batches
            finally:
                await batches.close()


class HttpBatches:
    """See `ports.Batches`. While a batch is worked on, the next is already on its way."""

    def __init__(self, records: DatasetRecords, columns: Columns) -> None:
        self.columns = columns
        self.make_rows: RowMaker = Projection.of(columns.names).rows
        self._records = records
        self._next = asyncio.ensure_future(records.next_batch())

    def __aiter__(self) -> "HttpBatches":
        return self

    async def __anext__(self) -> list[Any]:
        records = await self._next
        if not records:
            raise StopAsyncIteration
        self._next = asyncio.ensure_future(self._records.next_batch())
        await asyncio.sleep(0)  # lets the request go out before this batch keeps the thread busy
        return self.make_rows(records)

    async def close(self) -> None:
        """Give up the batch under way."""
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)
