"""
How each Postgres type is carried, so that what is written equals what Postgres itself would print.

A value is carried in the form that the artifact's format needs: "json" (as in `row_to_json`) or "text" (as in
`COPY`). Types in the table below get there by a codec of the connection, from the text that Postgres sends. Every
other type (arrays, composites, ranges, intervals, types of extensions, …) is rendered by Postgres, by an expression
around the column; so a type's own cast to json is honoured, and nothing has to be known about it here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from operator import methodcaller
from typing import Any

import asyncpg
from msgspec import Raw

from pipeline_processing import values
from pipeline_processing.formats.json_values import loads
from pipeline_processing.formats.untouched import remembering
from pipeline_processing.ports import Column, Comparison

Decode = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Carried:
    """One type in one form: `decode` turns Postgres's text into the carried value; None leaves it to asyncpg."""

    decode: Decode | None = None
    natural: Callable[[Any], Any] | None = None
    comparison: Comparison | None = None


# -- the form "json" -----------------------------------------------------------------------------


# A number is carried as it is, also NaN and the infinities, which JSON doesn't have: the format puts those in quotes,
# as Postgres does. One look at a whole batch costs less than one at each value, and Raw is called without Python.
_json_number = Raw


# `2026-01-18 10:00:00 BC` → `2026-01-18T10:00:00 BC`; called without Python, unlike a function of ours.
_json_timestamp = methodcaller("replace", " ", "T", 1)


def _json_timestamptz(text: str) -> str:
    """`2026-01-18 10:00:00+00` → `2026-01-18T10:00:00+00:00`; the session's time zone is UTC."""
    if text[-1] == "0":  # neither BC nor infinity
        return text.replace(" ", "T", 1) + ":00"
    return text.replace(" ", "T", 1).replace("+00", "+00:00", 1)


def _json_document(text: str) -> Raw:
    """A document of type json keeps its white space, of which line ends can only stand between tokens."""
    return Raw(text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text)


def _text_of(carried: Raw) -> str:
    return bytes(carried).decode()


def _natural_decimal(carried: Raw) -> Decimal:
    return Decimal(_text_of(carried))


def _natural_float(carried: Raw) -> float:
    natural: float = remembering(float(_text_of(carried)), carried)  # Postgres's digits aren't always Python's: 1e23
    return natural


def _number_key(carried: Raw) -> Any:
    return values.number_key(_text_of(carried))


def _float_key(carried: Raw) -> Any:
    return values.float_key(_text_of(carried))


def _natural_timestamp(carried: str) -> datetime | str:
    """A datetime; the carried text where Python's years don't reach."""
    try:
        return datetime.fromisoformat(carried)
    except ValueError:
        return carried


def _natural_date(carried: str) -> date | str:
    """A date; the carried text where Python's years don't reach."""
    try:
        return date.fromisoformat(carried)
    except ValueError:
        return carried


def _natural_document(carried: Raw) -> Any:
    return remembering(loads(bytes(carried)), carried)


_JSON_NUMERIC = Comparison("number", _number_key, values.number_literal)
_JSON_FLOAT = Comparison("number", _float_key, values.float_literal)
_DATE = Comparison("date", values.time_key, values.date_literal)
_TIMESTAMP = Comparison("timestamp", values.time_key, values.timestamp_literal)
_TIMESTAMPTZ = Comparison("timestamptz", values.time_key, values.timestamptz_literal)


def _json_time(comparison: Comparison) -> Comparison:
    """Keys are made of Postgres's text, so undo what JSON changes."""

    def key(carried: str) -> Any:
        return values.time_key(carried.replace("T", " ", 1).replace("+00:00", "+00", 1))

    return Comparison(comparison.family, key, comparison.literal)


_PLAIN_TEXT = Carried(comparison=values.PLAIN_TEXT)
_PADDED_TEXT = Carried(comparison=values.PADDED_TEXT)
_INTEGER = Carried(comparison=values.PLAIN_NUMBER)
_JSON_NUMBER = Carried(_json_number, _natural_float, _JSON_FLOAT)

