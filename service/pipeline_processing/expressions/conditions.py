"""Conditions: AND, OR, NOT, IS, comparisons, IN, BETWEEN and LIKE, in three-valued logic where null is unknown."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from pipeline_processing.expressions import text, times
from pipeline_processing.expressions.casts import coerced, common_type, required
from pipeline_processing.expressions.code import Bind, Code, Field, Given, Local, Part
from pipeline_processing.expressions.compiled import Build, Compiled, composed, constant, sharing, strict
from pipeline_processing.expressions.types import TEMPORAL, Refused, Type
from pipeline_processing.expressions.values import ordering
from pipeline_processing.rows.columns import Comparison
from pipeline_processing.rows.values import ENUM

# -- logic ---------------------------------------------------------------------------------------


def all_of(*operands: Compiled) -> Compiled:
    """AND: false if any is false, else null if any is null."""
    return _joined(False, [required(operand, Type.BOOLEAN, "AND") for operand in operands])


def any_of(*operands: Compiled) -> Compiled:
    """OR: true if any is true, else null if any is null."""
    return _joined(True, [required(operand, Type.BOOLEAN, "OR") for operand in operands])


def _joined(decisive: bool, conditions: Sequence[Compiled]) -> Compiled:
    """As in Postgres, if a fixed condition decides, the others aren't computed."""
    if any(each.fixed and each.constant is decisive for each in conditions):
        return constant(Type.BOOLEAN, decisive)
    open_ones = [each for each in conditions if not each.fixed or each.is_null]
    if not open_ones:
        return constant(Type.BOOLEAN, not decisive)
    if len(open_ones) == 1:
        return open_ones[0]
    if all(each.is_null for each in open_ones):
        return constant(Type.BOOLEAN, None)
    return Compiled(Type.BOOLEAN, _until(decisive, [each.part for each in open_ones]))


def _until(decisive: bool, conditions: Sequence[Part]) -> Part:
    """Compute conditions up to the first one that is decisive."""
    parts = [Bind(Local(), each) if each.nullable else each for each in conditions]
    template = f"{decisive} if {' or '.join(f'{{{place}}} is {decisive}' for place in range(len(parts)))}"
    locals_ = [part.local for part in parts if isinstance(part, Bind)]
    if locals_:
        places = range(len(parts), len(parts) + len(locals_))
        template += f" else None if {' or '.join(f'{{{place}}} is None' for place in places)}"
    return Code(f"{template} else {not decisive}", (*parts, *locals_), nullable=bool(locals_))


def negated(condition: Compiled) -> Compiled:
    """NOT."""
    return strict(Type.BOOLEAN, operator.not_, required(condition, Type.BOOLEAN, "NOT"))


def _is_null(operand: Compiled, *, negated: bool) -> Compiled:
    if operand.column is not None:
        operand = replace(operand, part=Field(operand.column.name))  # not converted
    return composed(Type.BOOLEAN, f"{{0}} is {'not ' if negated else ''}None", operand, nullable=False)


def _is_truth(truth: bool | None, operand: Compiled, *, negated: bool) -> Compiled:
    """IS [NOT] TRUE, FALSE or UNKNOWN: never null."""
    condition = required(operand, Type.BOOLEAN, "IS")
    return composed(Type.BOOLEAN, f"{{0}} is {'not ' if negated else ''}{truth}", condition, nullable=False)


# -- comparisons ---------------------------------------------------------------------------------

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compared(sign: str, left: Compiled, right: Compiled) -> Compiled:
    """Compile a comparison such as `left = right`. Raises Refused if the two can't be compared."""
    if left.fixed and not right.fixed:
        return compared(_TURNED.get(sign, sign), right, left)
    one, other = _keys([left, right], in_order=sign not in ("=", "<>"))
    if one.type is Type.NUMBER and one.part is left.key and other.fixed and isinstance(other.constant, Decimal):
        return _compared_as_floats(sign, left, other.constant)
    return strict(Type.BOOLEAN, _COMPARE[sign], one, other)


