"""The records of one dataset, page by page."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from pipeline_processing.errors import PipelineError
from pipeline_processing.ports import Answer, Upstream
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.pages import JsonPage
from pipeline_processing.sources.http.paging import Way
from pipeline_processing.sources.http.records import RecordReader

MAX_BATCH_ROWS = 1000


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Errors in the block tell the place."""
    try:
        yield
    except PipelineError as error:
        error.at(place)
        raise


class DatasetRecords:
    """Walks through the pages, as a block that closes the answer under way."""

    def __init__(
        self,
        dataset: str,
        config: HttpSourceConfig,
        way: Way,
        *,
        upstream: Upstream,
        reader: RecordReader,
        batch_bytes: int,
        max_record_bytes: int,
    ) -> None:
        self._dataset = dataset
        self._records_path = _keys(config.records)
        self._beside = _keys(None if config.pages is None else config.pages.path)
        self._way = way
        self._upstream = upstream
        self._reader = reader
        self._batch_bytes = batch_bytes
        self._max_record_bytes = max_record_bytes
        self._answering = AsyncExitStack()
        self._open: tuple[Answer, JsonPage] | None = None
        self._pages = 0
        self._read = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._answering.aclose()

    async def next_batch(self) -> list[tuple[Any, ...]]:
        """The next records, all of one page, as tuples of carried values; none once all pages are read."""
        while self._way.url is not None:
            with errors_at(f"Dataset {self._dataset!r}, page {self._pages + 1:,}"):
                answer, page = self._open or await self._begin(self._way.url)
                records = await page.read(records=MAX_BATCH_ROWS, characters=self._batch_bytes)
                if records:
                    first = self._read + 1
                    self._read += len(records)
                    return [self._reader.read(record, number) for number, record in enumerate(records, first)]
                self._way.go_on(answer, found=page.found, records=page.count)
            await self._answering.aclose()
            self._open = None
            self._pages += 1
        return []

    async def _begin(self, url: str) -> tuple[Answer, JsonPage]:
        answer = await self._answering.enter_async_context(self._upstream.get(url))
        page = JsonPage(answer, records=self._records_path, beside=self._beside, limit=self._max_record_bytes)
        self._open = answer, page
        return self._open


def _keys(path: str | None) -> tuple[str, ...]:
    return () if path is None else tuple(path.split("."))
