"""Which of several values: CASE, COALESCE, NULLIF, GREATEST and LEAST."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipeline_processing.expressions.casts import as_condition, coerced, common_type
from pipeline_processing.expressions.comparisons import compared
from pipeline_processing.expressions.compiled import Compiled, Value, composed, constant, run_on, shared, unknown
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.types import NUMERIC, Type
from pipeline_processing.expressions.values import ordering
from pipeline_processing.ports import Row
from pipeline_processing.rows.values import same


def case(subject: Compiled | None, whens: Sequence[Compiled], default: Compiled | None, at: int) -> Compiled:
    """CASE, `whens` being conditions (with a subject: values) and results by turns. Raises Refused."""
    given: Value = same
    if subject is None:
        tests = [as_condition(when, "WHEN") for when in whens[::2]]
    else:
        given, subject, wanted = shared(subject, whens[::2])
        tests = [compared("=", subject, each, each.at) for each in wanted]
    results = _of_one_type([*whens[1::2], default or constant(Type.LITERAL, None, at)], "CASE", at)
    type_ = results[0].type
    if Type.ANY in (test.type for test in tests) or type_ is Type.ANY:
        return unknown(type_, at)
    *branches, (_, otherwise) = _possible(tests, results)
    pairs = [(test.value, result.value) for test, result in branches]
    if not pairs:
        return otherwise
    last = otherwise.value

    def value(row: Row) -> Any:
        tested = given(row)
        for is_true, result in pairs:
            if is_true(tested):
                return result(row)
        return last(row)

    return composed(type_, value, [part for branch in branches for part in branch] + [otherwise], at)


def _possible(tests: Sequence[Compiled], results: Sequence[Compiled]) -> list[tuple[Compiled, Compiled]]:
    """Branches that a row may come to, up to one that it can't pass; as in Postgres, others aren't even looked at."""
    branches = []
    for test, result in zip((*tests, constant(Type.BOOLEAN, True, results[-1].at)), results, strict=True):
        if not test.fixed or test.constant is True:
            branches.append((test, result))
        if test.fixed and test.constant is True:
            break
    return branches


def coalesce(operands: Sequence[Compiled], at: int) -> Compiled:
    """The first that isn't null. Raises Refused."""
    operands = _of_one_type(operands, "COALESCE", at)
    if operands[0].type is Type.ANY:
        return unknown(Type.ANY, at)
    type_ = operands[0].type
    decisive = next((place for place, each in enumerate(operands) if each.fixed and not each.is_null), len(operands))
    operands = [each for each in operands[: decisive + 1] if not each.is_null]
    if len(operands) == 1:
        return replace(operands[0], column=None)
    values = [operand.value for operand in operands]

    def value(row: Row) -> Any:
        for each in values:
            if (found := each(row)) is not None:
                return found
        return None

    return composed(type_, value, operands, at)


def nullif(operands: Sequence[Compiled], at: int) -> Compiled:
    """The first, or null where it equals the second. Raises Refused."""
    given, first, [second] = shared(operands[0], operands[1:])
    equal = compared("=", first, second, at)
    if Type.OTHER in (first.type, second.type):
        raise Refused(f"uses NULLIF on {Type.OTHER}: cast the column to text, or do this in the query", at)
    if Type.ANY in (first.type, second.type):
        return unknown(Type.ANY, at)
    # What comes out is the first as the comparison has it: of numbers and texts the common type, else its own.
    if first.type in (Type.LITERAL, Type.NULL, *NUMERIC):
        first = coerced(first, common_type([first, second], "NULLIF", at))
    elif (first.type, second.type) == (Type.CHAR, Type.TEXT):
        first = coerced(first, Type.TEXT)
    is_equal, value = equal.value, first.value
    different = composed(first.type, lambda row: None if is_equal(row) else value(row), [equal, first], at)
    return run_on(given, different)


def greatest(operands: Sequence[Compiled], at: int) -> Compiled:
    """The greatest of those that aren't null, the first one of equals. Raises Refused."""
    return _extreme(max, operands, "GREATEST", at)


def least(operands: Sequence[Compiled], at: int) -> Compiled:
    """The least of those that aren't null, the first one of equals. Raises Refused."""
    return _extreme(min, operands, "LEAST", at)


def _extreme(choose: Callable[..., Any], operands: Sequence[Compiled], name: str, at: int) -> Compiled:
    operands = _of_one_type(operands, name, at)
    type_ = operands[0].type
    if type_ is Type.JSON:
        raise Refused(f"uses {name} on json, which has no order", at)
    if type_ is Type.ANY:
        return unknown(type_, at)
    key, values = ordering(type_) or same, [operand.value for operand in operands]

    def value(row: Row) -> Any:
        there = [found for each in values if (found := each(row)) is not None]
        return choose(there, key=key, default=None)

    return composed(type_, value, operands, at)


def _of_one_type(operands: Sequence[Compiled], what: str, at: int) -> list[Compiled]:
    """All brought to their common type; none of them, but all of type ANY, if only the rows tell it."""
    type_ = common_type(list(operands), what, at)
    if type_ is Type.ANY:
        return [unknown(type_, operand.at) for operand in operands]
    return [coerced(operand, type_) for operand in operands]
