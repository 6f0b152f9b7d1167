"""
Makes keys of rows and of looked-up records comparable: two keys are equal if Postgres's `=` says so.

A row's key is a carried value. A record's key comes from a column of a query, or from JSON. A single-precision float
has the value of the digits that Postgres prints.
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
from pipeline_processing.steps.json_fields import EXPONENTS

_TIMES = ("date", "timestamp", "timestamptz")
_LABELS = ("text", "enum")
_MAX_BITS = 4096


@dataclass(frozen=True, slots=True)
class Matching:
    """How to read keys. Each function takes a value (never None), and raises ValueError if it can't be a key."""

    of_row: Callable[[Any], Hashable]
    """A row's carried value → its key."""
    of_record: Callable[[Any], Hashable]
    """A record's value → its key."""
    asked: Callable[[Any, Any], Any]
    """A row's carried value and its key → the value to look for."""


def of_columns(on: Column, key: Column, *, step: str) -> Matching:
    """
    Match a column of the rows with one of a query, both carried in the same form. The query gets natural values.

    Values of a column of unknown type are read as SQL literals. Raises InvalidStep if the columns can't be compared.
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
    Match a column of the rows with a JSON field, which is read as the column's type: `5` and `"5"` are the same number,
    and the same text. The API gets text. Raises InvalidStep if the column's values can't be compared.
    """
    if not on.typed:
        return Matching(_plain_text, _plain_text, lambda _, key: key)
    ours = _comparison(on, step=step, of="the rows")
    if ours.family in _LABELS:
        return Matching(ours.key, lambda value: ours.literal(_label(value)), lambda _, key: key)
    if ours.family in _TIMES and on.kind is not None:
        # Both forms give the same text.
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
    """Compare as floats, as Postgres does if one side is a float. Numbers beyond a float's range stay exact."""

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
    """Return a value of user code or of JSON as a SQL literal. Raises ValueError."""
    match value:
        case int() if value.bit_length() > _MAX_BITS:
            raise ValueError("a number with that many digits can't be a key")
        case Decimal() if value.is_finite() and value.adjusted() not in EXPONENTS:
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
    """Return the text of a JSON value, because identifiers that are numbers in JSON are often text elsewhere."""
    if isinstance(value, str):
        return value
    return _key_text(_literal(value))


def _key_text(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return format(key, "f") if isinstance(key, Decimal) else str(key)


def _plain_text(value: Any) -> str:
    """Return the key of a value of unknown type: `5`, `5.0` and `"5"` are equal."""
    literal = _literal(value)
    text = _key_text(literal)
    if isinstance(literal, Decimal) and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text
