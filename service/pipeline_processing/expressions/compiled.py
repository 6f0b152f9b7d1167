"""What each part of an expression is compiled to, and how functions are put around such parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from pipeline_processing.expressions.refusals import Refused, RowFault
from pipeline_processing.expressions.types import Type
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column
from pipeline_processing.rows.values import same

Value = Callable[[Row], Any]
"""A row → a value as expressions have it (see `values.py`), None for null. Raises RowFault."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A part of an expression. One of type ANY is only looked at, never run."""

    type: Type
    value: Value
    at: int
    fixed: bool = False
    """Whether it has the same value for every row."""
    key: Value | None = None
    """Of a column: a row → the key by which it compares, where that is quicker than by way of its value."""
    column: Column | None = None
    """The column, if it is nothing else."""

    @property
    def constant(self) -> Any:
        """The value of a fixed part."""
        return self.value({})

    @property
    def is_null(self) -> bool:
        """Whether it is NULL and nothing else."""
        return self.fixed and self.constant is None


def constant(type_: Type, value: Any, at: int) -> Compiled:
    return Compiled(type_, lambda row: value, at, fixed=True)


def unknown(type_: Type, at: int) -> Compiled:
    """A part that reads a column whose type only the rows tell. It is compiled again for the types that come."""
    return Compiled(type_, _never, at)


def _never(row: Row) -> Any:
    raise AssertionError("compiled without the types of its columns")


def composed(type_: Type, value: Value, parts: Sequence[Compiled], at: int) -> Compiled:
    """A part made of others. If those are fixed it is computed here; Refused if it can't be."""
    if not all(part.fixed for part in parts):
        return Compiled(type_, value, at)
    try:
        return constant(type_, value({}), at)
    except RowFault as fault:
        raise Refused(f"has a part that can't be computed: {fault.reason}", at) from None


def shared(operand: Compiled, others: Sequence[Compiled]) -> tuple[Value, Compiled, list[Compiled]]:
    """
    An operand that several parts read, so that it runs once a row: else the time doubles with each level of nesting.

    The parts made of the operand and the others that are returned are run on what the first gives for a row.
    """
    if operand.fixed or operand.column is not None:
        return same, operand, list(others)
    value = operand.value
    read = replace(operand, value=itemgetter(0), key=None)
    return lambda row: (value(row), row), read, [_beside(other) for other in others]


def _beside(part: Compiled) -> Compiled:
    if part.fixed:
        return part
    return replace(part, value=_of_row(part.value), key=None if part.key is None else _of_row(part.key))


def _of_row(value: Value) -> Value:
    def of_row(both: Any) -> Any:
        return value(both[1])

    return of_row


def run_on(given: Value, part: Compiled) -> Compiled:
    """A part made of what `shared` returned, as one that is run on rows."""
    if part.fixed or given is same:
        return part
    value = part.value
    return replace(part, value=lambda row: value(given(row)))


def strict(type_: Type, function: Callable[..., Any], *operands: Compiled, at: int) -> Compiled:
    """A function of operands; null if any of them is null."""
    if any(operand.type is Type.ANY for operand in operands):
        return unknown(type_, at)
    if any(operand.is_null for operand in operands):
        return constant(type_, None, at)
    match operands:
        case [one]:
            return composed(type_, _of_one(function, one.value), operands, at)
        case [one, other] if other.fixed:
            return composed(type_, _of_one_and(function, one.value, other.constant), operands, at)
        case [one, other]:
            return composed(type_, _of_two(function, one.value, other.value), operands, at)
        case _:
            return composed(type_, _of_many(function, [operand.value for operand in operands]), operands, at)


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
