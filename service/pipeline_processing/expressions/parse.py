"""Text → tree, with Postgres's precedence (src/backend/parser/gram.y). Raises Refused."""

from decimal import Decimal

from pipeline_processing.expressions import calls
from pipeline_processing.expressions.keywords import RESERVED
from pipeline_processing.expressions.reader import Reader
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.tokens import TokenKind, tokens_of
from pipeline_processing.expressions.tree import (
    Between,
    Binary,
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
    height,
)
from pipeline_processing.expressions.types import Target

MAX_DEPTH = 100
"""Parts of an expression one inside the other. Deeper ones could exhaust the stack, here or when they run."""

# What binds tighter has a higher number.
OR, AND, NOT, IS, COMPARISON, RANGE, OTHER, SUM, PRODUCT, SIGN, CAST = range(1, 12)

_COMPARISONS = {"=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LEVELS = {
    **dict.fromkeys(_COMPARISONS, COMPARISON),
    **dict.fromkeys(("||", "->", "->>"), OTHER),
    **dict.fromkeys("+-", SUM),
    **dict.fromkeys("*/%", PRODUCT),
    "::": CAST,
}
_RANGES = ("between", "in", "like", "ilike")
_WORD_LEVELS = {
    "or": OR,
    "and": AND,
    **dict.fromkeys(("is", "isnull", "notnull"), IS),
    **dict.fromkeys(_RANGES, RANGE),
}


def parse(text: str) -> Node:
    """The tree of one expression."""
    parser = _Parser(text)
    tree = parser.expression()
    parser.reader.expect_end()
    if height(tree) > MAX_DEPTH:
        raise Refused(f"is more than {MAX_DEPTH} levels deep: split it over several steps", 0)
    return tree


def parse_type(text: str) -> Target:
    """The type that a name of SQL stands for."""
    reader = Reader(tokens_of(text))
    target = reader.target()
    reader.expect_end()
    return target


