"""Converts JSON values to a declared kind without losing precision: a value that doesn't fit raises WrongType."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Raw

from pipeline_processing.kinds import form_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import loads

T = TypeVar("T")

Converter = Callable[[Any], Any]
"""A JSON value, as a fragment (`msgspec.Raw`) or a Python value (never None) → the carried value; None for null."""

EXPONENTS = range(-16_383, 131_072)
"""The range of Postgres's numeric. Without a limit, `1e999999999` would be written in full."""

_QUOTE = ord('"')
_string = msgspec.json.Decoder(str).decode


class WrongType(ValueError):
    """A value isn't of the declared kind. The message never contains the value."""


def converter(kind: Kind, carry: str) -> Converter:
    """Return a converter to carried values of that kind, in the form `carry`. It raises WrongType."""
    carried = form_of(kind, carry).carried
    if kind is Kind.JSON:
        return _document(carried, carry)
    natural = _NATURAL[kind]

    def convert(value: Any) -> Any:
        if isinstance(value, Raw):
            value = _parsed(value)
        return None if value is None else carried(natural(value))

    return convert


def _document(carried: Callable[[Any], Any], carry: str) -> Converter:
    """Return a converter that keeps fragments exactly as written."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Raw):
            return carried(value)
        fragment = bytes(value)
        if fragment == b"null":
            return None
        return value if carry == "json" else fragment.decode()

    return convert


def _parsed(fragment: Raw) -> Any:
    text = bytes(fragment)
    try:
        if text.isdigit() and len(text) < 19:  # common cases, four times faster
            return int(text)
        if text[0] == _QUOTE:
            return _string(text)
    except msgspec.DecodeError:  # a lone surrogate
        pass
    try:
        return loads(text)
    except RecursionError:
        raise WrongType("too deeply nested") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongType("not text")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongType("not a boolean")
    return value


def _number(value: Any, *, what: str = "a number") -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise WrongType(f"not {what}")
    number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or (number and number.adjusted() not in EXPONENTS):
        raise WrongType("a number out of range")
    if not number and number.as_tuple().exponent not in EXPONENTS:
        return Decimal(0)  # 0e-999999999
    return number


def _integer(value: Any) -> int:
    """Accepts `5`, `5.0` and `5e0`."""
    number = value if type(value) is int else _number(value, what="an integer")
    if not -(2**63) <= number < 2**63:
        raise WrongType("an integer of more than 64 bits: declare it as a number")
    if (integer := int(number)) != number:
        raise WrongType("not an integer")
    return integer


def _float(value: Any) -> float:
    number = float(_number(value))
    if number - number != 0:
        raise WrongType("a number out of a float's range")
    return number


def _date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return _iso(value, date.fromisoformat, "a date")


def _timestamp(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else _iso(value, datetime.fromisoformat, "a timestamp")
    if moment.tzinfo is not None:
        raise WrongType("a timestamp with a time zone: declare it as timestamptz")
    return moment


def _timestamptz(value: Any) -> datetime:
    """Times without a zone are in UTC, as everywhere in the service."""
    moment = value if isinstance(value, datetime) else _iso(value, datetime.fromisoformat, "a timestamp")
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise WrongType("a timestamp that in UTC is outside the years 1 to 9999") from None


def _iso(value: Any, parse: Callable[[str], T], what: str) -> T:
    try:
        return parse(value)
    except (TypeError, ValueError):
        raise WrongType(f"not {what} in ISO's form") from None


def _uuid(value: Any) -> str:
    try:
        return str(value if isinstance(value, UUID) else UUID(value))
    except (TypeError, ValueError, AttributeError):
        raise WrongType("not a uuid") from None


_NATURAL: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.FLOAT: _float,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.TIMESTAMPTZ: _timestamptz,
    Kind.UUID: _uuid,
}
"""A JSON value in Python (never None) → the natural value of the kind. Each raises WrongType."""
