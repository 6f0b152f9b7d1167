"""
The values that expressions compute with, and their conversion from and to carried values.

| type | value |
|---|---|
| text, char(n), uuid, json | str; a json document as written |
| integer, boolean | int, bool |
| numeric | Decimal, never -0 and never with a positive exponent: its exponent is Postgres's scale |
| double precision | float |
| date, timestamp, timestamptz | the text that Postgres prints in UTC (see `times.py`) |
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec import Raw

from pipeline_processing.expressions.decimals import decimal_text, stored
from pipeline_processing.expressions.floats import float_text
from pipeline_processing.expressions.types import KIND_OF_TYPE, RowFault, Type
from pipeline_processing.kinds import form_of
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import dumps

Convert = Callable[[Any], Any]

# -- carried value ⇄ value -----------------------------------------------------------------------


def _number(text: str) -> Decimal:
    number = Decimal(text)
    return stored(number) if "e" in text or "E" in text or text[0] == "-" else number


def _number_of_raw(raw: Raw) -> Decimal:
    return _number(str(raw, "ascii"))


def _text_of_raw(raw: Raw) -> str:
    return str(raw, "utf-8")


_READ: Mapping[str, Mapping[Type, Convert]] = {
    "json": {
        Type.NUMBER: _number_of_raw,
        Type.FLOAT: float,
        Type.TIMESTAMP: lambda text: text.replace("T", " ", 1),
        Type.TIMESTAMPTZ: lambda text: text.replace("T", " ", 1).replace("+00:00", "+00", 1),
        Type.JSON: _text_of_raw,
    },
    "text": {
        Type.INTEGER: int,
        Type.NUMBER: _number,
        Type.FLOAT: float,
        Type.BOOLEAN: lambda text: text == "t",
    },
}
_WRITE: Mapping[str, Mapping[Type, Convert]] = {
    "json": {
        Type.NUMBER: lambda number: Raw(decimal_text(number)),
        Type.FLOAT: lambda number: Raw(float_text(number)),
        Type.TIMESTAMP: lambda text: text.replace(" ", "T", 1),
        Type.TIMESTAMPTZ: lambda text: text.replace(" ", "T", 1).replace("+00", "+00:00", 1),
        # On one line. Line ends can only occur between tokens.
        Type.JSON: lambda text: Raw(text.replace("\n", " ").replace("\r", " ")),
    },
    "text": {
        Type.INTEGER: str,
        Type.NUMBER: decimal_text,
        Type.FLOAT: float_text,
        Type.BOOLEAN: lambda truth: "t" if truth else "f",
    },
}


def reading(type_: Type, carry: str) -> Convert | None:
    """Return a function from carried values of that type to values; None if they are the same."""
    return _READ[carry].get(type_)


def writing(type_: Type, carry: str) -> Convert | None:
    """Return a function from values to carried values of that type; None if they are the same."""
    return _WRITE[carry].get(type_)


# -- keys ----------------------------------------------------------------------------------------


def _number_key(number: Any) -> Any:
    return number if number == number else values.NAN


_KEYS: Mapping[Type, Convert] = {
    Type.CHAR: values.padded_text_key,
    **dict.fromkeys((Type.NUMBER, Type.FLOAT), _number_key),
    **dict.fromkeys((Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ), values.time_key),
}


def ordering(type_: Type) -> Convert | None:
    """Return a function from values to keys that sort as Postgres sorts the type; None if they are the same."""
    return _KEYS.get(type_)


def _float_key_of_carried(carried: Any) -> Any:
    number = float(carried)
    return number if number == number else values.NAN


def _number_key_of_raw(raw: Raw) -> Any:
    number = Decimal(str(raw, "ascii"))
    return number if number == number else values.NAN


def _number_key_of_text(text: str) -> Any:
    number = Decimal(text)
    return number if number == number else values.NAN


def key_of_carried(type_: Type, carry: str) -> Convert | None:
    """Return a function from carried values of that type to the keys of `ordering`; None if they are the same."""
    match type_, carry:
        case Type.FLOAT, _:
            return _float_key_of_carried
        case Type.NUMBER, "json":
            return _number_key_of_raw
        case Type.NUMBER, _:
            return _number_key_of_text
        case ((Type.DATE | Type.TIMESTAMP | Type.TIMESTAMPTZ), _):
            comparison = form_of(KIND_OF_TYPE[type_], carry).comparison
            return comparison.key if comparison else None
    return reading(type_, carry) or ordering(type_)


# -- natural values, in untyped columns ----------------------------------------------------------


_TYPES = {
    type(None): Type.NULL,
    bool: Type.BOOLEAN,
    float: Type.FLOAT,
    Decimal: Type.NUMBER,
    str: Type.TEXT,
}
"""The types of the most common natural values, which need no closer look."""


def type_at_run_time(value: Any) -> Type:
    """Return the type of a natural value. Raises RowFault."""
    if (known := _TYPES.get(type(value))) is not None:
        return known
    match value:
        case int():
            return Type.INTEGER if -(2**63) <= value < 2**63 else Type.NUMBER
        case float():
            return Type.FLOAT
        case Decimal():
            return Type.NUMBER
        case str():
            return Type.TEXT
        case datetime():
            return Type.TIMESTAMP if value.tzinfo is None else Type.TIMESTAMPTZ
        case date():
            return Type.DATE
        case UUID():
            return Type.UUID
        case dict() | list():
            return Type.JSON
        case Raw():
            return Type.NUMBER if bytes(value)[:1] in b"-0123456789NI" else Type.JSON
    raise RowFault(f"a column holds a Python {type(value).__name__}, which expressions don't know")


def _number_at_run_time(value: Any) -> Decimal:
    return _number_of_raw(value) if isinstance(value, Raw) else stored(Decimal(value))


def _timestamptz_at_run_time(moment: datetime) -> str:
    try:
        return form_of(Kind.TIMESTAMPTZ, "text").carried(moment)  # type: ignore[no-any-return]  # it makes text
    except OverflowError:
        raise RowFault("a time is outside the years 1 to 9999 in UTC") from None


READ_AT_RUN_TIME: Mapping[Type, Convert] = {
    Type.NUMBER: _number_at_run_time,
    Type.FLOAT: float,
    Type.DATE: date.isoformat,
    Type.TIMESTAMP: form_of(Kind.TIMESTAMP, "text").carried,
    Type.TIMESTAMPTZ: _timestamptz_at_run_time,
    Type.UUID: str,
    Type.JSON: lambda value: _text_of_raw(value) if isinstance(value, Raw) else dumps(value),
}
"""Natural value → value, for types where they differ."""

NATURAL: Mapping[Type, Convert] = {
    type_: form_of(KIND_OF_TYPE[type_], "text").natural or values.same
    for type_ in (Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ, Type.JSON)
}
"""Value → natural value, for types where they differ."""
