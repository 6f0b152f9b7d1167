"""
Makes keys of rows and of looked-up records comparable: two are equal if Postgres's `=` says so.

A row's key is a carried value. A record's key comes from a column of a query, or from JSON. A float of single precision
counts as the digits that Postgres prints.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec import Raw

from pipeline_processing.errors import InvalidStep
from pipeline_processing.kinds import form_of, text_of
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Comparison, Kind
from pipeline_processing.rows.values import same

_TIMES = ("date", "timestamp", "timestamptz")
_LABELS = ("text", "enum")
_MAX_BITS = 4096
_EXPONENTS = range(-16_383, 131_073)
"""As far as Postgres's numeric reaches."""


@dataclass(frozen=True, slots=True)
class Matching:
    """How keys are read. The functions take a value (never None) and raise ValueError if it can't be a key."""

    of_row: Callable[[Any], Hashable]
    """A row's carried value → its key."""
    of_record: Callable[[Any], Hashable]
    """A record's value → its key."""
    asked: Callable[[Any, Any], Any]
    """A row's carried value and its key → what to look for."""


def of_columns(on: Column, key: Column, *, step: str) -> Matching:
    """
    A column of the rows and one of a query, both carried in the same form; what to look for is a natural value.

    Values of a column of unknown type are read as literals of SQL. Raises InvalidStep if the two can't be compared.
    """
    theirs = _comparison(key, step=step, of="its query")
    if not on.typed:
        return Matching(lambda value: theirs.literal(_literal(value)), theirs.key, _asked_by_literal)
    ours = _comparison(on, step=step, of="the rows")
    if ours.family != theirs.family and not {ours.family, theirs.family} <= set(_LABELS):
        raise InvalidStep(
            f"Step {step!r} looks for {on.name!r}, a {ours.family}, in {key.name!r}, a {theirs.family}. Make them one "
            f"type, for example with casts in its query: SELECT {key.name}::text AS {key.name} … WHERE "
            f"{key.name}::text = ANY($1)."
        )
    natural = on.natural or same
    asked = (lambda carried, _: natural(carried)) if ours.family in _TIMES else _asked_by_key
    if Kind.FLOAT in (on.kind, key.kind):
        return Matching(_as_floats(ours.key), _as_floats(theirs.key), asked)
    return Matching(ours.key, theirs.key, asked)


def of_json(on: Column, *, step: str) -> Matching:
    """
    A column of the rows and a field of JSON, which is read as the column's type: `5` and `"5"` are one number, and
    one text. What to look for is text. Raises InvalidStep where the column's values don't compare.
    """
    if not on.typed:
        return Matching(_plain_text, _plain_text, lambda _, key: key)
    ours = _comparison(on, step=step, of="the rows")
    if ours.family in _LABELS:
        return Matching(ours.key, lambda value: ours.literal(_label(value)), lambda _, key: key)
    if ours.family in _TIMES and on.kind is not None:
        # The same text from both forms.
        natural, carried_json = on.natural or same, form_of(on.kind, "json").carried
        return Matching(ours.key, ours.literal, lambda carried, _: carried_json(natural(carried)))
    return Matching(ours.key, lambda value: ours.literal(_literal(value)), lambda _, key: _key_text(key))


def _comparison(column: Column, *, step: str, of: str) -> Comparison:
    if column.comparison is None:
        raise InvalidStep(
            f"Step {step!r} can't compare values of {column.name!r}, a column of {of}. Cast it in the "
            "query, for example to text."
        )
    return column.comparison


def _as_floats(key: Callable[[Any], Any]) -> Callable[[Any], Hashable]:
    """Where one side is a float, Postgres compares floats. A number that no float is near stays what it is."""

    def as_float(carried: Any) -> Hashable:
        exact = key(carried)
        if exact is values.NAN or not Decimal(exact).is_finite():
            return exact  # type: ignore[no-any-return]  # a number, or NAN
        nearest = values.float_key(Decimal(exact))
        return nearest if nearest.is_finite() and bool(nearest) is bool(exact) else exact  # type: ignore[no-any-return]

    return as_float


def _asked_by_key(carried: Any, key: Any) -> Any:
    return Decimal("NaN") if key is values.NAN else key


def _asked_by_literal(value: Any, key: Any) -> Any:
    return _literal(value) if isinstance(key, tuple) else _asked_by_key(value, key)  # times have tuples as keys


def _literal(value: Any) -> str | int | Decimal | bool:
    """A value of user code or of JSON as a literal of SQL."""
    match value:
        case int() if value.bit_length() > _MAX_BITS:
            raise ValueError("a number of so many digits can't be a key")
        case Decimal() if value.is_finite() and value.adjusted() not in _EXPONENTS:
            raise ValueError("a number with such an exponent can't be a key")
        case str() | int() | Decimal():
            return value
        case float():
            return Decimal(repr(float(value)))
        case date():  # and datetime
            return value.isoformat()
        case UUID() | Raw():
            return str(value) if isinstance(value, UUID) else text_of(value)
    raise ValueError(f"a {type(value).__name__} can't be a key")


def _label(value: Any) -> str:
    """Text of a JSON value: identifiers that are numbers there are often text elsewhere."""
    if isinstance(value, str):
        return value
    return _key_text(_literal(value))


def _key_text(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return format(key, "f") if isinstance(key, Decimal) else str(key)


def _plain_text(value: Any) -> str:
    """Where no type is known: `5`, `5.0` and `"5"` are one key."""
    literal = _literal(value)
    text = _key_text(literal)
    if isinstance(literal, Decimal) and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text
