"""Step `validate`: rows that break a JSON Schema or a model are row errors."""

from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, StringConstraints, model_validator

from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Row
from pipeline_processing.steps.imported import PATH_PATTERN
from pipeline_processing.steps.model_check import ModelCheck
from pipeline_processing.steps.row_json import RowJson
from pipeline_processing.steps.schema_check import SchemaCheck, schema_of_file
from pipeline_processing.steps.step import Batch, Step, StepContext


class ValidateOptions(Part):
    """What rows must be: one of these. A row is checked as the JSON object that NDJSON would write for it."""

    json_schema: dict[str, Any] | bool | None = Field(None, description="A JSON Schema.")
    json_schema_file: Path | None = Field(None, description="A JSON file with one.")
    model: Annotated[str, StringConstraints(pattern=PATH_PATTERN)] | None = Field(
        None, description="A pydantic model, `module:Name`. It only checks: rows pass as they are."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.json_schema, self.json_schema_file, self.model].count(None) != 2:
            raise ValueError("name one of `json_schema`, `json_schema_file` and `model`")
        return self


class _Check(Protocol):
    def fault(self, row: Row) -> str | None: ...


class Validate(Step):
    """Rows that pass aren't changed. A fault says which column breaks which rule, and never its value."""

    name = "validate"

    def __init__(self, options: ValidateOptions, context: StepContext) -> None:
        self.columns = context.columns
        self._row_errors = context.row_errors
        self._json = RowJson(context.columns, context.carry)
        self._check = _check_of(options, step=self.name)

    async def __call__(self, batch: Batch) -> Batch:
        faults: dict[int, str] = {}
        for position, row in enumerate(batch.rows):
            try:
                fault = self._check.fault(self._json.of(row))
            except RecursionError:
                fault = "the row: too deeply nested"
            if fault is not None:
                faults[position] = fault
        return self._row_errors.reject(batch, faults, step=self.name) if faults else batch


def _check_of(options: ValidateOptions, *, step: str) -> _Check:
    if options.model is not None:
        return ModelCheck(options.model, step=step)
    if options.json_schema_file is not None:
        return SchemaCheck(schema_of_file(options.json_schema_file, step=step), step=step)
    assert options.json_schema is not None  # the options' own check
    return SchemaCheck(options.json_schema, step=step)


PLUGIN = Plugin(
    options=ValidateOptions,
    build=Validate,
    description="Check rows against a JSON Schema or a pydantic model. A row that breaks it is a row error.",
)
