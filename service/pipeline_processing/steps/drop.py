"""Step `drop`: remove columns."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from pipeline_processing.errors import InvalidStep
from pipeline_processing.plugins import Plugin
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext


class Drop(Step):
    """Removes the named columns."""

    name = "drop"

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        check_named_once(names, step=self.name)
        self.names = tuple(names)
        self.touches = frozenset(names)
        self.columns = context.columns.without(self.names, step=self.name)
        if self.columns.complete and not self.columns.listed:
            raise InvalidStep("Step 'drop' would leave no column. Name those to keep with `select` instead.")
        self._gone = frozenset(names)
        self._reaching = context.columns

    def fold(self, projection: Projection) -> Projection | None:
        return projection.only([name for name in projection.names if name not in self._gone])

    async def __call__(self, batch: Batch) -> Batch:
        self._reaching.require_in(batch.rows, self.names, step=self.name)
        gone = self._gone
        return batch.changed([{name: value for name, value in row.items() if name not in gone} for row in batch.rows])


PLUGIN = Plugin(
    options=Annotated[tuple[str, ...], Field(min_length=1)],
    build=Drop,
    description="Leave these columns out.",
)
