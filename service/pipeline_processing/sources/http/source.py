"""Reads an agency's rows from an HTTP API, as pages of JSON records, one batch ahead."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import PipelineError
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.ports import Answer, Records, Upstream
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.ahead import ReadAhead
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.pages import JsonPage
from pipeline_processing.sources.http.paginator import Paginator
from pipeline_processing.sources.http.records import RecordReader

MAX_BATCH_ROWS = 1000

OpenUpstream = Callable[[UpstreamOptions], AbstractAsyncContextManager[Upstream]]
"""See `Services.upstream`."""


class HttpSource:
    """
    Reads agencies' data from HTTP APIs.

    `batch_bytes` is the target size of a batch, as JSON text; two are in memory at a time. `max_record_bytes` is the
    maximum size of a record.
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
        self.batch_bytes = batch_bytes
        self.max_record_bytes = max_record_bytes

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, HttpSourceConfig]) -> AsyncIterator["HttpSnapshot"]:
        """
        Start reading. An API has no snapshots: rows are those that it returns from now on.

        All upstreams are opened first, so that a missing secret is found before any row is read.
        """
        taken_at = self._clock.now()
        async with AsyncExitStack() as stack:
            upstreams = {
                name: await stack.enter_async_context(self._upstream(config)) for name, config in datasets.items()
            }
            yield HttpSnapshot(self, datasets, upstreams, taken_at)


@dataclass(slots=True)
class HttpSnapshot:
    """See `ports.Snapshot`."""

    source: HttpSource
    datasets: Mapping[str, HttpSourceConfig]
    upstreams: Mapping[str, Upstream]
    taken_at: datetime

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """Return the columns of the job config."""
        return self.datasets[dataset].columns_in(carry)

    @asynccontextmanager
    async def records(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AsyncIterator["HttpBatches"]:
        """The records of all pages; see `ports.Snapshot`."""
        config = self.datasets[dataset]
        with _errors_at(f"Dataset {dataset!r}"):
            paginator = Paginator(config, config.first_url(arguments))
        batches = HttpBatches(self.source, dataset, config, paginator, self.upstreams[dataset], carry=carry)
        try:
            yield batches
        finally:
            await batches.close()


class HttpBatches(ReadAhead):
    """Batches of carried values. A batch never spans pages."""

    def __init__(
        self,
        source: HttpSource,
        dataset: str,
        config: HttpSourceConfig,
        paginator: Paginator,
        upstream: Upstream,
        *,
        carry: str,
    ) -> None:
        self._source = source
        self._dataset = dataset
        self._config = config
        self._paginator = paginator
        self._upstream = upstream
        self._reader = RecordReader(config.schema_columns, carry=carry)
        self._answering = AsyncExitStack()
        self._open: tuple[Answer, JsonPage] | None = None
        self._pages_read = 0
        self._records_read = 0
        super().__init__(config.columns_in(carry))

    async def _read(self) -> Records:
        while self._paginator.url is not None:
            with _errors_at(f"Dataset {self._dataset!r}, page {self._pages_read + 1:,}"):
                answer, page = self._open or await self._begin(self._paginator.url)
                records = await page.read(records=MAX_BATCH_ROWS, characters=self._source.batch_bytes)
                if records:
                    first = self._records_read + 1
                    self._records_read += len(records)
                    return [self._reader.read(record, number) for number, record in enumerate(records, first)]
                self._paginator.go_on(answer, found=page.found, records=page.count)
            await self._answering.aclose()
            self._open = None
            self._pages_read += 1
        return []

    async def close(self) -> None:
        """Cancel the read in progress, and close its response."""
        await super().close()
        await self._answering.aclose()

    async def _begin(self, url: str) -> tuple[Answer, JsonPage]:
        answer = await self._answering.enter_async_context(self._upstream.get(url))
        beside = None if self._config.pages is None else self._config.pages.path
        limit = self._source.max_record_bytes
        page = JsonPage(answer, records=_keys(self._config.records), beside=_keys(beside), limit=limit)
        self._open = answer, page
        return self._open


def _keys(path: str | None) -> tuple[str, ...]:
    return () if path is None else tuple(path.split("."))


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Prefix errors of the block with the place."""
    try:
        yield
    except PipelineError as error:
        error.at(place)
        raise
