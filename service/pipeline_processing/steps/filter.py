"""Step `filter`: keep the rows for which a SQL condition is true."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from pipeline_processing.expressions.expression import columns_in
from pipeline_processing.expressions.expression import condition as compiled_condition
from pipeline_processing.plugins import Plugin
from pipeline_processing.steps.step import Batch, Step, StepContext


class Filter(Step):
    """
    Drops the rows for which the condition is false or null, and counts them as filtered.

    A row for which it can't be computed is a row error. See `expressions/` for the syntax.
    """

    def __init__(self, condition: str, context: StepContext) -> None:
        self.name = f"filter: {condition}"
        self.columns = context.columns
        self._row_errors = context.row_errors
        compiled = compiled_condition(condition, context.columns, carry=context.carry, step=self.name)
        self._truths = compiled.run
        self._on_records = compiled.on_records
        self.touches = columns_in(condition)

    def read_records(self, places: Mapping[str, int]) -> bool:
        truths = self._on_records(places)
        if truths is None:
            return False
        self._truths = truths
        return True

    async def __call__(self, batch: Batch) -> Batch:
        truths, faults = self._truths(batch.rows)
        if faults:
            batch = self._row_errors.reject(batch, faults, step=self.name)
            truths = [truth for position, truth in enumerate(truths) if position not in faults]
        kept = batch.kept(truths)
        self.filtered += len(truths) - len(kept.rows)
        return kept


PLUGIN = Plugin(
    options=Annotated[str, Field(min_length=1)],
    build=Filter,
    description="Keep the rows for which a SQL condition is true; where it is null, the row is dropped, as in SQL.",
)
