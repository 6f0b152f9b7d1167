"""Tree → compiled parts, with type checks."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pipeline_processing.expressions import decimals
from pipeline_processing.expressions.casts import cast
from pipeline_processing.expressions.choices import CHOICES
from pipeline_processing.expressions.code import Field
from pipeline_processing.expressions.compiled import Build, Compiled, applied, constant
from pipeline_processing.expressions.conditions import CONDITIONS
from pipeline_processing.expressions.functions import FUNCTIONS, call
from pipeline_processing.expressions.tree import Call, Cast, Literal, Name, Node
from pipeline_processing.expressions.types import Refused, RowFault, Type, type_of
from pipeline_processing.expressions.values import READ_AT_RUN_TIME, key_of_carried, reading
from pipeline_processing.options.words import close_to
from pipeline_processing.rows.columns import Column

Lookup = Callable[[Name], Compiled]
"""A name → its column. Raises UnknownColumn."""
FORMS: Mapping[str, Build] = {**CHOICES, **CONDITIONS}
FUNCTION_NAMES = sorted(name.upper() for name in (*FORMS, *FUNCTIONS) if name.islower())


def compiled(node: Node, column: Lookup) -> Compiled:
    """Compile a tree of bounded height. Raises Refused, whose position defaults to the node's."""
    try:
        return replace(_compiled(node, column), at=node.at)
    except Refused as refused:
        if refused.at is None:
            refused.at = node.at
        raise


def _compiled(node: Node, column: Lookup) -> Compiled:
    match node:
        case Name():
            return column(node)
        case Literal():
            return _literal(node.value)
        case Cast():
            return cast(compiled(node.operand, column), node.target)
        case Call():
            operands = [compiled(argument, column) for argument in node.arguments]
            if node.name in FUNCTIONS:
                return call(node.name, operands)
            if node.name not in FORMS:
                close = close_to(node.name, map(str.lower, FUNCTION_NAMES)) or ", which isn't a function here"
                raise Refused(f"calls {node.name.upper()}{close}", unsupported=True)
            if not operands:
                raise Refused(f"gives {node.name.upper()} no arguments")
            return FORMS[node.name](*operands)
    raise AssertionError(f"no such node: {type(node).__name__}")


def _literal(value: Any) -> Compiled:
    match value:
        case None:
            return constant(Type.NULL, None)
        case bool():
            return constant(Type.BOOLEAN, value)
        case int():
            return constant(Type.INTEGER, value)
        case Decimal():
            try:
                return constant(Type.NUMBER, decimals.stored(value))
            except RowFault as fault:
                raise Refused(f"has a number that can't be used: {fault.reason}") from None
    return constant(Type.LITERAL, value)


# -- columns -------------------------------------------------------------------------------------


def column_read(column: Column, carry: str) -> Compiled:
    """Compile a column that reaches the step. An untyped one can't be run."""
    type_ = type_of(column)
    field = Field(column.name)
    if type_ is Type.ANY:
        return Compiled(type_, field, column=column)
    read, key = reading(type_, carry), key_of_carried(type_, carry)
    return Compiled(
        type_,
        field if read is None else applied(read, field),
        key=None if key is None else applied(key, field),
        column=column,
    )


def column_of_type(name: str, type_: Type) -> Compiled:
    """Compile an untyped column for rows where its value has that type."""
    read = READ_AT_RUN_TIME.get(type_)
    return Compiled(type_, Field(name) if read is None else applied(read, Field(name)))
