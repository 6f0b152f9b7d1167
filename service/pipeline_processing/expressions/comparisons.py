"""Comparisons. Both sides are brought to one type, and what is compared are keys that order as Postgres does."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pipeline_processing.expressions import logic, text, times
from pipeline_processing.expressions.casts import as_text, coerced, common_type
from pipeline_processing.expressions.compiled import Compiled, composed, constant, run_on, shared, strict, unknown
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.types import TEMPORAL, Type
from pipeline_processing.expressions.values import ordering
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Comparison
from pipeline_processing.rows.values import ENUM

Compare = Callable[[Any, Any], bool]

COMPARE: Mapping[str, Compare] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compared(sign: str, left: Compiled, right: Compiled, at: int) -> Compiled:
    """`left = right` and its like. Raises Refused where the two don't compare."""
    if left.fixed and not right.fixed:
        return compared(_TURNED.get(sign, sign), right, left, at)
    one, other = _keys([left, right], at, in_order=sign not in ("=", "<>"))
    return strict(Type.BOOLEAN, COMPARE[sign], one, other, at=at)


def distinct(left: Compiled, right: Compiled, negated: bool, at: int) -> Compiled:
    """IS [NOT] DISTINCT FROM: null is equal to null."""
    one, other = _keys([left, right], at, in_order=False)
    if Type.ANY in (one.type, other.type):
        return unknown(Type.BOOLEAN, at)
    a, b = one.value, other.value
    if negated:
        return composed(Type.BOOLEAN, lambda row: a(row) == b(row), (one, other), at)
    return composed(Type.BOOLEAN, lambda row: a(row) != b(row), (one, other), at)


def between(operand: Compiled, low: Compiled, high: Compiled, at: int) -> Compiled:
    """`operand BETWEEN low AND high`. Raises Refused."""
    given, operand, (low, high) = shared(operand, [low, high])
    bounds = (compared(">=", operand, low, at), compared("<=", operand, high, at))
    return run_on(given, logic.all_of(bounds, at))


def contained(operand: Compiled, constants: Sequence[Compiled], others: Sequence[Compiled], at: int) -> Compiled:
    """`operand IN (constants, others)`. Raises Refused."""
    if not others:
        return _among(operand, constants, at)
    given, operand, others = shared(operand, others)
    among = [_among(operand, constants, at)] if constants else []
    return run_on(given, logic.any_of([*among, *(compared("=", operand, other, at) for other in others)], at))


def _among(operand: Compiled, items: Sequence[Compiled], at: int) -> Compiled:
    """Whether the operand is one of some constants: found by its key, however many there are."""
    one, *constants = _keys([operand, *items], at, in_order=False)
    if any(part.type is Type.ANY for part in (one, *constants)):
        return unknown(Type.BOOLEAN, at)
    keys = frozenset(item.constant for item in constants if not item.is_null)
    missing = None if any(item.is_null for item in constants) else False
    value = one.value

    def truth(row: Row) -> bool | None:
        key = value(row)
        return None if key is None else (key in keys or missing)

    return composed(Type.BOOLEAN, truth, [one], at)


def _keys(operands: list[Compiled], at: int, *, in_order: bool) -> list[Compiled]:
    """The operands, at one type, as their keys. Raises Refused."""
    if any(operand.type is Type.OTHER for operand in operands):
        return _keys_of_others(operands, at, in_order=in_order)
    types = {operand.type for operand in operands}
    if types >= {Type.CHAR, Type.TEXT}:
        operands = [coerced(each, Type.TEXT) if each.type is Type.CHAR else each for each in operands]
    to = common_type(operands, "a comparison", at)
    if to is Type.JSON:
        raise Refused("compares json, which has no order: take text from it with ->>", at)
    return [_key(operand, to) for operand in operands]


def _key(operand: Compiled, to: Type) -> Compiled:
    if operand.key is not None and operand.type is to:
        return Compiled(to, operand.key, operand.at)
    if to is Type.ANY:
        return unknown(to, operand.at)
    if operand.type is Type.DATE and to in TEMPORAL[1:]:
        operand = strict(Type.TIMESTAMP, times.midnight, operand, at=operand.at)  # any day compares with timestamps
    operand = coerced(operand, to)
    key = ordering(to)
    return operand if key is None else strict(operand.type, key, operand, at=operand.at)


# -- columns of types that only their comparison knows -------------------------------------------


def _keys_of_others(operands: list[Compiled], at: int, *, in_order: bool) -> list[Compiled]:
    """Such a column compares with literals, and with columns of its family."""
    comparison = next(each for each in map(_comparison, operands) if each is not None)
    if in_order and comparison == ENUM:
        raise Refused("orders by an enum, whose order only Postgres knows", at)
    return [_key_of_other(operand, comparison, at) for operand in operands]


def _comparison(operand: Compiled) -> Comparison | None:
    """None if the operand is of an ordinary type."""
    if operand.type is not Type.OTHER:
        return None
    if operand.column is None or operand.column.comparison is None:
        name = "" if operand.column is None else f" {operand.column.name!r}"
        raise Refused(f"compares column{name}, whose type can't be compared here. Compare it in the query", operand.at)
    return operand.column.comparison


def _key_of_other(operand: Compiled, comparison: Comparison, at: int) -> Compiled:
    if operand.type is Type.ANY:
        return operand
    if operand.type is Type.NULL:
        return coerced(operand, Type.OTHER)
    if (own := _comparison(operand)) is not None and own.family == comparison.family:
        return strict(Type.OTHER, own.key, operand, at=operand.at)
    if not operand.fixed:
        raise Refused(f"compares {comparison.family} with {own.family if own else operand.type}: cast one of them", at)
    if operand.is_null:
        return constant(Type.OTHER, None, operand.at)
    try:
        return constant(Type.OTHER, comparison.literal(operand.constant), operand.at)
    except ValueError as error:
        raise Refused(f"compares {comparison.family} with {operand.constant!r}: {error}", operand.at) from None


# -- patterns ------------------------------------------------------------------------------------


def like(operand: Compiled, pattern: Compiled, any_case: bool, at: int) -> Compiled:
    """`operand [I]LIKE pattern`. Raises Refused."""
    name = "ILIKE" if any_case else "LIKE"
    if operand.type is Type.CHAR:
        operand = Compiled(Type.TEXT, operand.value, operand.at)  # it sees the padding, which = doesn't
    searched, wanted = as_text(operand, name), as_text(pattern, f"a pattern of {name}")
    if any_case:
        searched = strict(Type.TEXT, text.lower, searched, at=at)
        wanted = strict(Type.TEXT, text.lower, wanted, at=at)
    if wanted.fixed and not wanted.is_null:
        matches = strict(Type.OTHER, text.like_pattern, wanted, at=wanted.at).constant
        return strict(Type.BOOLEAN, matches, searched, at=at)
    return strict(Type.BOOLEAN, _matches, searched, wanted, at=at)


_pattern = lru_cache(maxsize=1024)(text.like_pattern)


def _matches(searched: str, pattern: str) -> bool:
    return _pattern(pattern)(searched)