_JSON: dict[str, Carried] = {
    "bool": Carried(comparison=values.PLAIN_BOOLEAN),
    "int2": _INTEGER,
    "int4": _INTEGER,
    "int8": _INTEGER,
    "float4": _JSON_NUMBER,
    "float8": _JSON_NUMBER,
    "numeric": Carried(_json_number, _natural_decimal, _JSON_NUMERIC),
    "text": _PLAIN_TEXT,
    "varchar": _PLAIN_TEXT,
    "bpchar": _PADDED_TEXT,
    "name": _PLAIN_TEXT,
    "uuid": Carried(str, None, values.UUIDS),
    "date": Carried(str, _natural_date, _DATE),
    "timestamp": Carried(_json_timestamp, _natural_timestamp, _json_time(_TIMESTAMP)),
    "timestamptz": Carried(_json_timestamptz, _natural_timestamp, _json_time(_TIMESTAMPTZ)),
    "json": Carried(_json_document, _natural_document),
    "jsonb": Carried(Raw, _natural_document),
}

# -- the form "text" -----------------------------------------------------------------------------


def _text_boolean(text: str) -> bool:
    return text == "t"


def _text_natural_float(text: str) -> float:
    natural: float = remembering(float(text), text)
    return natural


def _text_natural_document(text: str) -> Any:
    """Objects and arrays; a plain value stays text, which tells `null` from null and `"1"` from `1`."""
    document = loads(text) if text.lstrip()[:1] in ("{", "[") else text
    return remembering(document, text)


_TEXT_INTEGER = Carried(str, int, Comparison("number", int, values.number_literal))
_TEXT_FLOAT = Carried(str, _text_natural_float, Comparison("number", values.float_key, values.float_literal))

_TEXT: dict[str, Carried] = {
    "bool": Carried(str, _text_boolean, Comparison("boolean", _text_boolean, values.boolean_literal)),
    "int2": _TEXT_INTEGER,
    "int4": _TEXT_INTEGER,
    "int8": _TEXT_INTEGER,
    "float4": _TEXT_FLOAT,
    "float8": _TEXT_FLOAT,
    "numeric": Carried(str, Decimal, values.PLAIN_NUMBER),
    "text": _PLAIN_TEXT,
    "varchar": _PLAIN_TEXT,
    "bpchar": _PADDED_TEXT,
    "name": _PLAIN_TEXT,
    "uuid": Carried(str, None, values.UUIDS),
    "date": Carried(str, _natural_date, _DATE),
    "timestamp": Carried(str, _natural_timestamp, _TIMESTAMP),
    "timestamptz": Carried(str, _natural_timestamp, _TIMESTAMPTZ),
    "json": Carried(str, _text_natural_document),
    "jsonb": Carried(str, _text_natural_document),
}

_FORMS = {"json": _JSON, "text": _TEXT}

_LABEL = Carried(comparison=values.ENUM)
"""An enum: asyncpg gives its label. Both forms print it as it is."""
_RENDERED = {"json": Carried(natural=_natural_document), "text": Carried()}
"""What Postgres renders arrives as a json document or as text."""


def _encode_argument(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


async def set_codecs(connection: asyncpg.Connection, carry: str) -> None:
    """Make a connection deliver values in a form. It holds for statements prepared from now on."""
    for name, carried in _FORMS[carry].items():
        if carried.decode is not None:
            await connection.set_type_codec(
                name, schema="pg_catalog", format="text", encoder=_encode_argument, decoder=carried.decode
            )
        else:
            await connection.reset_type_codec(name, schema="pg_catalog")


def carried_as(pg_type: asyncpg.Type, carry: str, *, is_enum: bool) -> Carried | None:
    """How values of a type are carried by codec; None if Postgres has to render them."""
    if pg_type.schema == "pg_catalog":
        return _FORMS[carry].get(pg_type.name)
    return _LABEL if is_enum else None


def rendered(quoted_column: str, carry: str) -> str:
    """The expression by which Postgres renders a column of any type in a form."""
    if carry == "json":
        return f"to_json({quoted_column})"
    # A cast to text isn't always what COPY prints (inet gains a netmask, types may define their own); format()
    # calls the type's output function. IS DISTINCT FROM also tells a composite of nulls from null.
    return f"CASE WHEN {quoted_column} IS DISTINCT FROM NULL THEN format('%s', {quoted_column}) END"


def column_of(name: str, carried: Carried | None, carry: str) -> Column:
    """The column as the steps see it; `carried` is None where Postgres renders it."""
    how = carried or _RENDERED[carry]
    return Column(name, natural=how.natural, comparison=how.comparison)
