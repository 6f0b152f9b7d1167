"""The parts of an expression as closures over a row, and the ways to combine them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from pipeline_processing.expressions.types import Refused, RowFault, Type
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column

Value = Callable[[Any], Any]
"""A row → a value (see `values.py`), None for null. Raises RowFault."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A part of an expression. One of type ANY is never run (see `expression.py`)."""

    type: Type
    value: Value
    at: int = 0
    fixed: bool = False
    """Whether it has the same value for every row."""
    key: Value | None = None
    """For a column: a row → the key by which it compares, if that is faster than to compute it from the value."""
    column: Column | None = None
    """The column, if the part is just a column."""

    @property
    def constant(self) -> Any:
        """The value of a fixed part."""
        return self.value({})

    @property
    def is_null(self) -> bool:
        """Whether it is a constant null."""
        return self.fixed and self.constant is None


Build = Callable[..., Compiled]
"""Operands → the compiled form. Raises Refused."""


def constant(type_: Type, value: Any, at: int = 0) -> Compiled:
    return Compiled(type_, lambda row: value, at, fixed=True)


def composed(type_: Type, value: Value, parts: Sequence[Compiled]) -> Compiled:
    """Combine parts. If all are fixed, compute the result now; raises Refused if that fails."""
    if not all(part.fixed for part in parts):
        return Compiled(type_, value)
    try:
        return constant(type_, value({}))
    except RowFault as fault:
        raise Refused(f"has a part that can't be computed: {fault.reason}") from None


def strict(type_: Type, function: Callable[..., Any], *operands: Compiled) -> Compiled:
    """Apply a function to operands; null if any of them is null."""
    if any(operand.is_null for operand in operands):
        return constant(type_, None)
    match operands:
        case [one]:
            value = _of_one(function, one.value)
        case [one, other] if other.fixed:
            value = _of_one_and(function, one.value, other.constant)
        case [one, other]:
            value = _of_two(function, one.value, other.value)
        case _:
            value = _of_many(function, [operand.value for operand in operands])
    return composed(type_, value, operands)


def _of_one(function: Callable[[Any], Any], one: Value) -> Value:
    def value(row: Row) -> Any:
        x = one(row)
        return None if x is None else function(x)

    return value


def _of_one_and(function: Callable[[Any, Any], Any], one: Value, y: Any) -> Value:
    def value(row: Row) -> Any:
        x = one(row)
        return None if x is None else function(x, y)

    return value


def _of_two(function: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    def value(row: Row) -> Any:
        x = one(row)
        y = other(row)
        return None if x is None or y is None else function(x, y)

    return value


def _of_many(function: Callable[..., Any], operands: Sequence[Value]) -> Value:
    def value(row: Row) -> Any:
        given = [operand(row) for operand in operands]
        return None if None in given else function(*given)

    return value


# -- operands that are used several times --------------------------------------------------------


def sharing(operand: Compiled, others: Sequence[Compiled], build: Build) -> Compiled:
    """
    Build a part that uses its operand several times but computes it once per row.

    Otherwise the time would double with each level of nesting. The part that `build` returns runs on pairs of the
    operand's value and the row.
    """
    if operand.fixed or operand.column is not None:
        return build(operand, *others)
    given = operand.value
    part = build(replace(operand, value=itemgetter(0), key=None), *map(_on_pairs, others))
    value = part.value
    return part if part.fixed else replace(part, value=lambda row: value((given(row), row)))


def _on_pairs(part: Compiled) -> Compiled:
    if part.fixed:
        return part
    key = part.key
    return replace(part, value=_of_row(part.value), key=None if key is None else _of_row(key))


def _of_row(value: Value) -> Value:
    def of_row(both: Any) -> Any:
        return value(both[1])

    return of_row
