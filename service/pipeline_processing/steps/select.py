"""Step `select`: keep only some columns."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from pipeline_processing.errors import InvalidStep
from pipeline_processing.plugins import Plugin
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.step import Batch, Step, StepContext


class Select(Step):
    """Keeps the named columns, in the order named."""

    name = "select"

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        check_named_once(names, step=self.name)
        self.names = tuple(names)
        self.touches = frozenset(names)
        self.columns = context.columns.only(self.names, step=self.name)

    def fold(self, projection: Projection) -> Projection | None:
        return projection.only(self.names)

    async def __call__(self, batch: Batch) -> Batch:
        names = self.names
        try:
            return batch.changed([{name: row[name] for name in names} for row in batch.rows])
        except KeyError:
            UNKNOWN_COLUMNS.require_in(batch.rows, names, step=self.name)  # whatever their step has said of them
            raise


def check_named_once(names: Sequence[str], *, step: str) -> None:
    """Raises InvalidStep if a column is named twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidStep(f"Step {step!r} names {', '.join(map(repr, twice))} twice. Name every column once.")


PLUGIN = Plugin(
    options=Annotated[tuple[str, ...], Field(min_length=1)],
    build=Select,
    description="Keep these columns, in this order.",
)
