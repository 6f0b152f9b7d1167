"""A step, source or destination in a job config: a mapping from its kind to its options."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline_processing import plugins
from pipeline_processing.options.parts import Part
from pipeline_processing.options.words import close_to
from pipeline_processing.plugins import Plugin
from pipeline_processing.user_code import described, is_for_us

T = TypeVar("T")


class Entry(Part):
    """
    Base of `StepEntry`, `SourceEntry` and `DestinationEntry`, each of which names a group of plugins.

    Validation returns an instance of a class generated for the kind. Its last field has the kind's name and holds the
    options. Fields of the group's class, such as a step's `timeout`, are keys allowed beside the kind.
    """

    group: ClassVar[str]
    noun: ClassVar[str]
    """The noun in messages: `step`, `source` or `destination`."""
    suffix: ClassVar[str]
    """The suffix of its name in the published JSON Schema: `mask` → `MaskConfig`."""

    kind: ClassVar[str] = ""
    """Its name in the job config."""
    plugin: ClassVar[Plugin]

    def __init_subclass__(cls, *, kind: str = "", plugin: Plugin | None = None, **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.kind = kind
        if plugin is not None:
            cls.plugin = plugin

    @property
    def options(self) -> Any:
        """Its options, validated as the plugin's type."""
        return getattr(self, next(reversed(type(self).model_fields)))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs: the options' `secrets`, if any."""
        return tuple(getattr(self.options, "secrets", ()))

    @property
    def is_plugin(self) -> bool:
        """Whether another package provides it."""
        return plugins.is_plugin(self.kind)

    @property
    def names(self) -> frozenset[str]:
        """Names of the built-in values and request params that it uses."""
        return frozenset(self.asked("names", ()))

    @property
    def query_faults(self) -> Iterable[str]:
        """A sentence for each fault of its `query` that can be found without a server."""
        nothing: Iterable[str] = ()
        return self.asked("query_faults", nothing)

    def asked(self, question: str, default: T) -> T:
        """Return an attribute of a built-in's options, or the default. A plugin may use the name for something else."""
        return default if self.is_plugin else getattr(self.options, question, default)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by kind: the class is made at run time. An isolated attempt gets its job config pickled."""
        return _unread, (type(self).__mro__[1], self.kind), self.__getstate__()

    # -- hooks of pydantic -----------------------------------------------------------------------

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(source) if cls.kind else core_schema.with_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if not cls.kind:
            built_in = {name: plugins.plugin(cls.group, name) for name in plugins.BUILT_IN[cls.group]}
            kinds = [_class_of(cls, kind, plugin) for kind, plugin in built_in.items()]
            choices = {each.kind: each.__pydantic_core_schema__ for each in (*kinds, _any_plugin(cls))}
            return handler(core_schema.tagged_union_schema(choices, discriminator=lambda value: None))
        described = handler(schema)
        if cls.kind == _ANY_PLUGIN:
            inner = handler.resolve_ref_schema(described)
            beside = inner.setdefault("properties", {})
            inner.pop("title")
            inner |= {
                "patternProperties": {r"^[^.]+\.": True},
                "minProperties": 1,
                "maxProperties": 1 + len(beside),
            }
        return described

    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        kinds = [str(key) for key in value if key not in cls.model_fields] if isinstance(value, Mapping) else []
        built_in = plugins.BUILT_IN[cls.group]
        if len(kinds) > 1 and any(kind in built_in or plugins.is_plugin(kind) for kind in kinds):
            beside = "".join(f" beside `{key}`" for key in cls.model_fields)
            raise ValueError(f"needs one key{beside}, and has {', '.join(map(repr, kinds))}")
        if not kinds or not (kinds[0] in built_in or plugins.is_plugin(kinds[0])):
            known = (
                f". A {cls.noun} is a mapping with one of the keys {', '.join(built_in)}, or the name of another "
                f"package's {cls.noun}, which has a dot"
            )
            close = close_to(kinds[0], built_in) if kinds else ""
            raise PydanticCustomError(
                "unknown_kind", "unknown {noun}{known}", {"noun": cls.noun, "known": close or known}
            )
        plugin = plugins.plugin(cls.group, kinds[0])
        try:
            made: Self = _class_of(cls, kinds[0], plugin).model_validate(value, context=info.context)
            return made
        except ValueError:
            raise
        except BaseException as error:  # validators are the package's code
            if is_for_us(error) or not plugins.is_plugin(kinds[0]):
                raise
            raise ValueError(f"{kinds[0]!r} can't check its options: {described(error)}") from error


E_ = TypeVar("E_", bound=Entry)

_ANY_PLUGIN = "plugin"
"""The kind that stands for all plugins in the published schema."""


@cache
def _class_of(base: type[E_], kind: str, plugin: Plugin) -> type[E_]:
    field = f"{kind}_" if hasattr(base, kind) else kind  # `validate` is a method of every model
    fields: dict[str, Any] = {field: (plugin.options, Field(alias=kind))}
    return create_model(
        _class_name(base, kind),
        __base__=base,
        __doc__=plugin.description,
        __cls_kwargs__={"kind": kind, "plugin": plugin},
        **fields,
    )


def _unread(base: type[E_], kind: str) -> E_:
    """An instance without fields, for `pickle` to fill."""
    made = _class_of(base, kind, plugins.plugin(base.group, kind))
    instance: E_ = object.__new__(made)
    return instance


def _any_plugin(base: type[E_]) -> type[E_]:
    doc = f"A {base.noun} of another package: its name has a dot."
    name = _class_name(base, _ANY_PLUGIN)
    return create_model(name, __base__=base, __doc__=doc, __cls_kwargs__={"kind": _ANY_PLUGIN})


def _class_name(base: type[Entry], kind: str) -> str:
    """`enrich_table` → `EnrichTableConfig`."""
    return "".join(word.capitalize() for word in re.split(r"\W|_", kind)) + base.suffix
