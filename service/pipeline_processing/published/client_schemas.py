"""
Schemas reshaped for code generators. They accept the same documents, but of agencies only those with integers for keys.

Generators read schemas as types. Of `anyOf` with null they make `Object`, of integers without a format 32 bits, of
`patternProperties` an empty class, and of an enum without a title a class with a number for a name. Of an integer or
text they make `Object`, which nobody wants whose agencies have integers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_AGENCY_KEY = "A string instead, where the job config has `agency_key: uuid` or `text`."
_NULL = {"type": "null"}
_INT32_MAX = 2**31 - 1


def client_schemas(schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """
    Return schemas that generators make usable classes of, by class name.

    A class that is only used where null is allowed allows null itself, so that fields have that class as their type.
    """
    uses = set(_uses(schemas))
    nullable = {name: schema for name, schema in schemas.items() if (name, True) in uses and (name, False) not in uses}
    reshaped = {name: _reshaped(schema, name, nullable) for name, schema in schemas.items()}
    for name in nullable:
        reshaped[name]["type"] = [reshaped[name]["type"], "null"]
    return {name: schema for name, schema in reshaped.items() if not (name in nullable and "enum" in schema)}


def _referred(schema: Schema) -> str:
    name: str = schema["$ref"].rpartition("/")[2]
    return name


def _uses(node: Any, *, or_null: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the class of each reference, and whether null is allowed there, too."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield _referred(node), or_null
        for key, value in node.items():
            yield from _uses(value, or_null=key == "anyOf" and _NULL in value and len(value) == 2)
    elif isinstance(node, list):
        for value in node:
            yield from _uses(value, or_null=or_null)


def _reshaped(node: Any, title: str, nullable: Mapping[str, Schema]) -> Any:
    """Reshape a schema and those in it. `title` is for an enum without one; `nullable` has classes that allow null."""
    if isinstance(node, list):
        return [_reshaped(each, title, nullable) for each in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _reshaped(value, title, nullable) for key, value in node.items() if key != "properties"}
    if "properties" in node:
        schema["properties"] = {
            name: _reshaped(value, title + name.title().replace("_", ""), nullable)
            for name, value in node["properties"].items()
        }
    if schema.get("type") == "integer":
        schema["format"] = "int32" if schema.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if "enum" in schema:
        schema.setdefault("title", title)
    if "patternProperties" in schema:
        ((pattern, value),) = schema.pop("patternProperties").items()
        schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    if [each.get("type") for each in schema.get("anyOf", ())] == ["integer", "string"]:
        return {**schema["anyOf"][0], "description": _AGENCY_KEY}
    if len(schema.get("anyOf", ())) == 2 and _NULL in schema["anyOf"]:
        return _or_null(schema, nullable)
    return schema


def _or_null(schema: Schema, nullable: Mapping[str, Schema]) -> Schema:
    """Reshape `anyOf` of null and another schema."""
    other = next(each for each in schema["anyOf"] if each != _NULL)
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if "$ref" in other:
        name = _referred(other)
        if name not in nullable:
            return schema
        values = nullable[name].get("enum")
        if values is None:
            return dict(other)
        # Of null in an enum, generators make the text "null".
        other = {"type": "string", "pattern": f"^({'|'.join(values)})$"}
    return {**other, "type": [other["type"], "null"], **rest}
