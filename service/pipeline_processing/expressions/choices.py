"""Forms that choose between operands or take any type: CASE, COALESCE, NULLIF, GREATEST, LEAST, CONCAT and ||."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from pipeline_processing.expressions.casts import coerced, common_type, of_one_type, printed, required
from pipeline_processing.expressions.compiled import Build, Compiled, composed, constant, listed, sharing, strict
from pipeline_processing.expressions.conditions import compared
from pipeline_processing.expressions.types import NUMERIC, UNTYPED, Refused, Type
from pipeline_processing.expressions.values import ordering


def _case(*operands: Compiled) -> Compiled:
    """CASE: alternating conditions and results, then the default."""
    *whens, default = operands
    tests = [required(when, Type.BOOLEAN, "WHEN") for when in whens[::2]]
    results = of_one_type([*whens[1::2], default], "CASE")
    type_ = results[0].type
    *branches, (_, otherwise) = _possible(tests, results)
    if not branches:
        return otherwise
    case = otherwise
    for test, result in reversed(branches):
        nullable = result.part.nullable or case.part.nullable
        case = composed(type_, "{1} if {0} else {2}", test, result, case, nullable=nullable)
    return case


def _case_of(subject: Compiled, *operands: Compiled) -> Compiled:
    """CASE with a subject, which is the first operand."""

    def build(subject: Compiled, *operands: Compiled) -> Compiled:
        *whens, default = operands
        tests = [compared("=", subject, wanted) for wanted in whens[::2]]
        return _case(*chain.from_iterable(zip(tests, whens[1::2], strict=True)), default)

    if all(wanted.is_null for wanted in operands[:-1:2]):
        return build(subject, *operands)  # as in Postgres, the subject isn't computed
    return sharing(subject, operands, build)


def _possible(tests: Sequence[Compiled], results: Sequence[Compiled]) -> list[tuple[Compiled, Compiled]]:
    """Return the branches that a row can reach. As in Postgres, the others aren't computed."""
    branches = []
    for test, result in zip((*tests, constant(Type.BOOLEAN, True)), results, strict=True):
        if not test.fixed or test.constant is True:
            branches.append((test, result))
        if test.fixed and test.constant is True:
            break
    return branches


def _coalesce(*given: Compiled) -> Compiled:
    """The first operand that isn't null."""
    operands = of_one_type(given, "COALESCE")
    type_ = operands[0].type
    decisive = next((place for place, each in enumerate(operands) if each.fixed and not each.is_null), len(operands))
    operands = [each for each in operands[: decisive + 1] if not each.is_null]
    if not operands:
        return constant(type_, None)
    if len(operands) == 1:
        return replace(operands[0], column=None)
    last = operands[-1].part
    there = " or ".join(f"({{new}} := {{{place}}}) is not None" for place in range(len(operands) - 1))
    code = f"{{new}} if {there} else {{{len(operands) - 1}}}"
    return composed(type_, code, *operands, nullable=last.nullable)


def _nullif(*operands: Compiled) -> Compiled:
    """The first operand, or null if it equals the second."""
    if len(operands) != 2:
        raise Refused(f"gives NULLIF {len(operands)} arguments, and it takes 2")
    if Type.OTHER in (operands[0].type, operands[1].type):
        raise Refused(f"uses NULLIF on {Type.OTHER}: cast the column to text, or do this in the query")

    def build(first: Compiled, second: Compiled) -> Compiled:
        is_equal = compared("=", first, second)
        # The result has the type that the comparison uses for numbers and texts, else its own.
        if first.type in (*UNTYPED, *NUMERIC):
            first = coerced(first, common_type([first, second], "NULLIF"))
        elif (first.type, second.type) == (Type.CHAR, Type.TEXT):
            first = coerced(first, Type.TEXT)
        type_ = Type.ANY if second.type is Type.ANY else first.type
        return composed(type_, "None if {0} else {1}", is_equal, first)

    return sharing(operands[0], operands[1:], build)


def _extreme(choose: Callable[..., Any], name: str, *given: Compiled) -> Compiled:
    """GREATEST or LEAST of the operands that aren't null. The first one wins a tie."""
    operands = of_one_type(given, name)
    type_ = operands[0].type
    if type_ is Type.JSON:
        raise Refused(f"uses {name} on json, which has no order")
    key = ordering(type_)

    def extreme(*values: Any) -> Any:
        return choose((each for each in values if each is not None), key=key, default=None)

    places = listed(range(1, len(operands) + 1))
    return composed(type_, f"{{0}}({places})", constant(Type.OTHER, extreme), *operands)


def _concat(*operands: Compiled) -> Compiled:
    """CONCAT: the operands that aren't null, as their types' output: booleans are t or f, char(n) keeps its spaces."""
    texts = [_as_printed(each) for each in operands]
    return composed(Type.TEXT, f"''.join(filter(None, ({listed(range(len(texts)))},)))", *texts, nullable=False)


def _as_printed(operand: Compiled) -> Compiled:
    if operand.type is Type.BOOLEAN:
        return strict(Type.TEXT, lambda truth: "t" if truth else "f", operand)
    return operand if operand.type is Type.CHAR else printed(operand)


def _joined(*operands: Compiled) -> Compiled:
    """||, of which at least one operand must be text."""
    types = [operand.type for operand in operands]
    if not any(type_ in (Type.TEXT, Type.CHAR, *UNTYPED) for type_ in types):
        raise Refused(f"joins {types[0]} and {types[1]} by ||: cast one of them to text")
    if Type.JSON in types:
        raise Refused("uses || on json: take text from it with ->>, in parentheses")
    return strict(Type.TEXT, operator.add, *map(printed, operands))


CHOICES: Mapping[str, Build] = {
    "CASE": _case,
    "CASE OF": _case_of,
    "coalesce": _coalesce,
    "nullif": _nullif,
    "greatest": partial(_extreme, max, "GREATEST"),
    "least": partial(_extreme, min, "LEAST"),
    "concat": _concat,
    "||": _joined,
}
