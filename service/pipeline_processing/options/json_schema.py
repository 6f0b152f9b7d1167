"""Pydantic models → published JSON Schemas, byte for byte reproducible."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"

RFC_3339 = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
"""A time with an offset. `format: date-time` says the same, but most validators ignore it."""


SCALAR: Mapping[str, Any] = {"anyOf": [{"type": name} for name in ("string", "number", "boolean", "null")]}
"""A value that is no list or object. Ajv's strict mode refuses the same as a list of types."""


class PublishedModel(NamedTuple):
    """A model to publish. `mode` is "validation" for what users send, "serialization" for what the service sends."""

    name: str
    title: str
    model: type[BaseModel]
    mode: JsonSchemaMode


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with this service's adjustments."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        # The service sends every field, including defaults. But events and manifests of earlier versions lack fields
        # that were added later.
        if "x-since" in field.get("metadata", {}).get("pydantic_js_extra", {}):
            return False
        return self.mode == "serialization" or super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:
        # "Agency Id" adds nothing to `agency_id`.
        return False

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        result = super().datetime_schema(schema)
        return {**result, "pattern": RFC_3339} if schema.get("tz_constraint") == "aware" else result

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        result = super().dict_schema(schema)
        # Pydantic refuses keys that don't match the pattern, and forgets to say so.
        return {**result, "additionalProperties": False} if "patternProperties" in result else result

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        result = super().generate_inner(schema)
        # JSON Schema has no format `path`, and every path in a job config must be absolute.
        return {"type": "string", "pattern": "^/"} if result.get("format") == "path" else result


def _plain(schema: Any) -> Any:
    """Return a schema without keywords of our own: strict validators, such as ajv, refuse keywords they don't know."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        **{key: _plain(value) for key, value in schema.items() if key != "x-since"},
        **({"$comment": f"Since {schema['x-since']}."} if "x-since" in schema else {}),
    }


def schema_document(published: PublishedModel) -> dict[str, Any]:
    """Return a model as a self-contained JSON Schema."""
    schema = _plain(published.model.model_json_schema(mode=published.mode, schema_generator=_Generator))
    definitions = schema.pop("$defs", None)
    head = {
        "$schema": DIALECT,
        "$id": f"urn:pipeline-processing:schema:{published.name}",
        "title": published.title,
        "description": schema.pop("description"),
    }
    tail = {"$defs": definitions} if definitions else {}
    return head | {key: value for key, value in schema.items() if key != "title"} | tail


def shared_schemas(models: Sequence[PublishedModel], *, ref_template: str) -> dict[str, Any]:
    """
    Return the schemas of several models and their dependencies, by class name, to embed in a larger document.

    `ref_template` is their place in it, e.g. `#/components/schemas/{model}`.
    """
    _, schema = models_json_schema(
        [(published.model, published.mode) for published in models],
        ref_template=ref_template,
        schema_generator=_Generator,
    )
    definitions: dict[str, Any] = _plain(schema["$defs"])
    return dict(sorted(definitions.items()))
