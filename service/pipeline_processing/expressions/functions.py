"""
Functions and operators by name: their types and implementations. They return null if an operand is null.

A name may have several overloads. As in Postgres, the one whose types are closest to the operands' types is chosen.
Forms that handle nulls or take any type are in `conditions.py` and `choices.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from pipeline_processing.expressions import decimals, documents, floats, integers, text, times
from pipeline_processing.expressions.casts import coerced, fits
from pipeline_processing.expressions.compiled import Compiled, strict
from pipeline_processing.expressions.types import Refused, Type
from pipeline_processing.rows.values import same


@dataclass(frozen=True, slots=True)
class Overload:
    takes: tuple[Type, ...]
    gives: Type
    function: Callable[..., Any]

    def fits(self, operands: Sequence[Compiled]) -> bool:
        """Return whether the operands fit. Quoted text is an integer only if all parameters have the same type."""
        return len(operands) == len(self.takes) and all(
            fits(operand, to)
            and (operand.type is not Type.LITERAL or to is not Type.INTEGER or len(set(self.takes)) == 1)
            for operand, to in zip(operands, self.takes, strict=True)
        )

    def closeness(self, operands: Sequence[Compiled]) -> int:
        """Return how many operands need no conversion."""
        return sum(operand.type is to for operand, to in zip(operands, self.takes, strict=True))


def _overloads(functions: Mapping[str, Callable[..., Any]]) -> tuple[Overload, ...]:
    """Make overloads of signatures such as `text, integer → text`."""
    overloads = []
    for signature, function in functions.items():
        takes, _, gives = signature.partition(" → ")
        overloads.append(Overload(tuple(map(Type, takes.split(", "))), Type(gives), function))
    return tuple(overloads)


def _of_numbers(count: int, functions: Mapping[Type, Callable[..., Any]]) -> tuple[Overload, ...]:
    """Make overloads that take `count` numbers of one type and return the same type."""
    return tuple(Overload((type_,) * count, type_, function) for type_, function in functions.items())


_I, _N, _F = Type.INTEGER, Type.NUMBER, Type.FLOAT

FUNCTIONS: Mapping[str, tuple[Overload, ...]] = {
    "+": (
        *_of_numbers(2, {_I: integers.add, _N: decimals.add, _F: floats.add}),
        *_of_numbers(1, dict.fromkeys((_I, _N, _F), same)),
    ),
    "-": (
        *_of_numbers(2, {_I: integers.subtract, _N: decimals.subtract, _F: floats.subtract}),
        *_of_numbers(1, {_I: integers.negative, _N: decimals.negative, _F: float.__neg__}),
    ),
    "*": _of_numbers(2, {_I: integers.multiply, _N: decimals.multiply, _F: floats.multiply}),
    "/": _of_numbers(2, {_I: integers.divide, _N: decimals.divide, _F: floats.divide}),
    "%": _of_numbers(2, {_I: integers.remainder, _N: decimals.remainder}),
    # A literal or an integer that could be either is double precision, as in Postgres.
    "abs": _of_numbers(1, {_F: abs, _N: Decimal.copy_abs, _I: integers.absolute}),
    "round": (
        *_of_numbers(1, {_F: floats.rounded, _N: decimals.rounded}),
        Overload((_N, _I), _N, decimals.rounded),
    ),
    "floor": _of_numbers(1, {_F: floats.floor, _N: decimals.floor}),
    "ceil": _of_numbers(1, {_F: floats.ceiling, _N: decimals.ceiling}),
    "->": _overloads({"json, text → json": documents.member, "json, integer → json": documents.element}),
    "->>": _overloads({"json, text → text": documents.member_text, "json, integer → text": documents.element_text}),
    "lower": _overloads({"text → text": text.lower}),
    "upper": _overloads({"text → text": text.upper}),
    "btrim": _overloads({"text → text": lambda x: x.strip(" "), "text, text → text": str.strip}),
    "ltrim": _overloads({"text → text": lambda x: x.lstrip(" "), "text, text → text": str.lstrip}),
    "rtrim": _overloads({"text → text": lambda x: x.rstrip(" "), "text, text → text": str.rstrip}),
    "length": _overloads({"text → integer": len}),
    "substr": _overloads({"text, integer → text": text.substring, "text, integer, integer → text": text.substring}),
    "left": _overloads({"text, integer → text": text.left}),
    "right": _overloads({"text, integer → text": text.right}),
    "replace": _overloads({"text, text, text → text": text.replaced}),
    "split_part": _overloads({"text, text, integer → text": text.split_part}),
    "starts_with": _overloads({"text, text → boolean": str.startswith}),
    **{
        f"extract {field}": _overloads(
            {f"{each} → numeric": partial(times.extracted, field) for each in ("date", "timestamp", "timestamptz")}
        )
        for field in ("year", "month", "day")
    },
}
"""TRIM, SUBSTRING and EXTRACT are parsed to `btrim`, `substr` and `extract year`; MOD is `%`."""


def call(name: str, operands: Sequence[Compiled]) -> Compiled:
    """Compile a call of a function or operator. Raises Refused if no overload fits, or the call is ambiguous."""
    overloads = [each for each in FUNCTIONS[name] if each.fits(operands)]
    only_literals = all(operand.fixed and operand.type in (Type.LITERAL, Type.NULL) for operand in operands)
    if not overloads or (only_literals and len(overloads) > 1 and not name.isidentifier()):
        raise _no_overload(name, operands)
    types = {operand.type for operand in operands}
    several = len({each.gives for each in FUNCTIONS[name] if len(each.takes) == len(operands)}) > 1
    if several and (Type.ANY in types or (types == {Type.NULL} and not only_literals)):
        return Compiled(Type.ANY if Type.ANY in types else Type.NULL, operands[0].part)
    best = max(overloads, key=lambda each: each.closeness(operands))  # the first one if several are equally close
    return strict(best.gives, best.function, *map(coerced, operands, best.takes))


def _no_overload(name: str, operands: Sequence[Compiled]) -> Refused:
    shown = name.upper() if name[0].isalpha() else name
    given = ", ".join(operand.type for operand in operands)
    there = "; ".join(", ".join(each.takes) for each in FUNCTIONS[name])
    return Refused(f"gives {shown} {given}, and it takes {there}: cast what doesn't fit")
