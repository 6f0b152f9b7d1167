"""The steps of a dataset, run on one batch after another."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.agency_data_job.links import Link, opened_links, step_context
from pipeline_processing.agency_data_job.rejections import Rejected, Rejections, masked_at_source
from pipeline_processing.agency_data_job.sizing import MOST_ROWS, Sizing, size_of
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.errors import PipelineError, StepAddedRows, StepFailed
from pipeline_processing.formats.formats import new_format
from pipeline_processing.ports import Batches, Delivers, Records, Row, RowMaker, Services, Template
from pipeline_processing.rows.columns import Columns, Kind
from pipeline_processing.rows.lines import Lines
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.step import Batch
from pipeline_processing.user_code import described, is_for_us

_ROWS_FOR_USER_CODE = 256
"""Most rows per call: the size of the rows that user code returns is unknown until the call ends."""


class Chain:
    """
    Turns the source's records into rows and passes them through the steps.

    Leading steps that only select, rename or add columns are folded into building the rows, where they cost nothing
    per row, and filters among them run on records, so that only rows that are kept are built. If no other steps remain,
    rows are built in the shape that the format encodes fastest.
    """

    def __init__(
        self, dataset: DatasetConfig, columns: Columns, links: Sequence[Link], *, rejections: Rejections, tally: Tally
    ) -> None:
        """Build the chain for the source's `columns`."""
        projection = Projection.of(columns.names)
        self._links = list(enumerate(links, start=1))
        self._filters: list[tuple[int, Link, Mapping[str, int]]] = []
        """The steps that run on records, each with the indexes of the columns there."""
        while self._links:
            number, link = self._links[0]
            if (folded := link.step.fold(projection)) is not None:
                projection = folded
            elif link.step.read_records(projection.places):
                self._filters.append((number, link, projection.places))
            else:
                break
            del self._links[0]
        places = (columns, *(link.columns for link in links))
        carried = not any(link.step.foreign for link in links)
        self.columns = places[-1]
        """The known columns of the rows that leave the last step."""
        self.names = self.columns.names if carried else None
        """Names of the columns written; None if they depend on the rows."""
        header = next((each.names for each in reversed(places) if each.complete), self.columns.names)
        self.format = new_format(
            dataset.format,
            header=header,
            fixed=carried,
            columns=self.columns,
            numbers=_numbers(self.columns),
            csv=dataset.csv,
        )
        """The format that encodes the outgoing rows."""
        self._projection = projection
        self._make_rows = self._row_maker(projection)
        self._source_names = columns.names
        self._masks = masked_at_source([(link.step, link.columns) for link in links], columns)
        self._rejections = rejections
        self._tally = tally
        user_code = any(link.user_code for link in links)
        self._sizing = Sizing(most_rows=_ROWS_FOR_USER_CODE if user_code else MOST_ROWS, watches=self._has_steps)
        self._largest = 0
        """The approximate peak size of the current batch in bytes, over all steps."""
        self._next_number = 1
        self.place = ""
        """The step and the rows that it works on, for errors and for the watchdog."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        dataset: DatasetConfig,
        columns: Columns,
        *,
        arguments: Mapping[str, Any],
        services: Services,
        tally: Tally,
    ) -> AsyncIterator["Chain"]:
        """
        Build the dataset's steps for the source's `columns`, and open them.

        Reports faults before the first row is read. Raises UnknownColumn or InvalidStep, or a step's own error if its
        server is unavailable.
        """
        # Overwrite what the source set: rejected rows are masked by the origins of columns.
        listed = tuple(replace(each, origins=frozenset({each.name}), unchanged=True) for each in columns)
        columns = replace(columns, listed=listed)
        rejections = Rejections(tally, dataset.on_row_error, dataset.max_rejected)
        context = step_context(dataset, columns, arguments=arguments, services=services, row_errors=rejections)
        async with opened_links(dataset, context) as links:
            yield cls(dataset, columns, links, rejections=rejections, tally=tally)

    def ask(self, batches: Batches) -> None:
        """
        Ask the source for whole lines if no step reads the rows, or with the columns that filters need, if there are
        only filters; else for records in which neighbouring columns that no step touches are one value. Call it before
        the first batch.
        """
        if not isinstance(batches, Delivers):
            return
        if not self._has_steps:
            if (line := self.format.template(self._projection, whole=True)) is not None:
                batches.deliver(line)
            return
        touched = [link.step.touches for _, link in self._links]
        if self._rejections.keeps_rows or None in touched:
            return  # somebody needs the columns one by one
        filtered_by = {
            places[name] for _, link, places in self._filters for name in places.keys() & (link.step.touches or ())
        }
        touched.append(frozenset(name for name, index in self._projection.places.items() if index in filtered_by))
        outputs: list[int | Template] = [*sorted(filtered_by)]
        if not self._links and (line := self.format.template(self._projection, whole=True)) is not None:
            outputs.append(line)
            if batches.deliver(outputs):
                self._filter_records_of(outputs)
                self._make_rows = lambda records: [record[-1] for record in records]  # whole lines
            return
        outputs = []
        names: list[str] = []
        for run in self._projection.runs(frozenset().union(*filter(None, touched))):
            merged = self.format.template(run, whole=False) if len(run.names) > 1 else None
            outputs += run.indexes if merged is None else [merged]
            names += run.names if merged is None else run.names[:1]
        outputs += sorted(filtered_by.difference(self._projection.indexes))
        if batches.deliver(outputs):
            self._filter_records_of(outputs)
            constants = self._projection.constants
            constant_names = self._projection.names[len(self._projection.indexes) :]
            self._make_rows = self._row_maker(
                Projection((*names, *constant_names), tuple(range(len(names))), constants)
            )

    def _filter_records_of(self, outputs: Sequence[int | Template]) -> None:
        for _, link, places in self._filters:
            link.step.read_records({name: outputs.index(index) for name, index in places.items() if index in outputs})

    def pieces(self, records: Records | Lines) -> Iterator[Batch]:
        """
        Split a batch of the source into batches for the steps, each of at most about 2 MiB at its peak. Lines stay
        together: there are no steps for them.
        """
        if isinstance(records, Lines):
            lines: Any = records
            yield Batch.read(lines, first=self._next_number)
            self._next_number += len(records)
            return
        start = 0
        while start < len(records):
            piece = self._sizing.piece(records, start)
            start += len(piece)
            self._largest, encoded = 0, self._tally.encoded
            rows: Any = piece
            if not self._filters:
                with self._tally.timed("steps" if self._links else "format"):
                    rows = self._make_rows(piece)
            yield Batch.read(rows, first=self._next_number, records=piece)
            self._next_number += len(piece)
            self._sizing.learn(len(piece), max(self._largest, self._tally.encoded - encoded))

    async def __call__(self, batch: Batch) -> Batch:
        """Run the steps on a batch."""
        if not self._has_steps:
            return batch
        with self._tally.timed("steps"):
            for number, link, _ in self._filters:
                if batch.rows:
                    batch = await self._through(link, batch, number)
            if self._filters and batch.rows:
                kept: Any = batch.rows  # records so far
                batch = batch.changed(self._make_rows(kept))
            for number, link in self._links:
                if not batch.rows:
                    break
                batch = await self._through(link, batch, number)
                batch.size = size_of(batch.rows)
                self._largest = max(self._largest, batch.size)
        links = (*(link for _, link, _ in self._filters), *(link for _, link in self._links))
        self._tally.filtered = sum(link.step.filtered for link in links)
        return batch

    def rejected(self) -> list[tuple[Rejected, Row]]:
        """
        Return the rows that steps have rejected since the last call, if the dataset quarantines them. They have the
        source's values, except that columns which any step masks are masked.
        """
        return [(each, self._shown(each)) for each in self._rejections.take()]

    def check_rejected(self) -> None:
        """Raises TooManyRejected if too large a share of the rows was rejected. Call it after the last row."""
        self._rejections.check()

    @property
    def _has_steps(self) -> bool:
        """Whether any step sees records or rows."""
        return bool(self._filters or self._links)

    def _row_maker(self, projection: Projection) -> RowMaker:
        return projection.rows if self._links else self.format.row_maker(projection)

    def _shown(self, rejected: Rejected) -> Row:
        return {
            name: value if value is None or (mask := self._masks.get(name)) is None else mask(value)
            for name, value in zip(self._source_names, rejected.record, strict=True)
        }

    async def _through(self, link: Link, batch: Batch, number: int) -> Batch:
        place = self.place = f"Dataset {self._tally.dataset!r}, step {number} ({link.step.name}), {batch.place()}"
        limit = asyncio.timeout(None if link.timeout is None else link.timeout.total_seconds())
        try:
            async with limit:
                left = await link.step(batch)
            if link.user_code:
                if len(left.rows) > len(batch.rows):
                    raise StepAddedRows(
                        step=link.step.name, dataset=self._tally.dataset, got=len(batch.rows), returned=len(left.rows)
                    )
                left.records = batch.records  # user code may have made a batch without them
            return left
        except PipelineError as error:
            raise error.at(place) from error.__cause__
        except BaseException as error:
            if is_for_us(error):
                raise
            if link.timeout is not None and limit.expired():
                raise StepFailed(
                    f"didn't end within its `timeout` of {link.timeout.total_seconds():g} s. Find out what it waits "
                    "for, or raise the timeout; then replay the run."
                ).at(place) from None
            if not link.user_code and isinstance(error, Exception):
                raise  # a bug in the service
            raise StepFailed(
                f"raised {described(error)}. Correct the step or the rows it got, then replay the run."
            ).at(place) from error


def _numbers(columns: Columns) -> tuple[str, ...] | None:
    """Return the columns that may hold fractional numbers; None if they depend on the rows."""
    if not columns.complete or not all(column.typed for column in columns):
        return None
    return tuple(
        column.name
        for column in columns
        if column.kind in (Kind.NUMBER, Kind.FLOAT) or (column.kind is None and column.comparison is None)
    )