_UNLESS_EQUAL = {"=": "False", "<>": "True", "<": "{new} < {2}", "<=": "{new} < {2}"}
"""How two floats compare of which neither is the other. If the first is NaN, it is greater than the second."""


def _compared_as_floats(sign: str, left: Compiled, constant: Decimal) -> Compiled:
    """
    Compare a numeric column with a constant as floats, which is twice as fast, and as decimals if those are equal.

    Rounding to floats keeps the order of numbers, so different floats compare like the numbers.
    """
    assert left.column is not None
    assert left.key is not None
    field = Local()
    template = (
        f"None if {{1}} is None else {_UNLESS_EQUAL.get(sign, 'not {new} < {2}')} "
        f"if ({{new}} := float({{0}})) != {{2}} else {{3}}({{4}}, {{5}})"
    )
    parts = (
        field,
        Bind(field, Field(left.column.name)),
        Given(float(constant)),
        Given(_COMPARE[sign]),
        left.key,
        Given(constant),
    )
    return Compiled(Type.BOOLEAN, Code(template, parts))


def _distinct(left: Compiled, right: Compiled, *, negated: bool) -> Compiled:
    """IS [NOT] DISTINCT FROM: null is equal to null."""
    keys = _keys([left, right], in_order=False)
    return composed(Type.BOOLEAN, "{0} == {1}" if negated else "{0} != {1}", *keys, nullable=False)


def _between(operand: Compiled, low: Compiled, high: Compiled) -> Compiled:
    def build(operand: Compiled, low: Compiled, high: Compiled) -> Compiled:
        return all_of(compared(">=", operand, low), compared("<=", operand, high))

    return sharing(operand, (low, high), build)


def _contained(operand: Compiled, *items: Compiled) -> Compiled:
    """IN. As in Postgres, constants are compared first if there are several."""
    constants = tuple(item for item in items if item.fixed)
    others = tuple(item for item in items if not item.fixed)
    if not others:
        return _among(operand, constants)
    if len(constants) == 1:
        constants, others = (), items

    def build(operand: Compiled, *others: Compiled) -> Compiled:
        among = [_among(operand, constants)] if constants else []
        return any_of(*among, *(compared("=", operand, other) for other in others))

    return sharing(operand, others, build)


def _among(operand: Compiled, items: Sequence[Compiled]) -> Compiled:
    """Return whether the operand is one of these constants, by a lookup of its key in a set."""
    one, *constants = _keys([operand, *items], in_order=False)
    # Constants of type ANY aren't fixed; they are never run.
    keys = frozenset(item.constant for item in constants if item.fixed and not item.is_null)
    found = strict(Type.BOOLEAN, operator.contains, constant(Type.OTHER, keys), one)
    return composed(Type.BOOLEAN, "{0} or None", found) if any(item.is_null for item in constants) else found


def _keys(operands: Sequence[Compiled], *, in_order: bool) -> list[Compiled]:
    """Convert the operands to a common type, and to keys that sort as in Postgres. Raises Refused."""
    if any(operand.type is Type.OTHER for operand in operands):
        return _keys_of_others(operands, in_order=in_order)
    if {operand.type for operand in operands} >= {Type.CHAR, Type.TEXT}:
        operands = [coerced(each, Type.TEXT) if each.type is Type.CHAR else each for each in operands]
    to = common_type(operands, "a comparison")
    if to is Type.JSON:
        raise Refused("compares json, which has no order: take text from it with ->>")
    return [_key(operand, to) for operand in operands]


def _key(operand: Compiled, to: Type) -> Compiled:
    if operand.key is not None and operand.type is to:
        return Compiled(to, operand.key, operand.at)
    if operand.type is Type.DATE and to in TEMPORAL[1:]:
        operand = strict(Type.TIMESTAMP, times.midnight, operand)  # even days out of range for a timestamp
    operand = coerced(operand, to)
    key = ordering(to)
    return operand if key is None else strict(to, key, operand)


