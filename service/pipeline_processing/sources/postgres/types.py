"""
How each Postgres type is carried, so that the output equals what Postgres would print.

A value is carried in the form that the format needs: "json" (as in `row_to_json`) or "text" (as in `COPY`). For the
types in the table below, a codec of the connection converts the text that Postgres sends. Postgres renders all other
types (arrays, composites, ranges, intervals, types of extensions, …) with an expression around the column. So a type's
cast to json is used, and this module needs to know nothing about it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from operator import methodcaller
from typing import Any

import asyncpg
from msgspec import Raw

from pipeline_processing.kinds import form_of
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Comparison, Kind

Decode = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Carried:
    """One type in one form: `decode` turns Postgres's text into the carried value; None leaves it to asyncpg."""

    kind: Kind | None
    decode: Decode | None = None
    comparison: Comparison | None = None
    """If it differs from the kind's."""


_KINDS: Mapping[str, Kind] = {
    "bool": Kind.BOOLEAN,
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "numeric": Kind.NUMBER,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "name": Kind.TEXT,
    "uuid": Kind.UUID,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
}

# Numbers are carried unchanged, even NaN and the infinities, which JSON lacks; the format quotes them, like Postgres.
# Searching a whole batch is cheaper than checking each value, and calling Raw runs no Python code.
_json_number = Raw


# `2026-01-18 10:00:00 BC` → `2026-01-18T10:00:00 BC`; unlike a Python function, it runs in C.
_json_timestamp = methodcaller("replace", " ", "T", 1)


def _json_timestamptz(text: str) -> str:
    """`2026-01-18 10:00:00+00` → `2026-01-18T10:00:00+00:00`; the session's time zone is UTC."""
    if text[-1] == "0":  # neither BC nor infinity
        return text.replace(" ", "T", 1) + ":00"
    return text.replace(" ", "T", 1).replace("+00", "+00:00", 1)


def _json_document(text: str) -> Raw:
    """Put a document on one line. Type json keeps white space, but line ends can only occur between tokens."""
    return Raw(text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text)


_JSON_DECODE: Mapping[str, Decode] = {
    "float4": _json_number,
    "float8": _json_number,
    "numeric": _json_number,
    "uuid": str,
    "date": str,
    "timestamp": _json_timestamp,
    "timestamptz": _json_timestamptz,
    "json": _json_document,
    "jsonb": Raw,
}
_LEFT_TO_ASYNCPG = ("text", "varchar", "bpchar", "name")
_TEXT_DECODE: Mapping[str, Decode] = {name: str for name in _KINDS if name not in _LEFT_TO_ASYNCPG}
_DECODE = {"json": _JSON_DECODE, "text": _TEXT_DECODE}

_FORMS = {
    carry: {
        name: Carried(kind, decode.get(name), values.PADDED_TEXT if name == "bpchar" else None)
        for name, kind in _KINDS.items()
    }
    for carry, decode in _DECODE.items()
}

_LABEL = Carried(None, comparison=values.ENUM)
"""An enum: asyncpg returns its label, which both forms write unchanged."""


def _encode_argument(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


async def set_codecs(connection: asyncpg.Connection, carry: str) -> None:
    """Set a connection's codecs to return values in the form `carry`, for statements prepared from now on."""
    for name, carried in _FORMS[carry].items():
        if carried.decode is not None:
            await connection.set_type_codec(
                name, schema="pg_catalog", format="text", encoder=_encode_argument, decoder=carried.decode
            )
        else:
            await connection.reset_type_codec(name, schema="pg_catalog")


def carried_as(pg_type: asyncpg.Type, carry: str, *, is_enum: bool) -> Carried | None:
    """Return how a codec carries values of a type; None if Postgres must render them."""
    if pg_type.schema == "pg_catalog":
        return _FORMS[carry].get(pg_type.name)
    return _LABEL if is_enum else None


def rendered(quoted_column: str, carry: str) -> str:
    """Return the SQL expression that renders a column of any type in the form `carry`."""
    if carry == "json":
        return f"to_json({quoted_column})"
    # A cast to text may differ from what COPY prints (inet gains a netmask, types may define their own cast); format()
    # calls the type's output function. IS DISTINCT FROM distinguishes a composite of nulls from null.
    return f"CASE WHEN {quoted_column} IS DISTINCT FROM NULL THEN format('%s', {quoted_column}) END"


def column_of(name: str, carried: Carried | None, carry: str, *, type_name: str, modifier: int = -1) -> Column:
    """
    Return the column that steps see. `carried` is None if Postgres renders it. `type_name` is Postgres's own, and
    `modifier` the type's.
    """
    source = frozenset({name})
    if carried is None:
        # It arrives as a json document, or as text.
        natural = form_of(Kind.JSON, carry).natural if carry == "json" else None
        return Column(name, natural=natural, declared=type_name, origins=source, unchanged=True)
    if carried.kind is None:
        return Column(name, comparison=carried.comparison, declared=type_name, origins=source, unchanged=True)
    form = form_of(carried.kind, carry)
    return Column(
        name,
        natural=form.natural,
        comparison=carried.comparison or form.comparison,
        kind=form.kind,
        digits=_digits_of(modifier) if form.kind is Kind.NUMBER else None,
        origins=source,
        unchanged=True,
    )


_VARHDRSZ = 4


def _digits_of(modifier: int) -> tuple[int, int] | None:
    """Return precision and scale of a numeric as `numeric_typmod_precision` and `…_scale` of Postgres do."""
    if modifier < _VARHDRSZ:
        return None
    packed = modifier - _VARHDRSZ
    return packed >> 16 & 0xFFFF, (packed & 0x7FF ^ 0x400) - 0x400
