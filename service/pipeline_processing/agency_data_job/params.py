"""The params that a job config declares: their types and defaults, and how a request's values are parsed."""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from pipeline_processing.model import BUILT_IN_ARGUMENTS, Moment
from pipeline_processing.options.json_schema import SCALAR
from pipeline_processing.options.parts import Part
from pipeline_processing.options.words import saying


class ParamType(StrEnum):
    """What a param's values are."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"


class ParamConfig(Part):
    """A param that requests may send."""

    type: ParamType = Field(description="What its values are; each may also be sent as text, as `--param` does.")
    default: Annotated[Any, WithJsonSchema(dict(SCALAR))] = Field(
        None, description="Its value where a request doesn't send it."
    )
    required: bool | None = Field(
        None, description="Whether requests must send it. If null: true unless there is a `default`."
    )

    @model_validator(mode="before")
    @classmethod
    def _required_unless_there_is_a_default(cls, param: Any) -> Any:
        if isinstance(param, Mapping) and param.get("required") is None:
            return {**param, "required": "default" not in param}
        return param

    @model_validator(mode="after")
    def _default_fits(self) -> "ParamConfig":
        if self.default is None:
            return self
        if self.required:
            raise ValueError("a required param never uses its `default`: leave out one of the two")
        try:
            self.value_of(self.default)
        except ValueError as error:
            raise ValueError(f"`default` {error}") from None
        return self

    def value_of(self, sent: Any) -> Any:
        """
        Convert a sent value to str, int, Decimal, bool, date or datetime, as queries and steps get it. None stays None.

        Raises ValueError, whose message says what the value must be but never repeats it.
        """
        return None if sent is None else _READERS[self.type](sent)

    def __str__(self) -> str:
        return f"{self.type}, required" if self.required else str(self.type)


def _not_built_in(name: str) -> str:
    if name in BUILT_IN_ARGUMENTS:
        raise ValueError(f"{name} is built in: a param needs another name")
    return name


ParamName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$"),
    saying("must be a param's name: a letter or `_`, then up to 62 letters, digits, `_` and `-`"),
    AfterValidator(_not_built_in),
]
DeclaredParams = Mapping[str, ParamConfig]


def values_of(sent: Mapping[str, Any], declared: DeclaredParams | None) -> Mapping[str, Any]:
    """
    Return the params as queries and steps get them, with defaults. Undeclared params are returned as sent.

    Raises ValueError if one has the wrong type.
    """
    if declared is None:
        return sent
    return {name: param.value_of(sent.get(name, param.default)) for name, param in declared.items()}


# -- reading values ------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = TypeAdapter[datetime](Moment)


def _text(sent: Any) -> str:
    if isinstance(sent, str):
        return sent
    raise ValueError("must be text")


def _integer(sent: Any) -> int:
    number = int(sent) if isinstance(sent, str) and _INTEGER.fullmatch(sent) else sent
    if type(number) is int and -(2**63) <= number < 2**63:
        return number
    raise ValueError("must be an integer of 64 bits")


def _number(sent: Any) -> int | Decimal:
    if type(sent) is int:
        return sent
    if isinstance(sent, float | str) and _NUMBER.fullmatch(str(sent)):
        return Decimal(str(sent))
    raise ValueError("must be a number")


def _boolean(sent: Any) -> bool:
    match sent:
        case bool():
            return sent
        case "true" | "false":
            return bool(sent == "true")
        case _:
            raise ValueError("must be true or false")


def _date(sent: Any) -> date:
    if isinstance(sent, date) and not isinstance(sent, datetime):
        return sent
    try:
        if isinstance(sent, str) and _DATE.fullmatch(sent):
            return date.fromisoformat(sent)
    except ValueError:
        pass
    raise ValueError("must be a date such as 2026-01-18")


def _timestamp(sent: Any) -> datetime:
    try:
        return _MOMENT.validate_python(sent)
    except ValidationError:
        raise ValueError("must be a time with its zone, such as 2026-01-18T10:00:00Z") from None


_READERS: Mapping[ParamType, Callable[[Any], Any]] = {
    ParamType.TEXT: _text,
    ParamType.INTEGER: _integer,
    ParamType.NUMBER: _number,
    ParamType.BOOLEAN: _boolean,
    ParamType.DATE: _date,
    ParamType.TIMESTAMP: _timestamp,
}
