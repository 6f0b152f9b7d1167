"""Base of `derive` and `cast`, which set columns to computed values."""

from collections.abc import Mapping

from pipeline_processing.expressions.code import Run
from pipeline_processing.steps.step import Batch, Step, StepContext


class Computed(Step):
    """Sets columns to values computed from the original row. A row whose value can't be computed is a row error."""

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
