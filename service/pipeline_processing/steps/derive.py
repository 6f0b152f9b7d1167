"""Step `derive`: columns computed by SQL expressions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from pipeline_processing.expressions.code import Run
from pipeline_processing.expressions.expression import columns_in, expression
from pipeline_processing.plugins import Plugin
from pipeline_processing.steps.step import Batch, Step, StepContext


class Computed(Step):
    """
    Base of `derive` and `cast`: sets columns to values computed from the original row. A row whose value can't be
    computed is a row error.
    """

    def __init__(self, runs: Mapping[str, Run], context: StepContext) -> None:
        self._runs = runs
        self._row_errors = context.row_errors

    async def __call__(self, batch: Batch) -> Batch:
        columns = []
        faults: dict[int, str] = {}
        for name, run in self._runs.items():
            computed, failed = run(batch.rows)
            columns.append((name, computed))
            faults = {position: f"column {name!r}: {reason}" for position, reason in failed.items()} | faults
        if faults:
            batch = self._row_errors.reject(batch, faults, step=self.name)
        for name, computed in columns:
            if faults:
                computed = [each for position, each in enumerate(computed) if position not in faults]
            for row, each in zip(batch.rows, computed, strict=True):
                row[name] = each
        return batch


class Derive(Computed):
    """
    Appends columns, or replaces existing ones of the same name in place.

    Every expression reads the columns as they were before the step. A row for which an expression can't be computed is
    a row error. See `expressions/` for the syntax.
    """

    name = "derive"

    def __init__(self, expressions: Mapping[str, str], context: StepContext) -> None:
        compiled = {
            name: expression(text, context.columns, carry=context.carry, step=self.name, column=name)
            for name, text in expressions.items()
        }
        super().__init__({name: each.run for name, each in compiled.items()}, context)
        self.touches = frozenset(expressions).union(*map(columns_in, expressions.values()))
        columns = [replace(each.result, name=name) for name, each in compiled.items()]
        existing = [column for column in columns if context.columns.find(column.name)]
        new = [column for column in columns if column not in existing]
        self.columns = context.columns.replaced(existing, step=self.name).plus(new, step=self.name)


PLUGIN = Plugin(
    options=Annotated[dict[str, str], Field(min_length=1)],
    build=Derive,
    description="Compute columns by SQL expressions: name → expression. A name that is there already is replaced.",
)
