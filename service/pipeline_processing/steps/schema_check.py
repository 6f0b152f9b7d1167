"""Rows against a JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs

from pipeline_processing.errors import InvalidStep
from pipeline_processing.ports import Row
from pipeline_processing.rows.json_values import loads

_FAULTS = 3
"""So many of a row are told."""
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


class SchemaCheck:
    """
    A JSON Schema: of the draft that `$schema` names, 2020-12 by default. `format` is checked, numbers are compared
    exactly, and a `$ref` reaches no further than the schema itself: nothing is ever fetched.

    Raises InvalidStep where it isn't a schema.
    """

    def __init__(self, schema: dict[str, Any] | bool, *, step: str) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_nowhere)
        except jsonschema_rs.ValidationError as error:
            where = "".join(f"[{json.dumps(part)}]" for part in error.instance_path)
            raise InvalidStep(
                f"Step {step!r} has a JSON Schema that isn't valid{where and f', at {where}'}: {error.message}. "
                "Correct the schema; what a `$ref` names must stand in it."
            ) from None
        except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
            raise InvalidStep(f"Step {step!r} has a JSON Schema that can't be read: {error}. Correct it.") from None
        self._names = frozenset(_property_names(schema))

    def fault(self, row: Row) -> str | None:
        """What is wrong with a row's JSON, without any value; None if nothing is."""
        if self._validator.is_valid(row):
            return None
        errors = list(islice(self._validator.iter_errors(row), _FAULTS + 1))
        return "; ".join(map(self._line, errors[:_FAULTS])) + ("; and more" if errors[_FAULTS:] else "")

    def _line(self, error: jsonschema_rs.ValidationError) -> str:
        """`amount: not of type number (type)`. Names within documents are told only if the schema has them, too."""
        kind, path = error.kind, list(error.instance_path)
        details = kind.as_dict()
        if kind.name == "required":
            path.append(details["property"])
        where = str(path[0]) if path else "the row"
        for part in path[1:]:
            where += f"[{part}]" if isinstance(part, int) else f".{part if part in self._names else '*'}"
        match kind.name:
            case "type":
                words = f"not of type {' or '.join(details['types'])}"
            case "format":
                words = f"not in the format {details['format']}"
            case keyword:
                words = _WORDS.get(keyword, "breaks the schema")
        return f"{where}: {words} ({kind.name})"


def schema_of_file(path: Path, *, step: str) -> Any:
    """A JSON file's content. Raises InvalidStep."""
    try:
        return loads(path.read_bytes())
    except OSError as error:
        raise InvalidStep(
            f"Step {step!r} can't read its JSON Schema {path}: {error.strerror}. Name an existing file; a relative "
            "path counts from the folder in which this service was started."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidStep(f"Step {step!r} has a JSON Schema, {path}, that isn't JSON: {error}.") from None


def _nowhere(uri: str) -> Any:
    raise ValueError("schemas are never fetched")


def _property_names(schema: Any) -> Iterator[str]:
    """Names that the schema itself has for properties."""
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
