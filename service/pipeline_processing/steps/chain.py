"""A dataset's steps, bound to the columns of its source and run in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pipeline_processing.errors import PipelineError, StepAddedRows, StepFailed
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.config import StepEntry
from pipeline_processing.steps.folding import folded
from pipeline_processing.steps.foreign_block import closing, failing
from pipeline_processing.steps.masked import masked_at_source
from pipeline_processing.steps.row_size import size_of
from pipeline_processing.steps.step import Batch, Step, StepContext
from pipeline_processing.user_code import described, is_for_us, user_code


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain."""

    step: Step
    columns: Columns
    """What leaves it, and where that comes from as far as anybody knows."""
    timeout: timedelta | None = None
    foreign: bool = False
    """Whether it is somebody else's code, which may raise anything."""


class Chain:
    """The steps of one dataset. `columns` are what leaves the last step, as far as that is known beforehand."""

    def __init__(self, links: Sequence[Link], columns: Columns, *, dataset: str) -> None:
        self.projection = Projection.of(columns.names)
        """What the first steps come to, as far as they only choose, name and add columns; rows come from it."""
        self._left = list(enumerate(links, start=1))
        while self._left and (projection := folded(self.projection, self._left[0][1].step)) is not None:
            self.projection = projection
            del self._left[0]
        self.columns = links[-1].columns if links else columns
        places = (columns, *(link.columns for link in links))
        self.header = next((each.names for each in reversed(places) if each.complete), self.columns.names)
        """The names of the columns where they are known last: those of an artifact without any row that could tell."""
        self.carried = not any(link.step.foreign for link in links)
        """Whether all values that leave it are carried, and the columns those that are known."""
        self._dataset = dataset
        self._source = columns
        self._masks = masked_at_source([(link.step, link.columns) for link in links], columns)
        self.largest = self.size = 0
        """About how many bytes the rows of the last batch were where they were most, and when they left the steps."""
        self.foreign = any(link.foreign for link in links)
        """Whether any step is somebody else's code."""
        self._records: Sequence[Sequence[Any]] = ()
        self._before = 0
        self._read = 0

    @property
    def touches_rows(self) -> bool:
        """Whether any step is left that works on rows."""
        return bool(self._left)

    @property
    def filtered(self) -> int:
        """Rows that the steps say they dropped."""
        return sum(link.step.filtered for _, link in self._left)

    def rows(self, records: Sequence[Sequence[Any]]) -> Rows:
        """Records of the source as the rows that the first step gets. Kept until the next come, or `forget`."""
        self.forget()
        self._records = records
        return self.projection.rows(records)

    def forget(self) -> None:
        """The last records are done with."""
        self._before += len(self._records)
        self._records = ()

    def original(self, number: int) -> Row:
        """A row of the last records as it was read, by its number; what any step masks is masked."""
        record = self._records[number - self._before - 1]
        return {
            name: value if value is None or (mask := self._masks.get(name)) is None else mask(value)
            for name, value in zip(self._source.names, record, strict=True)
        }

    async def __call__(self, rows: Rows) -> Rows:
        """The next of the rows, one batch, through all steps that are left."""
        batch = Batch.read(rows, first=self._read + 1)
        self._read += len(rows)
        self.largest = self.size = 0
        for number, link in self._left:
            if not batch.rows:
                break
            batch = await self._through(link, batch, number)
            self.size = size_of(batch.rows)
            self.largest = max(self.largest, self.size)
        return batch.rows

    async def _through(self, link: "Link", batch: Batch, number: int) -> Batch:
        place = f"Dataset {self._dataset!r}, step {number} ({link.step.name}), {batch.place()}"
        limit = asyncio.timeout(None if link.timeout is None else link.timeout.total_seconds())
        try:
            async with limit:
                left = await link.step(batch)
            if link.foreign and len(left.rows) > len(batch.rows):
                raise StepAddedRows(
                    step=link.step.name, dataset=self._dataset, got=len(batch.rows), returned=len(left.rows)
                )
            return left
        except PipelineError as error:
            raise error.at(place) from error.__cause__
        except BaseException as error:
            if is_for_us(error):
                raise
            if link.timeout is not None and limit.expired():
                raise StepFailed(
                    f"didn't end within its `timeout` of {link.timeout.total_seconds():g} s. Find out what it waits "
                    "for, or give it more time; then replay the run."
                ).at(place) from None
            if not link.foreign and isinstance(error, Exception):
                raise  # a bug of ours
            raise StepFailed(f"raised {described(error)}. Mend the step or the rows it got, then replay the run.").at(
                place
            ) from error


@asynccontextmanager
async def bound(
    configs: Sequence[StepEntry],
    context: Callable[[Columns], StepContext],
    columns: Columns,
    *,
    dataset: str,
    checks: Sequence[Callable[[StepContext], Step]] = (),
) -> AsyncIterator[Chain]:
    """
    Bind steps to the columns that reach them, and open what they use; faults show here, before the first row is read.

    `context` makes what a step is built with, of the columns that reach it; `checks` are steps that come last. Raises
    UnknownColumn, InvalidStep, or what a step raises that can't use its server.
    """
    # Whatever a source tells of them: by this, columns of rejected rows are masked.
    listed = tuple(replace(each, origins=frozenset({each.name}), unchanged=True) for each in columns)
    async with AsyncExitStack() as stack:
        links: list[Link] = []
        reaching = columns = replace(columns, listed=listed)

        async def add(make: Callable[[StepContext], Step], config: StepEntry | None) -> Columns:
            with _named(dataset, len(links) + 1):
                step = make(context(reaching))
                plugged = config is not None and config.is_plugin
                step = await stack.enter_async_context(_plugged(step) if plugged else step)
            foreign = plugged or step.foreign
            leaving = _of_unknown_origin(step.columns, reaching) if foreign else step.columns
            links.append(Link(step, leaving, config.timeout if config else None, foreign))
            return leaving

        for config in configs:
            reaching = await add(config.build, config)
        for check in checks:
            reaching = await add(check, None)
        yield Chain(links, columns, dataset=dataset)


@asynccontextmanager
async def _plugged(step: Step) -> AsyncIterator[Step]:
    """A step of another package, opened for the block."""
    with user_code(failing(step.name, "when it was opened")):
        opened = await step.__aenter__()
    try:
        yield opened
    except BaseException as error:
        with closing(step.name, error):
            await opened.__aexit__(type(error), error, error.__traceback__)
        raise
    with closing(step.name, None):
        await opened.__aexit__(None, None, None)


def checked(
    configs: Sequence[StepEntry], context: Callable[[Columns], StepContext], columns: Columns, *, dataset: str
) -> Columns:
    """The columns that leave the steps, as far as that can be told without a server. Raises as `bound` does."""
    for number, config in enumerate(configs, start=1):
        with _named(dataset, number):
            columns = config.build(context(columns)).columns
    return columns


def _of_unknown_origin(leaving: Columns, reaching: Columns) -> Columns:
    """New columns that don't say where they come from may come from anywhere: a step of another package made them."""
    listed = (
        column if column.origins or column in reaching.listed else replace(column, origins=frozenset({column.name}))
        for column in leaving
    )
    return replace(leaving, listed=tuple(listed))


@contextmanager
def _named(dataset: str, number: int) -> Iterator[None]:
    """Errors of the block say of which step they are."""
    try:
        yield
    except PipelineError as error:
        raise error.at(f"Dataset {dataset!r}, step {number}") from error.__cause__
