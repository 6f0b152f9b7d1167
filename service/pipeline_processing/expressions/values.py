"""
Values as expressions have them, one form for each type, and their way from and to what a row carries.

| type | value |
|---|---|
| text, char(n), uuid, json | str; a json document as it is written |
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

from pipeline_processing.expressions import times
from pipeline_processing.expressions.decimals import stored
from pipeline_processing.expressions.floats import float_text
from pipeline_processing.expressions.refusals import RowFault
from pipeline_processing.expressions.types import KIND_OF_TYPE, Type
from pipeline_processing.kinds import form_of
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import dumps

Convert = Callable[[Any], Any]

# -- what a row carries → value ------------------------------------------------------------------


def _number(text: str) -> Decimal:
    number = Decimal(text)
    return stored(number) if "e" in text or "E" in text or text[0] == "-" else number


def _number_of_raw(raw: Raw) -> Decimal:
    return _number(str(raw, "ascii"))


def _time_of_json(text: str) -> str:
    return text.replace("T", " ", 1).replace("+00:00", "+00", 1)


def _text_of_raw(raw: Raw) -> str:
    return str(raw, "utf-8")


def _boolean_of_text(text: str) -> bool:
    return text == "t"


_READ: Mapping[str, Mapping[Type, Convert]] = {
    "json": {
        Type.NUMBER: _number_of_raw,
        Type.FLOAT: float,
        Type.TIMESTAMP: _time_of_json,
        Type.TIMESTAMPTZ: _time_of_json,
        Type.JSON: _text_of_raw,
    },
    "text": {
        Type.INTEGER: int,
        Type.NUMBER: _number,
        Type.FLOAT: float,
        Type.BOOLEAN: _boolean_of_text,
    },
}


def reading(type_: Type, carry: str) -> Convert | None:
    """From what a column of that type carries; None if that is the value."""
    return _READ[carry].get(type_)


# -- value → what a row carries ------------------------------------------------------------------


def _timestamptz_to_json(text: str) -> str:
    return text.replace(" ", "T", 1).replace("+00", "+00:00", 1)


def _document_to_json(text: str) -> Raw:
    """On one line: line ends can only stand between tokens."""
    return Raw(text.replace("\n", " ").replace("\r", " "))


def _timestamp_to_json(text: str) -> str:
    return text.replace(" ", "T", 1)


def _float_to_json(number: float) -> Raw:
    return Raw(float_text(number))


# Times and floats are text here already, or get Postgres's own digits.
_WRITE: Mapping[str, Mapping[Type, Convert]] = {
    "json": {
        Type.FLOAT: _float_to_json,
        Type.TIMESTAMP: _timestamp_to_json,
        Type.TIMESTAMPTZ: _timestamptz_to_json,
        Type.JSON: _document_to_json,
    },
    "text": {Type.FLOAT: float_text},
}
_AS_FORMS_DO = (Type.INTEGER, Type.NUMBER, Type.BOOLEAN)


def writing(type_: Type, carry: str) -> Convert | None:
    """To what a column of that type carries; None if that is the value."""
    if type_ in _AS_FORMS_DO:
        carried = form_of(KIND_OF_TYPE[type_], carry).carried
        return None if carried is values.same else carried
    return _WRITE[carry].get(type_)


# -- keys ----------------------------------------------------------------------------------------


def _float_key(number: float) -> Any:
    return number if number == number else values.NAN


def _number_key(number: Decimal) -> Any:
    return values.NAN if number.is_nan() else number


_KEYS: Mapping[Type, Convert] = {
    Type.CHAR: values.padded_text_key,
    Type.NUMBER: _number_key,
    Type.FLOAT: _float_key,
    **dict.fromkeys((Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ), values.time_key),
}


def ordering(type_: Type) -> Convert | None:
    """A value of that type → a key that orders as Postgres orders the type; None if that is the value."""
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


_KEYS_OF_CARRIED: Mapping[tuple[Type, str], Convert] = {
    (Type.FLOAT, "json"): _float_key_of_carried,
    (Type.FLOAT, "text"): _float_key_of_carried,
    (Type.NUMBER, "json"): _number_key_of_raw,
    (Type.NUMBER, "text"): _number_key_of_text,
}


def key_of_carried(type_: Type, carry: str) -> Convert | None:
    """What a column of that type carries → the same key, in one call; None if that is the value."""
    read, key = reading(type_, carry), ordering(type_)
    if read is None or key is None:
        return read or key
    if (both := _KEYS_OF_CARRIED.get((type_, carry))) is not None:
        return both
    comparison = form_of(KIND_OF_TYPE[type_], carry).comparison
    assert comparison is not None, "times can be compared"
    return comparison.key


# -- what somebody else's step left in a row -----------------------------------------------------


def type_at_run_time(value: Any) -> Type:
    """What a value of Python's own is. Raises RowFault."""
    match value:
        case None:
            return Type.NULL
        case bool():
            return Type.BOOLEAN
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


def _document_at_run_time(value: Any) -> str:
    return _text_of_raw(value) if isinstance(value, Raw) else dumps(value)


READ_AT_RUN_TIME: Mapping[Type, Convert] = {
    Type.NUMBER: _number_at_run_time,
    Type.FLOAT: float,
    Type.DATE: date.isoformat,
    Type.TIMESTAMP: times.text_of_datetime,
    Type.TIMESTAMPTZ: times.text_of_datetime,
    Type.UUID: str,
    Type.JSON: _document_at_run_time,
}
"""A value of Python's own → a value here; any type that isn't named has the same."""

NATURAL: Mapping[Type, Convert] = {
    **dict.fromkeys((Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ), times.natural),
    Type.JSON: form_of(Kind.JSON, "text").natural or values.same,
}
"""A value here → one of Python's own; any type that isn't named has the same."""