class _Parser:
    """Climbs by precedence: an operator takes what is at its left as long as that binds tighter."""

    def __init__(self, text: str) -> None:
        self.reader = Reader(tokens_of(text))
        self._depth = 0

    def expression(self, least: int = OR) -> Node:
        """Up to the next operator that binds less tightly than `least`."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refused(f"is more than {MAX_DEPTH} levels deep: split it over several steps", self.reader.token.at)
        node = self._operand()
        taken = None
        while (level := self._level()) is not None and level >= least:
            if level == taken and level in (COMPARISON, RANGE):
                raise Refused("has two of these side by side: say in parentheses which comes first", self.reader.at)
            node = self._infix(node, level)
            taken = level
        self._depth -= 1
        return node

    # -- operands --------------------------------------------------------------------------------

    def _operand(self) -> Node:
        reader, token = self.reader, self.reader.token
        match token.kind:
            case TokenKind.NUMBER:
                reader.next()
                return Literal(token.at, _number(token.text))
            case TokenKind.TEXT:
                reader.next()
                return Literal(token.at, token.text)
            case TokenKind.QUOTED:
                reader.next()
                if reader.sees("("):
                    raise Refused("calls a function by a quoted name: write it without quotes", token.at)
                return Name(token.at, token.text, quoted=True)
            case TokenKind.NAME:
                return self._word()
        if reader.take("("):
            inner = self.expression()
            if reader.sees(","):
                raise Refused("has a list in parentheses, which only IN has", reader.at, unsupported=True)
            reader.expect(")")
            return inner
        if token.text in ("+", "-"):
            reader.next()
            return _signed(token.at, token.text, self.expression(SIGN))
        raise reader.unexpected()

    def _word(self) -> Node:
        reader, token = self.reader, self.reader.token
        match token.word:
            case "not":
                reader.next()
                return Negated(token.at, self.expression(IS))
            case "true" | "false":
                reader.next()
                return Literal(token.at, token.word == "true")
            case "null":
                reader.next()
                return Literal(token.at, None)
            case "case":
                reader.next()
                return self._case(token.at)
        if reader.ahead.text == "(" and reader.ahead.kind is TokenKind.SYMBOL:
            reader.next()
            return calls.call(reader, token, self.expression)
        if (target := reader.type_of_text()) is not None:
            literal = reader.next()
            return Cast(token.at, Literal(literal.at, literal.text), target)
        if token.word in RESERVED:
            raise Refused(
                f"uses {token.text}, a word of SQL: write it in double quotes if it is a column", token.at,
                unsupported=True,
            )  # fmt: skip
        reader.next()
        return Name(token.at, token.text, quoted=False)

    def _case(self, at: int) -> Node:
        reader = self.reader
        subject = None if reader.sees_word("when") else self.expression()
        whens: list[Node] = []
        while reader.take_word("when"):
            whens.append(self.expression())
            reader.expect_word("then")
            whens.append(self.expression())
        if not whens:
            raise Refused("has a CASE without WHEN", at)
        default = self.expression() if reader.take_word("else") else None
        reader.expect_word("end")
        return Case(at, subject, tuple(whens), default)

    # -- operators -------------------------------------------------------------------------------

    def _level(self) -> int | None:
        """How tightly the operator binds that comes next; None if none comes."""
        token = self.reader.token
        if token.kind is TokenKind.SYMBOL:
            return _LEVELS.get(token.text)
        if token.word == "not":
            return RANGE if self.reader.ahead.word in _RANGES else None
        return _WORD_LEVELS.get(token.word)

    def _infix(self, left: Node, level: int) -> Node:
        reader, token = self.reader, self.reader.next()
        match level:
            case 1 | 2:  # OR, AND: many are one node, as they can be very many
                terms = [left, self.expression(level + 1)]
                while reader.take_word(token.word):
                    terms.append(self.expression(level + 1))
                return Joined(token.at, token.word.upper(), tuple(terms))
            case 4:
                return self._is(left, token.word, token.at)
            case 6:
                return self._range(left, token.word, token.at)
            case 11:
                return Cast(token.at, left, reader.target())
        operator = _COMPARISONS.get(token.text, token.text)
        return Binary(token.at, operator, left, self.expression(level + 1))

    def _is(self, left: Node, word: str, at: int) -> Node:
        reader = self.reader
        if word != "is":
            return IsNull(at, left, negated=word == "notnull")
        negated = reader.take_word("not")
        if reader.take_word("null"):
            return IsNull(at, left, negated)
        if reader.take_word("distinct"):
            reader.expect_word("from")
            right = self.expression(IS + 1)
            if self._level() == IS:
                raise Refused("has two of these side by side: say in parentheses which comes first", reader.at)
            return IsDistinct(at, left, right, negated)
        for truth in (True, False, None):
            if reader.take_word("unknown" if truth is None else str(truth).lower()):
                return IsTruth(at, left, truth, negated)
        raise reader.unexpected("NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM")

    def _range(self, left: Node, word: str, at: int) -> Node:
        reader = self.reader
        if negated := word == "not":
            word = reader.next().word
        match word:
            case "between":
                low = self.expression(RANGE + 1)
                reader.expect_word("and")
                return Between(at, left, low, self.expression(RANGE + 1), negated)
            case "in":
                reader.expect("(")
                return In(at, left, reader.until_closed(self.expression), negated)
        pattern = self.expression(RANGE + 1)
        if reader.sees_word("escape"):
            raise Refused("uses ESCAPE; the escape character is \\", reader.at, unsupported=True)
        return Like(at, left, pattern, word == "ilike", negated)


def _number(digits: str) -> int | Decimal:
    if digits.isdigit() and len(digits) <= 20:
        return int(digits) if int(digits) < 2**63 else Decimal(digits)
    return Decimal(digits)


def _signed(at: int, operator: str, operand: Node) -> Node:
    """As in Postgres, a minus before a number belongs to the number: so the smallest integer can be written."""
    if operator == "-" and isinstance(operand, Literal):
        number = operand.value
        if type(number) is int or (isinstance(number, Decimal) and str(number) == str(2**63)):
            return Literal(at, -int(number))
        if isinstance(number, Decimal):
            return Literal(at, number.copy_negate())
    return Signed(at, operator, operand)
