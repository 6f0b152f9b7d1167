"""AND, OR, NOT and IS: three-valued, null being what isn't known."""

import operator
from collections.abc import Sequence

from pipeline_processing.expressions.compiled import Compiled, Value, composed, constant, strict, unknown
from pipeline_processing.expressions.types import Type
from pipeline_processing.ports import Row


def all_of(conditions: Sequence[Compiled], at: int) -> Compiled:
    """AND: false if one is false, else null if one is null."""
    return _joined(False, conditions, at)


def any_of(conditions: Sequence[Compiled], at: int) -> Compiled:
    """OR: true if one is true, else null if one is null."""
    return _joined(True, conditions, at)


def _joined(decisive: bool, conditions: Sequence[Compiled], at: int) -> Compiled:
    """What is decided before the first row is decided here, as in Postgres: then the others aren't even looked at."""
    if any(each.fixed and each.constant is decisive for each in conditions):
        return constant(Type.BOOLEAN, decisive, at)
    open_ones = [each for each in conditions if not each.fixed or each.is_null]
    if not open_ones:
        return constant(Type.BOOLEAN, not decisive, at)
    if len(open_ones) == 1 and open_ones[0].type is Type.BOOLEAN:
        return open_ones[0]
    return composed(Type.BOOLEAN, _until(decisive, [each.value for each in open_ones]), open_ones, at)


def _until(decisive: bool, conditions: Sequence[Value]) -> Value:
    def truth(row: Row) -> bool | None:
        result: bool | None = not decisive
        for condition in conditions:
            each: bool | None = condition(row)
            if each is decisive:
                return decisive
            if each is None:
                result = None
        return result

    return truth


def negated(condition: Compiled, at: int) -> Compiled:
    """NOT."""
    return strict(Type.BOOLEAN, operator.not_, condition, at=at)


def is_null(operand: Compiled, negated: bool, at: int) -> Compiled:
    """IS [NOT] NULL, of any type."""
    if operand.type is Type.ANY:
        return unknown(Type.BOOLEAN, at)
    column = operand.column
    value = operand.value if column is None else operator.itemgetter(column.name)
    if negated:
        return composed(Type.BOOLEAN, lambda row: value(row) is not None, [operand], at)
    return composed(Type.BOOLEAN, lambda row: value(row) is None, [operand], at)


def is_truth(condition: Compiled, truth: bool | None, negated: bool, at: int) -> Compiled:
    """IS [NOT] TRUE, FALSE or UNKNOWN: never null."""
    value = condition.value
    if negated:
        return composed(Type.BOOLEAN, lambda row: value(row) is not truth, [condition], at)
    return composed(Type.BOOLEAN, lambda row: value(row) is truth, [condition], at)
