"""A dataset's steps, bound to the columns of its query and run in order."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.ports import Batch, Columns, Step
from pipeline_processing.projection import Projection
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.config import (
    AddConfig,
    FilterConfig,
    PythonConfig,
    RenameConfig,
    SelectConfig,
    StepConfig,
)
from pipeline_processing.steps.filter import Filter
from pipeline_processing.steps.folding import folded
from pipeline_processing.steps.python import Python
from pipeline_processing.steps.rename import Rename
from pipeline_processing.steps.select import Select


class Chain:
    """
    The steps of one dataset.

    `columns` are what leaves the last step as far as that is known beforehand; with `fixed` False, a step in
    between decides it row by row, and `columns` are the last ones known.
    """

    def __init__(self, steps: Sequence[Step], columns: Columns) -> None:
        self.projection = Projection.of([column.name for column in columns])
        """What the first steps come to, as far as they only choose, name and add columns; rows come from it."""
        self._steps = list(steps)
        while self._steps and (projection := folded(self.projection, self._steps[0])) is not None:
            self.projection = projection
            del self._steps[0]
        self.fixed = all(step.columns is not None for step in steps)
        self.columns = next((step.columns for step in reversed(steps) if step.columns is not None), columns)

    @property
    def touches_rows(self) -> bool:
        """Whether any step is left that works on rows."""
        return bool(self._steps)

    @property
    def filtered(self) -> int:
        """Rows that the steps say they dropped."""
        return sum(step.filtered for step in self._steps)

    async def __call__(self, batch: Batch) -> Batch:
        for step in self._steps:
            if not batch:
                break
            batch = await step(batch)
        return batch


def bind(configs: Sequence[StepConfig], columns: Columns, *, dataset: str, arguments: Mapping[str, Any]) -> Chain:
    """
    Bind steps to the columns that reach them; faults show here, before the first row is read.

    `arguments` are the names that `add` may fill in. Raises UnknownColumn or InvalidStep.
    """
    steps: list[Step] = []
    reaching: Columns | None = columns
    for config in configs:
        step = _build(config, reaching, dataset=dataset, arguments=arguments)
        steps.append(step)
        reaching = step.columns
    return Chain(steps, columns)


def check_steps(config: AgencyJobConfig) -> None:
    """What can be wrong with steps whatever their columns: conditions and functions. Raises InvalidStep."""
    for dataset in config.datasets:
        for step in dataset.steps:
            if isinstance(step, FilterConfig | PythonConfig):
                _build(step, None, dataset=dataset.name, arguments={})


def _build(config: StepConfig, columns: Columns | None, *, dataset: str, arguments: Mapping[str, Any]) -> Step:
    match config:
        case SelectConfig():
            return Select(config.select, columns)
        case RenameConfig():
            return Rename(config.rename, columns)
        case AddConfig():
            return Add(config.add, columns, arguments=arguments)
        case FilterConfig():
            return Filter(config.filter, columns)
        case PythonConfig():
            return Python(config.python, columns, dataset=dataset)