# -- columns of types that support only comparisons ----------------------------------------------


def _keys_of_others(operands: Sequence[Compiled], *, in_order: bool) -> list[Compiled]:
    """Such a column can be compared with literals, and with columns of its family."""
    comparison = next(each for each in map(_comparison, operands) if each is not None)
    if in_order and comparison == ENUM:
        raise Refused("orders by an enum, whose order only Postgres knows")
    return [_key_of_other(operand, comparison) for operand in operands]


def _comparison(operand: Compiled) -> Comparison | None:
    """Return the operand's comparison; None if its type isn't OTHER. Raises Refused if it has none."""
    if operand.type is not Type.OTHER:
        return None
    if operand.column is None or operand.column.comparison is None:
        name = "" if operand.column is None else f" {operand.column.name!r}"
        raise Refused(f"compares column{name}, whose type can't be compared here. Compare it in the query", operand.at)
    return operand.column.comparison


def _key_of_other(operand: Compiled, comparison: Comparison) -> Compiled:
    if operand.type in (Type.NULL, Type.ANY):
        return coerced(operand, Type.OTHER)
    if (own := _comparison(operand)) is not None and own.family == comparison.family:
        return strict(Type.OTHER, own.key, operand)
    if not operand.fixed:
        raise Refused(f"compares {comparison.family} with {own.family if own else operand.type}: cast one of them")
    if operand.is_null:
        return constant(Type.OTHER, None)
    try:
        return constant(Type.OTHER, comparison.literal(operand.constant))
    except ValueError as error:
        raise Refused(f"compares {comparison.family} with {operand.constant!r}: {error}", operand.at) from None


# -- patterns ------------------------------------------------------------------------------------


def _like(name: str, operand: Compiled, pattern: Compiled) -> Compiled:
    """LIKE or ILIKE."""
    if operand.type is Type.CHAR:
        operand = Compiled(Type.TEXT, operand.part, operand.at)  # LIKE sees the padding, which = ignores
    searched, wanted = required(operand, Type.TEXT, name), required(pattern, Type.TEXT, f"a pattern of {name}")
    if name == "ILIKE":
        searched, wanted = (strict(Type.TEXT, text.lower, each) for each in (searched, wanted))
    if wanted.fixed and not wanted.is_null:
        return strict(Type.BOOLEAN, text.is_matched, strict(Type.OTHER, text.like_pattern, wanted), searched)
    return strict(
        Type.BOOLEAN, lambda searched, pattern: text.is_matched(_pattern(pattern), searched), searched, wanted
    )


_pattern = lru_cache(maxsize=1024)(text.like_pattern)


# -- by name -------------------------------------------------------------------------------------


def _not(build: Build) -> Build:
    return lambda *operands: negated(build(*operands))


_RANGES: Mapping[str, Build] = {
    "IN": _contained,
    "BETWEEN": _between,
    "LIKE": partial(_like, "LIKE"),
    "ILIKE": partial(_like, "ILIKE"),
}
_TESTS: Mapping[str, Build] = {
    "NULL": _is_null,
    "TRUE": partial(_is_truth, True),
    "FALSE": partial(_is_truth, False),
    "UNKNOWN": partial(_is_truth, None),
    "DISTINCT FROM": _distinct,
}
CONDITIONS: Mapping[str, Build] = {
    "AND": all_of,
    "OR": any_of,
    "NOT": negated,
    **_RANGES,
    **{f"NOT {name}": _not(build) for name, build in _RANGES.items()},
    **{f"IS {name}": partial(build, negated=False) for name, build in _TESTS.items()},
    **{f"IS NOT {name}": partial(build, negated=True) for name, build in _TESTS.items()},
    **{sign: partial(compared, sign) for sign in _COMPARE},
}
