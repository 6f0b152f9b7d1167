"""Explicit and implicit casts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from pipeline_processing.expressions import decimals, documents, floats, integers, text, times
from pipeline_processing.expressions.code import Code
from pipeline_processing.expressions.compiled import Compiled, constant, strict
from pipeline_processing.expressions.types import (
    NUMERIC,
    TEMPORAL,
    UNTYPED,
    Refused,
    RowFault,
    Target,
    Type,
    widens,
)
from pipeline_processing.rows.values import ENUM, padded_text_key, same

Convert = Callable[[Any], Any]

CASTS: Mapping[tuple[Type, Type], Convert] = {
    (Type.CHAR, Type.TEXT): padded_text_key,
    (Type.TEXT, Type.INTEGER): integers.integer_of,
    (Type.TEXT, Type.NUMBER): decimals.decimal_of,
    (Type.TEXT, Type.FLOAT): floats.float_of,
    (Type.TEXT, Type.BOOLEAN): text.boolean_of,
    (Type.TEXT, Type.DATE): times.date_of,
    (Type.TEXT, Type.TIMESTAMP): times.timestamp_of,
    (Type.TEXT, Type.TIMESTAMPTZ): times.timestamptz_of,
    (Type.TEXT, Type.UUID): text.uuid_of,
    (Type.TEXT, Type.JSON): documents.document_of,
    (Type.INTEGER, Type.TEXT): str,
    (Type.INTEGER, Type.NUMBER): Decimal,
    (Type.INTEGER, Type.FLOAT): float,
    (Type.INTEGER, Type.BOOLEAN): bool,
    (Type.NUMBER, Type.TEXT): decimals.decimal_text,
    (Type.NUMBER, Type.INTEGER): integers.integer_of_decimal,
    (Type.NUMBER, Type.FLOAT): floats.float_of_decimal,
    (Type.FLOAT, Type.TEXT): floats.float_text,
    (Type.FLOAT, Type.INTEGER): integers.integer_of_float,
    (Type.FLOAT, Type.NUMBER): decimals.decimal_of_float,
    (Type.BOOLEAN, Type.TEXT): text.boolean_text,
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


def cast(operand: Compiled, target: Target) -> Compiled:
    """Compile CAST(operand AS target). Raises Refused."""
    if operand.type in (Type.NULL, Type.ANY):
        return coerced(operand, target.type)
    if operand.type is Type.LITERAL:
        operand = _read(operand, target)
    elif operand.type is not target.type:
        operand = strict(target.type, _conversion(operand, target), operand)
    if target.precision is not None:
        operand = strict(target.type, partial(decimals.limited, target=target), operand)
    return operand


def _read(literal: Compiled, target: Target) -> Compiled:
    if target.type is Type.TEXT:
        return replace(literal, type=Type.TEXT)
    try:
        return constant(target.type, CASTS[Type.TEXT, target.type](literal.constant), literal.at)
    except RowFault as fault:
        raise Refused(f"has {literal.constant!r} where {target.type} is expected: {fault.reason}", literal.at) from None


def _conversion(operand: Compiled, target: Target) -> Convert:
    source = operand.type
    if operand.column is not None and operand.column.comparison == ENUM and target.type is Type.TEXT:
        return same
    if source is Type.CHAR and target.type is not Type.TEXT:
        of_text = CASTS[Type.TEXT, target.type]
        return lambda padded: of_text(padded_text_key(padded))
    convert = CASTS.get((source, target.type))
    if convert is None:
        supported = ", ".join(to for each, to in CASTS if each is source) or "none: cast it in the query"
        raise Refused(f"casts {source} to {target.type}. Supported casts from {source}: {supported}")
    return convert


def printed(operand: Compiled) -> Compiled:
    """Cast an operand of any type to text, as || does. Raises Refused."""
    return cast(operand, Target(Type.TEXT))


# -- implicit casts ------------------------------------------------------------------------------


def fits(operand: Compiled, to: Type) -> bool:
    """Return whether the operand can be used as this type: it has the type, has none yet, or widens to it."""
    if operand.type is Type.LITERAL:
        return to is not Type.JSON
    return operand.type in (to, Type.NULL, Type.ANY) or widens(operand.type, to)


def coerced(operand: Compiled, to: Type) -> Compiled:
    """Convert an operand that fits a type to it. Raises Refused for a literal that isn't one."""
    source = operand.type
    if to is Type.ANY:
        return Compiled(to, Code("{0}", (operand.part,)), operand.at, operand.key)  # so that nothing computes with it
    if source in (Type.NULL, Type.ANY) or (source is Type.LITERAL and to is Type.CHAR):
        return replace(operand, type=to, column=None)
    if source is to:
        return operand
    if source is Type.LITERAL:
        return _read(operand, Target(to))
    return replace(strict(to, CASTS[source, to], operand), at=operand.at)


def common_type(operands: Sequence[Compiled], what: str) -> Type:
    """
    Return the type that all operands convert to: TEXT if all are literals, ANY or NULL if it depends on the rows.

    Raises Refused if there is none.
    """
    types = {operand.type for operand in operands}
    known = types - set(UNTYPED)
    for widening in (NUMERIC, TEMPORAL):
        if known and known <= set(widening):
            known = {max(known, key=widening.index)}
    if Type.OTHER in known:
        raise Refused(f"uses {what} on {Type.OTHER}: cast the column to text, or do this in the query")
    if len(known) > 1:
        raise Refused(f"mixes {' and '.join(sorted(known))} in {what}: cast one of them")
    if Type.ANY in types:
        return Type.ANY
    if types == {Type.NULL} and not all(operand.fixed for operand in operands):
        return Type.NULL
    return next(iter(known), Type.TEXT)


def of_one_type(operands: Sequence[Compiled], what: str) -> list[Compiled]:
    """Convert the operands to their common type. Raises Refused."""
    type_ = common_type(operands, what)
    return [coerced(operand, type_) for operand in operands]


def required(operand: Compiled, to: Type, what: str) -> Compiled:
    """Convert an operand to a type. Raises Refused if it doesn't fit."""
    if not fits(operand, to):
        expected = "a condition is expected" if to is Type.BOOLEAN else f"{to} is expected: write CAST(… AS {to})"
        raise Refused(f"gives {what} {operand.type} where {expected}", operand.at)
    return coerced(operand, to)
