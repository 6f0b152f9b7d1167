"""The steps of a dataset, built for its columns and opened."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.agency_data_job.object_keys import PartitionBy, columns_in
from pipeline_processing.agency_data_job.rejections import Rejections
from pipeline_processing.errors import PipelineError
from pipeline_processing.ports import Services
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.steps.config import StepEntry
from pipeline_processing.steps.expectations import NotNull, Unique
from pipeline_processing.steps.step import Step, StepContext
from pipeline_processing.user_code import closing, failing, user_code


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain."""

    step: Step
    columns: Columns
    """The columns that leave the step, with their known origins."""
    timeout: timedelta | None = None
    user_code: bool = False
    """Whether it is user code, which may raise anything."""


def step_context(
    dataset: DatasetConfig,
    columns: Columns,
    *,
    arguments: Mapping[str, Any],
    services: Services,
    row_errors: Rejections,
) -> StepContext:
    """Build the context of the dataset's first step."""
    return StepContext(
        dataset=dataset.name,
        columns=columns,
        carry=dataset.carry,
        arguments=arguments,
        row_errors=row_errors,
        services=services,
    )


@asynccontextmanager
async def opened_links(dataset: DatasetConfig, context: StepContext) -> AsyncIterator[Sequence[Link]]:
    """
    Build the dataset's steps and those that its other keys ask for, and open them for the block.

    `context` is that of the first step. Raises UnknownColumn or InvalidStep, or a step's own error if its server is
    unavailable.
    """
    # A check for nulls passes rows on unseen otherwise.
    read_later = dataset.expect.unique is not None or bool(columns_in(dataset.object_key))
    links: list[Link] = []
    async with AsyncExitStack() as stack:
        for number, (make, config) in enumerate(_makers(dataset), start=1):
            context = replace(context, last=number >= len(dataset.steps) and not read_later)
            plugged = config is not None and config.is_plugin
            with _located(dataset, number if config else None):
                step = make(context)
                step = await stack.enter_async_context(_plugged(step) if plugged else step)
            user_code = plugged or step.user_code
            leaving = _with_origins(step.columns, context.columns, user_code=user_code)
            links.append(Link(step, leaving, config.timeout if config else None, user_code))
            context = replace(context, columns=leaving)
        yield links


_Maker = Callable[[StepContext], Step]


def _makers(dataset: DatasetConfig) -> Iterator[tuple[_Maker, StepEntry | None]]:
    """Yield the dataset's steps, then `closing_steps`."""
    for config in dataset.steps:
        yield config.build, config
    for _, build, columns in closing_steps(dataset):
        yield partial(build, columns), None


def closing_steps(
    dataset: DatasetConfig,
) -> Iterator[tuple[tuple[str, ...], Callable[[Sequence[str], StepContext], Step], Sequence[str]]]:
    """Yield the steps that other keys of the dataset ask for: each with its key's path, and the columns it reads."""
    if dataset.expect.not_null is not None:
        yield ("expect", "not_null"), NotNull, dataset.expect.not_null
    if dataset.expect.unique is not None:
        yield ("expect", "unique"), Unique, dataset.expect.unique
    if names := columns_in(dataset.object_key):
        yield ("object_key",), PartitionBy, names


@asynccontextmanager
async def _plugged(step: Step) -> AsyncIterator[Step]:
    """Open a plugin's step for the block."""
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


def _with_origins(leaving: Columns, reaching: Columns, *, user_code: bool) -> Columns:
    """
    Complete the origins of columns for which the step names none.

    A built-in that changes a column keeps its origins. User code may compute a column from any other, so its origin is
    unknown.
    """

    def completed(column: Column) -> Column:
        if column.origins or column in reaching.listed:
            return column
        if user_code:
            return replace(column, origins=frozenset({column.name}))
        before = reaching.find(column.name)
        return column if before is None else replace(column, origins=before.origins)

    return replace(leaving, listed=tuple(map(completed, leaving)))


@contextmanager
def _located(dataset: DatasetConfig, number: int | None) -> Iterator[None]:
    """Prefix errors of the block with the dataset, and with the step unless it is an expectation."""
    try:
        yield
    except PipelineError as error:
        place = f"Dataset {dataset.name!r}"
        error.step = number
        raise error.at(place if number is None else f"{place}, step {number}") from error.__cause__
