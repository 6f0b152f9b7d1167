"""
Text → tree, with Postgres's operator precedence (src/backend/parser/gram.y). Raises Refused.

It is a precedence-climbing parser: `_LEVELS` has the precedence of each operator; higher ones bind tighter.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TypeVar

from pipeline_processing.expressions.tokens import Token, folded, token_at
from pipeline_processing.expressions.tree import Call, Cast, Literal, Name, Node, height
from pipeline_processing.expressions.types import TYPE_LIST, TYPE_NAMES, Refused, Target, Type

MAX_LENGTH = 50_000
MAX_DEPTH = 100
MAX_PRECISION = 1000

T = TypeVar("T")

_OR, _AND, _NOT, _IS, _COMPARE, _RANGE, _OTHER, _SIGN, _PRODUCT, _UNARY, _CONVERT = range(11)
_LEVELS = {
    "OR": _OR,
    "AND": _AND,
    **dict.fromkeys(("IS", "ISNULL", "NOTNULL"), _IS),
    "COMPARE": _COMPARE,
    **dict.fromkeys(("NOT", "BETWEEN", "IN", "LIKE", "ILIKE"), _RANGE),
    "OTHER": _OTHER,
    "SIGN": _SIGN,
    "PRODUCT": _PRODUCT,
    "CONVERT": _CONVERT,
}
_A_TYPE = f"a type is expected. Supported types: {TYPE_LIST}"
_SOMETHING = "something else is expected"
_SHOWN = ("(", ")", "AND", "AS", "END", "FROM", "THEN", "WHEN")
_ALSO_NAMES = ("NAME", "TYPE", "UNKNOWN", "BETWEEN", "EXTRACT", "TRIM", "SUBSTRING")
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None}
_SIDES = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}
_FIELDS = ("year", "month", "day")
_ALIASES = {"mod": "%", "ceiling": "ceil", **dict.fromkeys(("char_length", "character_length"), "length")}


@lru_cache(maxsize=256)
def parse(text: str) -> Node:
    """Parse one expression."""
    parser = _Parser(text)
    try:
        node = parser.whole(parser.expression)
        depth = height(node)
    except RecursionError:
        depth = MAX_DEPTH + 1
    if depth > MAX_DEPTH:
        raise Refused(f"is more than {MAX_DEPTH} levels deep: split it over several steps", 0)
    return node


def parse_type(text: str) -> Target:
    """Parse the name of a SQL type."""
    parser = _Parser(text, wanted=_A_TYPE)
    return parser.whole(parser.type)


class _Parser:
    """Parses one text, with one token of lookahead."""

    def __init__(self, text: str, wanted: str = "") -> None:
        """`wanted` says what is expected wherever something else stands."""
        if len(text) > MAX_LENGTH:
            raise Refused(f"has {len(text):,} characters, and may have {MAX_LENGTH:,}", 0)
        self._text = text
        self._token = token_at(text, 0)
        self._wanted = wanted

    # -- tokens ----------------------------------------------------------------------------------

    def _take(self, *kinds: str) -> Token:
        """Consume the next token, which must be of one of these kinds."""
        token = self._token
        if token.kind not in kinds:
            raise self._unexpected(self._wanted or _expected(kinds))
        self._token = token_at(self._text, token.at + len(token.text))
        return token

    def _took(self, *kinds: str) -> bool:
        """Consume the next token if it is of one of these kinds."""
        if self._token.kind not in kinds:
            return False
        self._take(*kinds)
        return True

    def _unexpected(self, wanted: str) -> Refused:
        token = self._token
        found = "ends" if not token.kind else f"has {token.text!r}"
        return Refused(f"{found} where {wanted}", token.at, unsupported=wanted == _SOMETHING)

    def whole(self, read: Callable[[], T]) -> T:
        """Call `read`, which must consume the whole text."""
        found = read()
        self._take("")
        return found

    # -- operators -------------------------------------------------------------------------------

    def expression(self, least: int = _OR) -> Node:
        """Parse an expression whose operators have at least the precedence `least`."""
        token, most = self._token, _CONVERT
        left: Node
        if token.kind == "NOT" and least <= _NOT:
            self._take("NOT")
            left, most = Call(token.at, "NOT", (self.expression(_NOT),)), _AND
        elif token.kind == "SIGN":
            self._take("SIGN")
            left, most = _signed(token, self.expression(_UNARY)), _PRODUCT
        else:
            left = self._atom()
        while least <= (level := _LEVELS.get(self._token.kind, -1)) <= most:
            left, most = self._operator(left, self._take(self._token.kind), level, least)
        return left

    def _operator(self, left: Node, token: Token, level: int, least: int) -> tuple[Node, int]:
        """Parse the rest of an operator. Return its node, and the highest precedence of an operator that may follow."""
        at = token.at
        match token.kind:
            case "AND" | "OR":
                terms = [left, self.expression(level + 1)]
                while self._took(token.kind):
                    terms.append(self.expression(level + 1))
                return Call(at, token.kind, tuple(terms)), level
            case "ISNULL" | "NOTNULL":
                return Call(at, "IS NULL" if token.kind == "ISNULL" else "IS NOT NULL", (left,)), level
            case "IS":
                name = "IS NOT" if self._took("NOT") else "IS"
                truth = self._take("NULL", "TRUE", "FALSE", "UNKNOWN", "DISTINCT").kind
                if truth != "DISTINCT":
                    return Call(at, f"{name} {truth}", (left,)), level
                self._take("FROM")
                return Call(at, f"{name} DISTINCT FROM", (left, self.expression(_COMPARE))), level - 1
            case "COMPARE":
                name = "<>" if token.text == "!=" else token.text
                if self._token.kind == "NOT" and least <= _NOT:
                    return Call(at, name, (left, self.expression(_NOT))), _AND
                return Call(at, name, (left, self.expression(_RANGE))), level - 1
            case "CONVERT":
                return Cast(at, left, self.type()), level
            case "OTHER" | "SIGN" | "PRODUCT":
                return Call(at, token.text, (left, self.expression(level + 1))), level
        name, kind = token.kind, token.kind
        if name == "NOT":
            kind = self._take("BETWEEN", "IN", "LIKE", "ILIKE").kind
            name = f"NOT {kind}"
        if kind == "IN":
            self._take("(")
            operands: tuple[Node, ...] = (left, *self._items())
            self._take(")")
        else:
            operands = (left, self.expression(_OTHER))
        if kind == "BETWEEN":
            self._take("AND")
            operands = (*operands, self.expression(_OTHER))
        return Call(at, name, operands), level - 1

    # -- atoms -----------------------------------------------------------------------------------

    def _atom(self) -> Node:
        token = self._take(*_ATOMS)
        at = token.at
        match token.kind:
            case "(":
                inner = self.expression()
                self._take(")")
                return inner
            case "NUMBER":
                return Literal(at, _number(token.text, at))
            case "TEXT":
                return Literal(at, _unquoted(token.text))
            case "NULL" | "TRUE" | "FALSE":
                return Literal(at, _CONSTANTS[token.kind])
            case "QUOTED":
                return Name(at, _unquoted(token.text), quoted=True)
            case "CASE":
                return self._case(at)
            case "CAST":
                return self._cast(at)
            case "TYPE" if self._token.kind == "TEXT":
                return Cast(at, self._atom(), Target(_type_named(token.text)))
        if self._token.kind == "(" or token.kind in ("LEFT", "RIGHT"):
            return self._call(token)
        return Name(at, _bare(token), quoted=False)

    def _items(self) -> tuple[Node, ...]:
        items = [self.expression()]
        while self._took(","):
            items.append(self.expression())
        return tuple(items)

    def _case(self, at: int) -> Node:
        parts = [] if self._token.kind == "WHEN" else [self.expression()]
        name = "CASE OF" if parts else "CASE"
        while self._token.kind == "WHEN" or len(parts) < 2:
            self._take("WHEN")
            parts.append(self.expression())
            self._take("THEN")
            parts.append(self.expression())
        parts.append(self.expression() if self._took("ELSE") else Literal(at, None))
        self._take("END")
        return Call(at, name, tuple(parts))

    def _cast(self, at: int) -> Node:
        self._take("(")
        operand = self.expression()
        self._take("AS")
        target = self.type()
        self._take(")")
        return Cast(at, operand, target)

    def _call(self, name: Token) -> Node:
        self._take("(")
        function = folded(_bare(name))
        arguments: tuple[Node, ...] = ()
        match name.kind:
            case "EXTRACT":
                function, arguments = self._extract()
            case "TRIM":
                function, arguments = self._trim()
            case "SUBSTRING":
                arguments = self._substring(name.at)
                function = "substr"
            case _ if self._token.kind != ")":
                arguments = self._items()
        self._take(")")
        return Call(name.at, _ALIASES.get(function, function), arguments)

    def _extract(self) -> tuple[str, tuple[Node, ...]]:
        token = self._take("TEXT", *_ALSO_NAMES)
        field = (_unquoted(token.text) if token.kind == "TEXT" else token.text).lower()
        self._take("FROM")
        moment = self.expression()
        if field not in _FIELDS:
            raise Refused(f"extracts {field!r}. Supported fields: {', '.join(_FIELDS)}", token.at)
        return f"extract {field}", (moment,)

    def _trim(self) -> tuple[str, tuple[Node, ...]]:
        function = _SIDES[self._take(*_SIDES).kind] if self._token.kind in _SIDES else "btrim"
        characters = () if self._token.kind == "FROM" else self._items()
        if len(characters) > 1 or not self._took("FROM"):
            return function, characters
        return function, (*self._items(), *characters)

    def _substring(self, at: int) -> tuple[Node, ...]:
        text = self.expression()
        if self._took(","):
            return (text, *self._items())
        if self._took("FOR"):
            length = self.expression()
            start = self.expression() if self._took("FROM") else Literal(at, 1)
            return text, start, length
        if not self._took("FROM"):
            return (text,)
        start = self.expression()
        return (text, start, self.expression()) if self._took("FOR") else (text, start)

    # -- types -----------------------------------------------------------------------------------

    def type(self) -> Target:
        """Parse the name of a type, with the precision and scale of a numeric."""
        if self._token.kind != "TYPE":
            raise self._unexpected(_A_TYPE)
        name = self._take("TYPE")
        type_ = _type_named(name.text)
        if not self._took("("):
            return Target(type_)
        digits, sign, scale = self._take("NUMBER").text, "", "0"
        if self._took(","):
            sign = self._take("SIGN").text if self._token.kind == "SIGN" else ""
            scale = self._take("NUMBER").text
        self._take(")")
        if type_ is not Type.NUMBER:
            raise Refused(f"gives {name.text} a length, which only numeric has. Supported types: {TYPE_LIST}", name.at)
        if sign == "+" or not all(each.isdigit() and len(each) < 10 for each in (digits, scale)):
            raise Refused("has a precision or scale that isn't a whole number", name.at)
        target = Target(type_, int(digits), int(sign + scale))
        if not 1 <= int(digits) <= MAX_PRECISION or abs(target.scale) > MAX_PRECISION:
            raise Refused(f"has a numeric of other than 1 to {MAX_PRECISION} digits", name.at)
        return target


_ATOMS = ("(", "NUMBER", "TEXT", "QUOTED", *_CONSTANTS, "CASE", "CAST", "LEFT", "RIGHT", *_ALSO_NAMES)


def _expected(kinds: Sequence[str]) -> str:
    """Say what is expected, if not tokens of these kinds."""
    if kinds == ("",):
        return "the end or another operator is expected"
    if kinds == _ATOMS:
        return "a value is expected"
    return f"`{kinds[0]}` is expected" if len(kinds) == 1 and kinds[0] in _SHOWN else _SOMETHING


def _signed(sign: Token, operand: Node) -> Node:
    """As in Postgres, a minus before a number is part of it, so that the smallest integer can be written."""
    if sign.text == "-" and isinstance(operand, Literal):
        number = operand.value
        if type(number) is int or (isinstance(number, Decimal) and str(number) == str(2**63)):
            return Literal(sign.at, -int(number))
        if isinstance(number, Decimal):
            return Literal(sign.at, number.copy_negate())
    return Call(sign.at, sign.text, (operand,))


def _number(digits: str, at: int) -> int | Decimal:
    if digits.isdigit() and len(digits) <= 20:
        return int(digits) if int(digits) < 2**63 else Decimal(digits)
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise Refused("has a number that is too large", at) from None


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _type_named(name: str) -> Type:
    return TYPE_NAMES[" ".join(folded(name).split())]


def _bare(name: Token) -> str:
    if re.search(r"[ \t\n\r\f\v]", name.text):
        raise Refused(f"has {name.text!r} where something else is expected", name.at)
    return name.text
