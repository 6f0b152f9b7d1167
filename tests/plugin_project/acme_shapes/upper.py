"""Step `acme.upper`: text columns in capitals. Rows whose value is no text are row errors."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_processing.plugins import Plugin
from pipeline_processing.rows.columns import Kind
from pipeline_processing.steps.step import Batch, Step, StepContext


class UpperOptions(BaseModel):
    """Which columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]


class Upper(Step):
    """Replaces values in place."""

    name = "acme.upper"

    def __init__(self, options: UpperOptions, *, context: StepContext) -> None:
        self._names = options.columns
        self._row_errors = context.row_errors
        changed = [context.columns.require(name, step=self.name) for name in self._names]
        self.columns = context.columns.replaced(
            [replace(column, kind=Kind.TEXT, unchanged=False) for column in changed], step=self.name
        )

    async def __call__(self, batch: Batch) -> Batch:
        """See `Step`."""
        faults: dict[int, str] = {}
        for position, row in enumerate(batch.rows):
            for name in self._names:
                value: Any = row[name]
                if isinstance(value, str):
                    row[name] = value.upper()
                elif value is not None:
                    faults[position] = f"{name} is no text"
        return self._row_errors.reject(batch, faults, step=self.name)


PLUGIN = Plugin(options=UpperOptions, build=Upper)
