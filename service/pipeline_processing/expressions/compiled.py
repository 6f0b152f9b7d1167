"""The compiled parts of an expression, and the ways to combine them."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline_processing.expressions import integers
from pipeline_processing.expressions.code import Bind, Code, Given, Local, Part, evaluated
from pipeline_processing.expressions.text import is_matched
from pipeline_processing.expressions.types import Refused, RowFault, Type
from pipeline_processing.rows.columns import Column
from pipeline_processing.rows.values import padded_text_key, same


@dataclass(frozen=True, slots=True)
class Compiled:
    """A part of an expression. One of type ANY is never run (see `expression.py`)."""

    type: Type
    part: Part
    """Its value (see `values.py`), None for null. Raises RowFault."""
    at: int = 0
    key: Part | None = None
    """For a column: the key by which it compares, if that is faster than to compute it from the value."""
    column: Column | None = None
    """The column, if it is just a column."""

    @property
    def fixed(self) -> bool:
        """Whether it has the same value for every row."""
        return isinstance(self.part, Given)

    @property
    def constant(self) -> Any:
        """The value of a fixed part."""
        assert isinstance(self.part, Given)
        return self.part.value

    @property
    def is_null(self) -> bool:
        """Whether it is a constant null."""
        return self.fixed and self.constant is None


Build = Callable[..., Compiled]
"""Operands → the compiled form. Raises Refused."""


def constant(type_: Type, value: Any, at: int = 0) -> Compiled:
    return Compiled(type_, Given(value), at)


def composed(type_: Type, template: str, *operands: Compiled, nullable: bool = True) -> Compiled:
    """Combine operands by a template of `Code`. If all are fixed, compute it now; raises Refused if that fails."""
    code = Code(template, tuple(operand.part for operand in operands), nullable)
    if not all(operand.fixed for operand in operands):
        return Compiled(type_, code)
    return _computed_now(type_, lambda: evaluated(code))


def strict(type_: Type, function: Callable[..., Any], *operands: Compiled) -> Compiled:
    """Apply a function to operands; null if any of them is null. If all are fixed, compute it now, like `composed`."""
    if any(operand.is_null for operand in operands):
        return constant(type_, None)
    if all(operand.fixed for operand in operands):
        return _computed_now(type_, lambda: function(*(operand.constant for operand in operands)))
    if function is same:
        return replace(operands[0], type=type_, column=None, key=None)
    return Compiled(type_, applied(function, *(operand.part for operand in operands)))


def _computed_now(type_: Type, compute: Callable[[], Any]) -> Compiled:
    try:
        return constant(type_, compute())
    except RowFault as fault:
        raise Refused(f"has a part that can't be computed: {fault.reason}") from None


_INLINE: Mapping[Callable[..., Any], str] = {
    operator.eq: "{0} == {1}",
    operator.ne: "{0} != {1}",
    operator.lt: "{0} < {1}",
    operator.le: "{0} <= {1}",
    operator.gt: "{0} > {1}",
    operator.ge: "{0} >= {1}",
    operator.not_: "not {0}",
    operator.add: "{0} + {1}",
    operator.contains: "{1} in {0}",
    is_matched: "{0}({1}) is not None",
    padded_text_key: "{0}.rstrip(' ')",
    **{
        function: f"{{new}} if {-(2**63)} <= ({{new}} := {{0}} {sign} {{1}}) <= {2**63 - 1} else out_of_range()"
        for function, sign in ((integers.add, "+"), (integers.subtract, "-"), (integers.multiply, "*"))
    },
}
"""Functions that are written as operators rather than called. None of them returns None."""


def applied(function: Callable[..., Any], *operands: Part) -> Part:
    """Apply a function to operands; None if any of them is None. All of them are computed, in order."""
    nullable = any(operand.nullable for operand in operands)
    arguments, bound = [], []
    for operand in operands:
        if not nullable or (isinstance(operand, Given) and not operand.nullable):
            arguments.append(operand)
        else:
            local = operand if isinstance(operand, Local) else Local()
            arguments.append(local)
            bound.append(operand if operand is local else Bind(local, operand))
    template = _INLINE.get(function)
    if template is not None:
        result = Code(template, tuple(arguments), nullable=False)
    else:
        result = Code(f"{{0}}({listed(range(1, len(arguments) + 1))})", (Given(function), *arguments))
    if not bound:
        return result
    # `|`, unlike `or`, computes all operands, which may raise RowFault.
    is_null = " | ".join(f"({{{place}}} is None)" for place in range(1, len(bound) + 1))
    return Code(f"None if {is_null} else {{0}}", (result, *bound))


def listed(places: Iterable[int]) -> str:
    """Return `{1}, {2}, …` for a template."""
    return ", ".join(f"{{{place}}}" for place in places)


def sharing(operand: Compiled, others: Sequence[Compiled], build: Build) -> Compiled:
    """
    Build a part that uses its operand several times but computes it once per row.

    Otherwise the time would double with each level of nesting.
    """
    if operand.fixed or operand.column is not None:
        return build(operand, *others)
    local = Local()
    built = build(replace(operand, part=local, key=None), *others)
    if built.fixed:
        return built
    # The condition is never true. It sets the variable.
    return replace(built, part=Code("None if {0} is ... else {1}", (Bind(local, operand.part), built.part)))
