"""Casts: from which type to which there are any, and what they do."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from pipeline_processing.expressions import decimals, documents, floats, integers, times
from pipeline_processing.expressions.compiled import Compiled, constant, strict, unknown
from pipeline_processing.expressions.floats import SPACE, float_text
from pipeline_processing.expressions.refusals import Refused, RowFault
from pipeline_processing.expressions.types import NUMERIC, TEMPORAL, UNTYPED, Target, Type
from pipeline_processing.expressions.uuids import uuid_of
from pipeline_processing.rows.values import ENUM, padded_text_key, same

Convert = Callable[[Any], Any]


def boolean_of(text: str) -> bool:
    """`true`, `yes`, `on`, `1`, the opposites, and what can only be the start of one. Raises RowFault."""
    word = text.strip(SPACE).lower()
    for whole, truth in (("true", True), ("false", False), ("yes", True), ("no", False), ("on", True), ("off", False)):
        if word and word != "o" and whole.startswith(word):
            return truth
    if word in ("1", "0"):
        return word == "1"
    raise RowFault("the text isn't a boolean")


def _boolean_text(truth: bool) -> str:
    return "true" if truth else "false"


def decimal_text(number: Decimal) -> str:
    """All digits, as Postgres prints them."""
    return format(number, "f")


CASTS: Mapping[tuple[Type, Type], Convert] = {
    (Type.CHAR, Type.TEXT): padded_text_key,
    (Type.TEXT, Type.INTEGER): integers.integer_of,
    (Type.TEXT, Type.NUMBER): decimals.decimal_of,
    (Type.TEXT, Type.FLOAT): floats.float_of,
    (Type.TEXT, Type.BOOLEAN): boolean_of,
    (Type.TEXT, Type.DATE): times.date_of,
    (Type.TEXT, Type.TIMESTAMP): times.timestamp_of,
    (Type.TEXT, Type.TIMESTAMPTZ): times.timestamptz_of,
    (Type.TEXT, Type.UUID): uuid_of,
    (Type.TEXT, Type.JSON): documents.document_of,
    (Type.INTEGER, Type.TEXT): str,
    (Type.INTEGER, Type.NUMBER): Decimal,
    (Type.INTEGER, Type.FLOAT): float,
    (Type.INTEGER, Type.BOOLEAN): bool,
    (Type.NUMBER, Type.TEXT): decimal_text,
    (Type.NUMBER, Type.INTEGER): integers.integer_of_decimal,
    (Type.NUMBER, Type.FLOAT): floats.float_of_decimal,
    (Type.FLOAT, Type.TEXT): float_text,
    (Type.FLOAT, Type.INTEGER): integers.integer_of_float,
    (Type.FLOAT, Type.NUMBER): lambda number: decimals.stored(floats.decimal_of_float(number)),
    (Type.BOOLEAN, Type.TEXT): _boolean_text,
    (Type.BOOLEAN, Type.INTEGER): int,
    (Type.DATE, Type.TEXT): same,
    (Type.DATE, Type.TIMESTAMP): times.timestamp_of_date,
    (Type.DATE, Type.TIMESTAMPTZ): times.timestamptz_of_date,
    (Type.TIMESTAMP, Type.TEXT): same,
    (Type.TIMESTAMP, Type.DATE): times.date_of_timestamp,
    (Type.TIMESTAMP, Type.TIMESTAMPTZ): times.timestamptz_of_timestamp,
    (Type.TIMESTAMPTZ, Type.TEXT): same,
    (Type.TIMESTAMPTZ, Type.DATE): times.date_of_timestamp,
    (Type.TIMESTAMPTZ, Type.TIMESTAMP): times.timestamp_of_timestamptz,
    (Type.UUID, Type.TEXT): same,
    (Type.JSON, Type.TEXT): same,
}


def cast(operand: Compiled, target: Target, at: int) -> Compiled:
    """CAST(operand AS target). Raises Refused."""
    if operand.type is Type.ANY:
        return unknown(target.type, at)
    if operand.type is Type.NULL or (operand.type is Type.LITERAL and operand.is_null):
        return coerced(operand, target.type)
    if operand.type is Type.LITERAL:
        operand = _read(operand, target)
    elif operand.type is not target.type:
        operand = strict(target.type, _convert(operand, target, at), operand, at=at)
    if target.precision is not None:
        operand = strict(target.type, partial(decimals.limited, target=target), operand, at=at)
    return operand


def _read(literal: Compiled, target: Target) -> Compiled:
    if target.type is Type.TEXT:
        return constant(Type.TEXT, literal.constant, literal.at)
    try:
        return constant(target.type, CASTS[Type.TEXT, target.type](literal.constant), literal.at)
    except RowFault as fault:
        raise Refused(f"has {literal.constant!r} where {target.type} belongs: {fault.reason}", literal.at) from None


def _convert(operand: Compiled, target: Target, at: int) -> Convert:
    source = operand.type
    if operand.column is not None and operand.column.comparison == ENUM and target.type is Type.TEXT:
        return same
    if source is Type.CHAR and target.type is not Type.TEXT:
        of_text = CASTS[Type.TEXT, target.type]
        return lambda text: of_text(padded_text_key(text))
    convert = CASTS.get((source, target.type))
    if convert is None:
        there = ", ".join(to for at_, to in CASTS if at_ is source) or "none: cast it in the query"
        raise Refused(f"casts {source} to {target.type}. From {source} there is {there}", at)
    return convert


# -- implicit ones -------------------------------------------------------------------------------


def coerced(operand: Compiled, to: Type) -> Compiled:
    """The operand as what its place needs: a literal is read, a number or time widened. Raises Refused."""
    source = operand.type
    if source is to or source is Type.ANY:
        return operand
    if source is Type.NULL or (source is Type.LITERAL and operand.is_null):
        return Compiled(to, operand.value, operand.at, fixed=operand.fixed)
    if source is Type.LITERAL:
        if to is Type.JSON:
            raise Refused("has text where json belongs: write CAST('…' AS json)", operand.at)
        if to is Type.CHAR:
            return constant(to, operand.constant, operand.at)
        return cast(operand, Target(to), operand.at)
    if (source, to) == (Type.CHAR, Type.TEXT) or any(
        source in widening and to in widening[widening.index(source) :] for widening in (NUMERIC, TEMPORAL)
    ):
        return strict(to, CASTS[source, to], operand, at=operand.at)
    raise Refused(f"has {source} where {to} belongs: write CAST(… AS {to})", operand.at)


def common_type(operands: list[Compiled], what: str, at: int) -> Type:
    """
    The type that all of them can have; text if all are literals, ANY if only the rows tell.

    Raises Refused where there is none.
    """
    types = {operand.type for operand in operands}
    known = types - {Type.LITERAL, Type.NULL, Type.ANY}
    for widening in (NUMERIC, TEMPORAL):
        if known and known <= set(widening):
            known = {max(known, key=widening.index)}
    if Type.OTHER in known:
        raise Refused(f"uses {what} on {Type.OTHER}: cast the column to text, or do this in the query", at)
    if len(known) > 1:
        raise Refused(f"mixes {' and '.join(sorted(known))} in {what}: cast one of them", at)
    if Type.ANY in types:
        return Type.ANY
    if not known and Type.NULL in types and all(operand.type is Type.NULL or operand.is_null for operand in operands):
        return Type.NULL
    return next(iter(known), Type.TEXT)


def as_text(operand: Compiled, what: str) -> Compiled:
    """An argument that has to be text already. Raises Refused."""
    if operand.type in (Type.TEXT, Type.CHAR, *UNTYPED):
        return coerced(operand, Type.TEXT)
    raise Refused(f"gives {what} {operand.type} where text belongs: write CAST(… AS text)", operand.at)


def as_condition(operand: Compiled, what: str) -> Compiled:
    """An operand that has to be true, false or null. Raises Refused."""
    if operand.type in (Type.BOOLEAN, *UNTYPED):
        return coerced(operand, Type.BOOLEAN)
    raise Refused(f"gives {what} {operand.type} where a condition belongs", operand.at)


def printed(operand: Compiled) -> Compiled:
    """An operand of any type as || takes it: cast to text. Raises Refused."""
    return coerced(operand, Type.TEXT) if operand.type is Type.LITERAL else cast(operand, Target(Type.TEXT), operand.at)
