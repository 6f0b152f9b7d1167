"""Arithmetic, || and the arrows of json."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline_processing.expressions import decimals, documents, floats, integers, text
from pipeline_processing.expressions.casts import as_text, coerced, common_type, printed
from pipeline_processing.expressions.compiled import Compiled, strict, unknown
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.types import NUMERIC, TEMPORAL, UNTYPED, Type

_ARITHMETIC: Mapping[Type, Mapping[str, Callable[[Any, Any], Any]]] = {
    Type.INTEGER: integers.ARITHMETIC,
    Type.NUMBER: decimals.ARITHMETIC,
    Type.FLOAT: floats.ARITHMETIC,
}
_NEGATIVE: Mapping[Type, Callable[[Any], Any]] = {
    Type.INTEGER: integers.negative,
    Type.NUMBER: decimals.negative,
    Type.FLOAT: float.__neg__,
}


def arithmetic(sign: str, left: Compiled, right: Compiled, at: int) -> Compiled:
    """`left + right` and its like, in the wider type of the two. Raises Refused."""
    for operand in (left, right):
        check_number(operand, repr(sign))
    type_ = common_type([left, right], repr(sign), at)
    if type_ is Type.TEXT:
        raise _of_literals(sign, at)
    if type_ is Type.ANY:
        return unknown(type_, at)
    if type_ is Type.NULL:
        return left
    if (function := _ARITHMETIC[type_].get(sign)) is None:
        raise Refused(f"uses {sign!r} on {type_}: cast to numeric", at)
    return strict(type_, function, coerced(left, type_), coerced(right, type_), at=at)


def signed(sign: str, operand: Compiled, at: int) -> Compiled:
    """`- operand`, or `+ operand`. Raises Refused."""
    check_number(operand, repr(sign))
    if operand.type is Type.LITERAL:
        raise _of_literals(sign, at)
    if operand.type is Type.ANY:
        return unknown(operand.type, at)
    if sign == "+" or operand.type is Type.NULL:
        return operand
    return strict(operand.type, _NEGATIVE[operand.type], operand, at=at)


def check_number(operand: Compiled, what: str) -> None:
    """Raises Refused where an operand can't be a number."""
    if operand.type in TEMPORAL:
        raise Refused(f"uses {what} on {operand.type}. Compute with times in the query", operand.at)
    if operand.type not in (*NUMERIC, *UNTYPED):
        raise Refused(f"gives {what} {operand.type} where a number belongs: cast it", operand.at)


def _of_literals(what: str, at: int) -> Refused:
    return Refused(f"gives {what!r} nothing but text or NULL: write numbers without quotes", at)


def joined(left: Compiled, right: Compiled, at: int) -> Compiled:
    """`left || right`: text, if one of them is. Raises Refused."""
    types = (left.type, right.type)
    if not any(type_ in (Type.TEXT, Type.CHAR, *UNTYPED) for type_ in types):
        raise Refused(f"joins {left.type} and {right.type} by ||: cast one of them to text", at)
    if Type.JSON in types:
        raise Refused("uses || on json: take text from it with ->>, in parentheses", at)
    return strict(Type.TEXT, text.concatenated, printed(left), printed(right), at=at)


def arrow(sign: str, document: Compiled, place: Compiled, at: int) -> Compiled:
    """`document -> place`, or with ->> its text; the place is a key or an index. Raises Refused."""
    if document.type not in (Type.JSON, Type.NULL, Type.ANY) and not document.is_null:
        raise Refused(f"uses {sign} on {document.type}, which isn't json: cast it", at)
    document = coerced(document, Type.JSON)
    if Type.ANY in (document.type, place.type):
        return unknown(Type.JSON if sign == "->" else Type.TEXT, at)
    if place.type is Type.INTEGER:
        found = strict(Type.JSON, documents.element, document, place, at=at)
    else:
        found = strict(Type.JSON, documents.member, document, as_text(place, sign), at=at)
    return found if sign == "->" else strict(Type.TEXT, documents.plain_text, found, at=at)
