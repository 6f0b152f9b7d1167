"""Base of `derive` and `cast`, which set columns to computed values."""

from collections.abc import Mapping

from pipeline_processing.expressions.compiled import Value
from pipeline_processing.expressions.expression import results
from pipeline_processing.steps.step import Batch, Step, StepContext


class Computed(Step):
    """Sets columns to values computed from the original row. A row whose value can't be computed is a row error."""

    def __init__(self, values: Mapping[str, Value], context: StepContext) -> None:
        self._values = values
        self._row_errors = context.row_errors

    async def __call__(self, batch: Batch) -> Batch:
        columns = []
        faults: dict[int, str] = {}
        for name, value in self._values.items():
            computed, failed = results(value, batch.rows)
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
