"""A source, step or destination of another package, as a job config writes it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pipeline_processing.plugins import parsed


class PluginEntry(BaseModel):
    """A mapping with one key, the plugin's name, and its options. Fields of subclasses stand beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: ClassVar[str]
    """Of entry points."""

    name: str
    options: Any = None

    @model_validator(mode="before")
    @classmethod
    def _by_its_name(cls, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or "name" in entry:
            return entry
        beside = {key: entry[key] for key in cls._beside() if key in entry}
        names = [key for key in entry if key not in beside]
        if len(names) != 1:
            others = "".join(f" beside `{key}`" for key in cls._beside())
            raise ValueError(f"needs one key{others}, and has {', '.join(map(repr, names))}")
        (name,) = names
        return {"name": name, "options": parsed(cls.group, name, entry[name]), **beside}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {fields.pop("name"): fields.pop("options"), **fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What its options are, only the package knows."""
        made = handler.resolve_ref_schema(handler(schema))
        properties = {key: value for key, value in made.get("properties", {}).items() if key in cls._beside()}
        return {
            "type": "object",
            "description": (cls.__doc__ or "").strip(),
            "properties": properties,
            "patternProperties": {r"^[^.]+\.": True},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1 + len(properties),
        }

    @classmethod
    def _beside(cls) -> list[str]:
        return [key for key in cls.model_fields if key not in ("name", "options")]

    @property
    def kind(self) -> str:
        """What the job config calls it by."""
        return self.name

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs, as far as its options tell."""
        return tuple(getattr(self.options, "secrets", ()))

    @property
    def names(self) -> frozenset[str]:
        """None are known: it may use every value."""
        return frozenset()
