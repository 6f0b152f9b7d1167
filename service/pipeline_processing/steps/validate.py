"""Step `validate`: rows that break a JSON Schema or a model are row errors."""

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

import jsonschema_rs
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from pipeline_processing.errors import InvalidStep, PipelineError, StepFailed
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Row
from pipeline_processing.rows.json_values import loads
from pipeline_processing.steps.imported import PATH_PATTERN, PATH_WORDS, imported
from pipeline_processing.steps.row_json import RowJson
from pipeline_processing.steps.step import Batch, Step, StepContext
from pipeline_processing.user_code import is_for_us

_MOST_FAULTS = 3
"""Per row in a message."""


class ValidateOptions(Part):
    """What rows must be: one of these. A row is checked as the JSON object that NDJSON would write for it."""

    json_schema: dict[str, Any] | bool | None = Field(None, description="A JSON Schema.")
    json_schema_file: Path | None = Field(None, description="A JSON file with one.")
    model: Annotated[str, StringConstraints(pattern=PATH_PATTERN), PATH_WORDS] | None = Field(
        None, description="A pydantic model, `module:Name`. It only checks: rows pass as they are."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.json_schema, self.json_schema_file, self.model].count(None) != 2:
            raise ValueError("name one of `json_schema`, `json_schema_file` and `model`")
        return self


class Validate(Step):
    """Checks rows without changing them. A fault names the column and the rule, but never the value."""

    name = "validate"

    def __init__(self, options: ValidateOptions, context: StepContext) -> None:
        self.columns = context.columns
        self._row_errors = context.row_errors
        self._json = RowJson(context.columns, context.carry)
        self._faults_of = _check_of(options, step=self.name)

    async def __call__(self, batch: Batch) -> Batch:
        faults: dict[int, str] = {}
        for position, row in enumerate(batch.rows):
            try:
                found = self._faults_of(self._json.of(row))
            except RecursionError:
                found = ["the row: too deeply nested"]
            if found:
                faults[position] = "; ".join(found[:_MOST_FAULTS]) + ("; and more" if found[_MOST_FAULTS:] else "")
        return self._row_errors.reject(batch, faults, step=self.name) if faults else batch


PLUGIN = Plugin(
    options=ValidateOptions,
    build=Validate,
    description="Check rows against a JSON Schema or a pydantic model. A row that breaks it is a row error.",
)

_Check = Callable[[Row], Sequence[str]]
"""A row's JSON → its faults, without values: at most one more than a message lists."""


def _check_of(options: ValidateOptions, *, step: str) -> _Check:
    if options.model is not None:
        return _check_of_model(options.model, step=step)
    if options.json_schema_file is not None:
        return _check_of_schema(_schema_of_file(options.json_schema_file, step=step), step=step)
    assert options.json_schema is not None  # checked by the options
    return _check_of_schema(options.json_schema, step=step)


def _where(path: Sequence[Any], known: Collection[str]) -> str:
    """Format a path, e.g. `address.city`. Names inside documents appear only if the schema or model has them."""
    where = str(path[0]) if path else "the row"
    for part in path[1:]:
        where += f"[{part}]" if isinstance(part, int) else f".{part if part in known else '*'}"
    return where


# -- JSON Schemas --------------------------------------------------------------------------------

_WORDS: Mapping[str, str] = {
    "additionalProperties": "has more than the schema allows",
    "unevaluatedProperties": "has more than the schema allows",
    "const": "isn't the one allowed value",
    "enum": "isn't one of the allowed values",
    "exclusiveMaximum": "too large",
    "exclusiveMinimum": "too small",
    "maximum": "too large",
    "minimum": "too small",
    "maxItems": "too many items",
    "minItems": "too few items",
    "maxLength": "too long",
    "minLength": "too short",
    "multipleOf": "isn't a multiple of what the schema says",
    "pattern": "doesn't match the pattern",
    "required": "is missing",
    "uniqueItems": "has equal items",
}


