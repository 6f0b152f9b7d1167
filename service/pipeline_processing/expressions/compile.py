"""Tree → closures. The types of all parts are checked here; nothing of the text is ever run as code."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from operator import itemgetter
from typing import Any

from pipeline_processing.expressions import comparisons, decimals, logic, operators
from pipeline_processing.expressions.casts import as_condition, cast
from pipeline_processing.expressions.choices import case
from pipeline_processing.expressions.compiled import Compiled, Value, constant, unknown
from pipeline_processing.expressions.functions import FUNCTIONS
from pipeline_processing.expressions.refusals import Refused, RowFault
from pipeline_processing.expressions.tree import (
    Between,
    Binary,
    Call,
    Case,
    Cast,
    In,
    IsDistinct,
    IsNull,
    IsTruth,
    Joined,
    Like,
    Literal,
    Name,
    Negated,
    Node,
    Signed,
    reads_columns,
)
from pipeline_processing.expressions.types import Type, type_of
from pipeline_processing.expressions.values import READ_AT_RUN_TIME, key_of_carried, reading
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column

Lookup = Callable[[Name], Compiled]
"""What a column's name stands for. Raises UnknownColumn."""


def compiled(node: Node, column: Lookup) -> Compiled:
    """A tree of bounded height → what runs. Raises Refused."""

    def of(part: Node) -> Compiled:
        return compiled(part, column)

    def condition(part: Node, what: str) -> Compiled:
        return as_condition(of(part), what)

    at = node.at
    match node:
        case Name():
            return column(node)
        case Literal():
            return _literal(node)
        case Joined():
            join = logic.all_of if node.operator == "AND" else logic.any_of
            return join([condition(term, node.operator) for term in node.terms], at)
        case Negated():
            return logic.negated(condition(node.operand, "NOT"), at)
        case IsNull():
            return logic.is_null(of(node.operand), node.negated, at)
        case IsTruth():
            return logic.is_truth(condition(node.operand, "IS"), node.truth, node.negated, at)
        case IsDistinct():
            return comparisons.distinct(of(node.left), of(node.right), node.negated, at)
        case Between():
            within = comparisons.between(of(node.operand), of(node.low), of(node.high), at)
            return _perhaps_not(within, node.negated)
        case In():
            items = [(of(item), reads_columns(item)) for item in node.items]
            read = [item for item, reads in items if reads]
            constants = [item for item, reads in items if not reads]
            if len(constants) == 1:  # then Postgres looks at all in the order in which they stand
                read, constants = [item for item, _ in items], []
            return _perhaps_not(comparisons.contained(of(node.operand), constants, read, at), node.negated)
        case Like():
            alike = comparisons.like(of(node.operand), of(node.pattern), node.any_case, at)
            return _perhaps_not(alike, node.negated)
        case Binary():
            return _binary(node.operator, of(node.left), of(node.right), at)
        case Signed():
            return operators.signed(node.operator, of(node.operand), at)
        case Cast():
            return cast(of(node.operand), node.target, at)
        case Case():
            subject = None if node.subject is None else of(node.subject)
            default = None if node.default is None else of(node.default)
            return case(subject, [of(when) for when in node.whens], default, at)
        case Call():
            return _call(node, of)
    raise AssertionError(f"no such node: {type(node).__name__}")


def _literal(node: Literal) -> Compiled:
    match node.value:
        case bool():
            return constant(Type.BOOLEAN, node.value, node.at)
        case int():
            return constant(Type.INTEGER, node.value, node.at)
        case Decimal():
            try:
                return constant(Type.NUMBER, decimals.stored(node.value), node.at)
            except RowFault as fault:
                raise Refused(f"has a number that can't be used: {fault.reason}", node.at) from None
    return constant(Type.LITERAL, node.value, node.at)


def _perhaps_not(condition: Compiled, negated: bool) -> Compiled:
    return logic.negated(condition, condition.at) if negated else condition


def _binary(sign: str, left: Compiled, right: Compiled, at: int) -> Compiled:
    if sign in comparisons.COMPARE:
        return comparisons.compared(sign, left, right, at)
    if sign in ("->", "->>"):
        return operators.arrow(sign, left, right, at)
    return operators.joined(left, right, at) if sign == "||" else operators.arithmetic(sign, left, right, at)


def _call(node: Call, of: Callable[[Node], Compiled]) -> Compiled:
    if (function := FUNCTIONS.get(node.name)) is None:
        raise Refused(f"calls {node.name.upper()}", node.at, unsupported=True)
    given = len(node.arguments)
    if given < function.least or (function.most is not None and given > function.most):
        takes = (
            str(function.least) if function.least == function.most else f"{function.least} to {function.most or '…'}"
        )
        raise Refused(f"gives {node.name.upper()} {given} arguments, and it takes {takes}", node.at)
    return function.build([of(argument) for argument in node.arguments], node.at)


# -- columns -------------------------------------------------------------------------------------


def column_read(column: Column, carry: str, at: int) -> Compiled:
    """A column as it reaches the step. One whose type only the rows tell can't be run."""
    type_ = type_of(column)
    if type_ is Type.ANY:
        return replace(unknown(type_, at), column=column)
    key = key_of_carried(type_, carry)
    return Compiled(
        type_,
        _converted(column.name, reading(type_, carry)),
        at,
        key=None if key is None else _converted(column.name, key),
        column=column,
    )


def column_of_type(name: str, type_: Type, at: int) -> Compiled:
    """A column that somebody else's step left, in rows where it has values of that type."""
    return Compiled(type_, _converted(name, READ_AT_RUN_TIME.get(type_)), at)


def _converted(name: str, convert: Callable[[Any], Any] | None) -> Value:
    if convert is None:
        return itemgetter(name)

    def value(row: Row) -> Any:
        found = row[name]
        return None if found is None else convert(found)

    return value
