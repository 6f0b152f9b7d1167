"""Functions, and what Postgres's grammar has instead: CAST(… AS …), EXTRACT(… FROM …), TRIM and SUBSTRING."""

from collections.abc import Callable

from pipeline_processing.expressions.reader import Reader
from pipeline_processing.expressions.tokens import Token, TokenKind
from pipeline_processing.expressions.tree import Call, Cast, Literal, Node

Expression = Callable[[], Node]

_SIDES = {"both": "btrim", "leading": "ltrim", "trailing": "rtrim"}


def call(reader: Reader, name: Token, expression: Expression) -> Node:
    """The call whose name has been taken, and whose parenthesis comes next."""
    reader.expect("(")
    match name.word:
        case "cast":
            operand = expression()
            reader.expect_word("as")
            target = reader.target()
            reader.expect(")")
            return Cast(name.at, operand, target)
        case "extract":
            return _extract(reader, name, expression)
        case "trim":
            return _trim(reader, name, expression)
        case "substring":
            return _substring(reader, name, expression)
    if reader.take(")"):
        return Call(name.at, name.word, ())
    return Call(name.at, name.word, reader.until_closed(expression))


def _extract(reader: Reader, name: Token, expression: Expression) -> Node:
    field = reader.token
    if field.kind not in (TokenKind.NAME, TokenKind.TEXT):
        raise reader.unexpected("a field of a date")
    reader.next()
    reader.expect_word("from")
    operand = expression()
    reader.expect(")")
    return Call(name.at, "extract", (Literal(field.at, field.text.lower()), operand))


def _trim(reader: Reader, name: Token, expression: Expression) -> Node:
    """TRIM([LEADING | TRAILING | BOTH] [characters] FROM text), or TRIM([side] text [, characters])."""
    function = "btrim"
    if reader.sees_word(*_SIDES):
        function = _SIDES[reader.next().word]
    if reader.take_word("from"):
        return Call(name.at, function, reader.until_closed(expression))
    first = expression()
    if reader.take_word("from"):
        return Call(name.at, function, (*reader.until_closed(expression), first))
    rest = reader.until_closed(expression) if reader.take(",") else ()
    if not rest:
        reader.expect(")")
    return Call(name.at, function, (first, *rest))


def _substring(reader: Reader, name: Token, expression: Expression) -> Node:
    """SUBSTRING(text FROM start FOR length), either left out or the other way round, or with commas."""
    arguments = [expression()]
    given: dict[str, Node] = {}
    while reader.sees_word("from", "for") and reader.token.word not in given:
        word = reader.next().word
        given[word] = expression()
    if given:
        reader.expect(")")
        arguments.append(given.get("from") or Literal(name.at, 1))
        arguments += [given["for"]] if "for" in given else []
        return Call(name.at, "substr", tuple(arguments))
    if reader.take(","):
        arguments += reader.until_closed(expression)
    else:
        reader.expect(")")
    return Call(name.at, "substr", tuple(arguments))
