"""pydantic models → the JSON Schemas that are published, the same bytes from run to run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"

RFC_3339 = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
"""A time with its offset. Most validators ignore `format: date-time`, which says the same."""


class PublishedModel(NamedTuple):
    """
    One model to publish. `mode` is "validation" for what users send, "serialization" for what the service sends.
    """

    name: str
    title: str
    model: type[BaseModel]
    mode: JsonSchemaMode


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with what its models don't say."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        # The service sends every field, defaults too. But events and manifests of earlier versions lack fields that
        # were added later.
        if "x-since" in field.get("metadata", {}).get("pydantic_js_extra", {}):
            return False
        return self.mode == "serialization" or super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:
        # "Agency Id" says no more than `agency_id`.
        return False

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        result = super().datetime_schema(schema)
        return {**result, "pattern": RFC_3339} if schema.get("tz_constraint") == "aware" else result

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        result = super().generate_inner(schema)
        # `path` is no format of JSON Schema, and every path in a job config must be absolute.
        return {"type": "string", "pattern": "^/"} if result.get("format") == "path" else result


def schema_document(published: PublishedModel) -> dict[str, Any]:
    """One model as a JSON Schema that stands alone."""
    schema = published.model.model_json_schema(mode=published.mode, schema_generator=_Generator)
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
    Several models and all that they refer to, by class name, as parts of a larger document.

    `ref_template` is their place in it, e.g. `#/components/schemas/{model}`.
    """
    _, schema = models_json_schema(
        [(published.model, published.mode) for published in models],
        ref_template=ref_template,
        schema_generator=_Generator,
    )
    definitions: dict[str, Any] = schema["$defs"]
    return dict(sorted(definitions.items()))