def _check_of_schema(schema: dict[str, Any] | bool, *, step: str) -> _Check:
    """
    Return a check by a JSON Schema, of the draft in `$schema` or 2020-12. It checks `format`, compares numbers exactly,
    and never fetches anything: a `$ref` can only point into the schema itself.
    """
    try:
        validator = jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_nowhere)
    except jsonschema_rs.ValidationError as error:
        where = "".join(f"[{json.dumps(part)}]" for part in error.instance_path)
        raise InvalidStep(
            f"Step {step!r} has a JSON Schema that isn't valid{where and f', at {where}'}: {error.message}. "
            "Correct the schema; a `$ref` can only refer to a part of it."
        ) from None
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        raise InvalidStep(f"Step {step!r} has a JSON Schema that can't be read: {error}. Correct it.") from None
    names = frozenset(_property_names(schema))

    def faults(row: Row) -> Sequence[str]:
        if validator.is_valid(row):
            return ()
        return [_line(error, names) for error in islice(validator.iter_errors(row), _MOST_FAULTS + 1)]

    return faults


def _line(error: jsonschema_rs.ValidationError, names: Collection[str]) -> str:
    """Format a fault, e.g. `amount: not of type number (type)`."""
    kind, path = error.kind, list(error.instance_path)
    details = kind.as_dict()
    match kind.name:
        case "type":
            words = f"not of type {' or '.join(details['types'])}"
        case "format":
            words = f"not in the format {details['format']}"
        case keyword:
            words = _WORDS.get(keyword, "breaks the schema")
    if kind.name == "required":
        path.append(details["property"])
    return f"{_where(path, names)}: {words} ({kind.name})"


def _schema_of_file(path: Path, *, step: str) -> Any:
    """Read a JSON file. Raises InvalidStep."""
    try:
        return loads(path.read_bytes())
    except OSError as error:
        raise InvalidStep(
            f"Step {step!r} can't read its JSON Schema {path}: {error.strerror}. Name an existing file; a relative "
            "path starts at this service's working directory."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidStep(f"Step {step!r} has a JSON Schema, {path}, that isn't JSON: {error}.") from None


def _nowhere(uri: str) -> Any:
    raise ValueError("schemas are never fetched")


def _property_names(schema: Any) -> Iterator[str]:
    """Yield the property names in the schema."""
    match schema:
        case dict():
            for keyword, value in schema.items():
                if keyword == "properties" and isinstance(value, dict):
                    yield from value
                elif keyword == "required" and isinstance(value, list):
                    yield from (name for name in value if isinstance(name, str))
                yield from _property_names(value)
        case list():
            for item in schema:
                yield from _property_names(item)


# -- models --------------------------------------------------------------------------------------


def _check_of_model(path: str, *, step: str) -> _Check:
    """
    Return a check by a pydantic model, `module:Name`. The model gets a row's JSON as Python values: str, int, Decimal,
    bool, None, lists and dicts. Fields of dates, times and UUIDs get text.
    """
    model = imported(path, step=step)
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise InvalidStep(f"Step {step!r} needs a pydantic model, and {path} is a {type(model).__name__}.")
    names = _field_names(model, set())

    def faults(row: Row) -> Sequence[str]:
        try:
            model.model_validate(row)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return [f"{_where(fault['loc'], names)}: {fault['type']}" for fault in found[: _MOST_FAULTS + 1]]
        except PipelineError:
            raise
        except BaseException as error:  # validators are user code
            if is_for_us(error):
                raise
            raise StepFailed(
                f"The model {model.__name__} raised {type(error).__name__}, where a validator may raise ValueError or "
                "AssertionError. Correct the model, then replay the run."
            ) from error
        return ()

    return faults


def _field_names(annotation: Any, seen: set[Any]) -> frozenset[str]:
    """Return the field names of a model and of the models nested in it."""
    names: frozenset[str] = frozenset()
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for name, field in annotation.model_fields.items():
            aliases = {alias for alias in (name, field.alias, field.validation_alias) if isinstance(alias, str)}
            names |= aliases | _field_names(field.annotation, seen)
    for argument in getattr(annotation, "__args__", ()):
        names |= _field_names(argument, seen)
    return names
