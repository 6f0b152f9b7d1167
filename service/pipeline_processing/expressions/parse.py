"""Text → tree, by a grammar of Postgres's expressions (src/backend/parser/scan.l, gram.y). Raises Refused."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from pipeline_processing.expressions import tree
from pipeline_processing.expressions.keywords import RESERVED
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.tree import Literal, Name, Node
from pipeline_processing.expressions.types import TYPE_LIST, TYPE_NAMES, Target, Type

MAX_LENGTH = 50_000
MAX_DEPTH = 100
MAX_PRECISION = 1000

_GRAMMAR = r"""
?expr: conj | conj (OR conj)+                          -> joined
?conj: negation | negation (AND negation)+                     -> joined
?negation: is | negated | range COMPARE negated        -> binary
negated: NOT negation
?is: postfix | postfix IS _not DISTINCT FROM comparison          -> distinct
?postfix: comparison | postfix (ISNULL | NOTNULL)           -> is_null
    | postfix IS _not (NULL | TRUE | FALSE | UNKNOWN)  -> is_truth
?comparison: range | range COMPARE range               -> binary
?range: other | other _not BETWEEN other AND other   -> between
    | other _not (LIKE | ILIKE) other                 -> like
    | other _not IN "(" items ")"                     -> within
?other: sum | other OTHER sum                          -> binary
?sum: product | sum SIGN product                       -> binary
?product: sign | product PRODUCT sign                  -> binary
?sign: cast | SIGN sign                                -> signed
?cast: atom | cast CONVERT type                        -> cast
?atom: "(" expr ")"
    | NUMBER                                           -> number
    | TEXT                                             -> text
    | (NULL | TRUE | FALSE)                            -> constant
    | (_name | QUOTED)                                  -> column
    | TYPE TEXT                                        -> typed
    | CAST "(" expr AS type ")"                        -> cast_as
    | CASE [expr] (WHEN expr THEN expr)+ [ELSE expr] END   -> case
    | (_name | LEFT | RIGHT) "(" [items] ")"            -> call
    | EXTRACT "(" (_name | TEXT) FROM expr ")"          -> extract
    | TRIM "(" [SIDE] trimmed ")"                      -> trim
    | SUBSTRING "(" expr "," items ")"                  -> call
    | SUBSTRING "(" expr [FROM expr] [FOR expr] ")"    -> substring
    | SUBSTRING "(" expr FOR expr FROM expr ")"        -> substring_for
trimmed: [expr] FROM items | items
items: expr ("," expr)*
type: TYPE ["(" NUMBER ["," [SIGN] NUMBER] ")"]
_not: [NOT]
_name: NAME | TYPE | UNKNOWN | BETWEEN | EXTRACT | TRIM | SUBSTRING

TYPE.2: /(?ai:%(types)s)(?![A-Za-z0-9_$\x80-\U0010ffff])/
NAME.1: /[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*/
NUMBER: /(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+(?![A-Za-z0-9_$.\x80-\U0010ffff])/
TEXT: /'[^'\0]*(?:''[^'\0]*)*'/
QUOTED: /"[^"\0]+(?:""[^"\0]*)*"/
CONVERT: "::"
COMPARE: /(?:<>|<=|>=|[<>=])%(ends)s|!=%(ends_alone)s/
OTHER: /->>?%(ends)s|\|\|%(ends_alone)s/
// A sign behind another one needn't look ahead: the first one has seen what is after all of them.
SIGN: /(?<=[-+])[-+]|[-+]%(ends)s/
PRODUCT: /[*\/]%(ends)s|%%%(ends_alone)s/
%%ignore /[ \t\n\r\f\v]+|--[^\n\r\0]*|%(comment)s/
%%declare %(words)s
"""
_WORDS = (
    "AND AS BETWEEN CASE CAST DISTINCT ELSE END EXTRACT FALSE FOR FROM ILIKE IN IS ISNULL LEFT LIKE NOT NOTNULL NULL"
    " OR RIGHT SIDE SUBSTRING THEN TRIM TRUE UNKNOWN WHEN"
)
_KINDS = {word.lower(): word for word in _WORDS.split() if word != "SIDE"}
_KINDS |= dict.fromkeys(("both", "leading", "trailing"), "SIDE")
_SIDES = {None: "btrim", "both": "btrim", "leading": "ltrim", "trailing": "rtrim"}
_CONSTANTS = {"true": True, "false": False, "null": None, "unknown": None}
_LOWER = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def folded(name: str) -> str:
    """A bare name in lower case: of ASCII letters only, as Postgres does in UTF-8."""
    return name.translate(_LOWER)


def _at(token: Token) -> int:
    return token.start_pos or 0


def _word(token: Token) -> Token:
    """A name as the word of SQL that it is."""
    kind = _KINDS.get(folded(token))
    if kind is None and folded(token) in RESERVED:
        raise Refused(
            f"uses {token}, a word of SQL: write it in double quotes if it is a column",
            _at(token),
            unsupported=True,
        )
    return Token.new_borrow_pos(kind or "NAME", token, token)


def _number(digits: str, at: int) -> int | Decimal:
    if digits.isdigit() and len(digits) <= 20:
        return int(digits) if int(digits) < 2**63 else Decimal(digits)
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise Refused("has a number that is too large", at) from None


@v_args(inline=True)
class _Tree(Transformer[Token, Node]):
    """Makes nodes of what the grammar's rules match."""

    def joined(self, first: Node, *rest: Any) -> Node:
        return tree.Joined(_at(rest[0]), rest[0].upper(), (first, *rest[1::2]))

    def negated(self, word: Token, operand: Node) -> Node:
        return tree.Negated(_at(word), operand)

    def distinct(self, left: Node, word: Token, negated: Token | None, _d: Token, _f: Token, right: Node) -> Node:
        return tree.IsDistinct(_at(word), left, right, negated is not None)

    def is_null(self, operand: Node, word: Token) -> Node:
        return tree.IsNull(_at(word), operand, word.type == "NOTNULL")

    def is_truth(self, operand: Node, word: Token, negated: Token | None, truth: Token) -> Node:
        if truth.type == "NULL":
            return tree.IsNull(_at(word), operand, negated is not None)
        return tree.IsTruth(_at(word), operand, _CONSTANTS[folded(truth)], negated is not None)

    def binary(self, left: Node, operator: Token, right: Node) -> Node:
        return tree.Binary(_at(operator), "<>" if operator == "!=" else str(operator), left, right)

    def between(self, operand: Node, negated: Token | None, word: Token, low: Node, _and: Token, high: Node) -> Node:
        return tree.Between(_at(negated or word), operand, low, high, negated is not None)

    def like(self, operand: Node, negated: Token | None, word: Token, pattern: Node) -> Node:
        return tree.Like(_at(negated or word), operand, pattern, word.type == "ILIKE", negated is not None)

    def within(self, operand: Node, negated: Token | None, word: Token, items: tuple[Node, ...]) -> Node:
        return tree.In(_at(negated or word), operand, items, negated is not None)

    def signed(self, operator: Token, operand: Node) -> Node:
        """As in Postgres, a minus before a number belongs to the number: so the smallest integer can be written."""
        at = _at(operator)
        if operator == "-" and isinstance(operand, Literal):
            number = operand.value
            if type(number) is int or (isinstance(number, Decimal) and str(number) == str(2**63)):
                return Literal(at, -int(number))
            if isinstance(number, Decimal):
                return Literal(at, number.copy_negate())
        return tree.Signed(at, str(operator), operand)

    def number(self, token: Token) -> Node:
        return Literal(_at(token), _number(token, _at(token)))

    def text(self, token: Token) -> Node:
        return Literal(_at(token), token[1:-1].replace("''", "'"))

    def constant(self, token: Token) -> Node:
        return Literal(_at(token), _CONSTANTS[folded(token)])

    def column(self, token: Token) -> Node:
        if token.type == "QUOTED":
            return Name(_at(token), token[1:-1].replace('""', '"'), quoted=True)
        return Name(_at(token), _bare(token), quoted=False)

    def typed(self, name: Token, text: Token) -> Node:
        return tree.Cast(_at(name), self.text(text), self.type(name, None, None, None))

    def cast(self, operand: Node, operator: Token, target: Target) -> Node:
        return tree.Cast(_at(operator), operand, target)

    def cast_as(self, word: Token, operand: Node, _as: Token, target: Target) -> Node:
        return tree.Cast(_at(word), operand, target)

    def case(self, word: Token, subject: Node | None, *parts: Any) -> Node:
        *whens, _else, default, _end = parts
        return tree.Case(_at(word), subject, tuple(whens[1::2]), default)

    def call(self, name: Token, *arguments: Any) -> Node:
        *first, rest = arguments
        function = "substr" if name.type == "SUBSTRING" else folded(_bare(name))
        return tree.Call(_at(name), function, (*first, *(rest or ())))

    def extract(self, name: Token, field: Token, _from: Token, operand: Node) -> Node:
        text = field[1:-1] if field.type == "TEXT" else str(field)
        return tree.Call(_at(name), "extract", (Literal(_at(field), text.lower()), operand))

    def trim(self, name: Token, side: Token | None, arguments: tuple[Node, ...]) -> Node:
        return tree.Call(_at(name), _SIDES[side and folded(side)], arguments)

    def trimmed(self, *parts: Any) -> tuple[Node, ...]:
        return parts[0] if len(parts) == 1 else (*parts[2], *parts[:1]) if parts[0] else parts[2]

    def substring(
        self, name: Token, text: Node, _f: Token | None, start: Node | None, _l: Token | None, length: Node | None
    ) -> Node:
        if length is None:
            return tree.Call(_at(name), "substr", (text, start) if start else (text,))
        return tree.Call(_at(name), "substr", (text, start or Literal(_at(name), 1), length))

    def substring_for(self, name: Token, text: Node, _l: Token, length: Node, _f: Token, start: Node) -> Node:
        return tree.Call(_at(name), "substr", (text, start, length))

    def items(self, *nodes: Node) -> tuple[Node, ...]:
        return nodes

    def type(self, name: Token, precision: Token | None, sign: Token | None, scale: Token | None) -> Target:
        """The name of a type, with the digits of a numeric."""
        type_ = TYPE_NAMES[" ".join(folded(name).split())]
        if precision is None:
            return Target(type_)
        if type_ is not Type.NUMBER:
            raise Refused(f"gives {name} a length, which only numeric has. There are {TYPE_LIST}", _at(name))
        if sign == "+" or not all(digits.isdigit() and len(digits) < 10 for digits in (precision, scale or "0")):
            raise Refused("has digits that are no whole number", _at(name))
        target = Target(type_, int(precision), int((sign or "") + (scale or "0")))
        if not 1 <= int(precision) <= MAX_PRECISION or abs(target.scale) > MAX_PRECISION:
            raise Refused(f"has a numeric of other than 1 to {MAX_PRECISION} digits", _at(name))
        return target


def _bare(name: Token) -> str:
    if re.search(r"[ \t\n\r\f\v]", name):
        raise Refused(f"has {str(name)!r} where something else belongs", _at(name))
    return str(name)


_COMMENT = "(?!)"
for _ in range(4):  # they nest
    _COMMENT = rf"\/\*(?:{_COMMENT}|(?!\/\*|\*\/)[^\0])*\*\/"
_OPERATORS = r"-+*\/<>=~!@#%^&|`?"
_PARSER = Lark(
    _GRAMMAR
    % {
        "types": "|".join(sorted(TYPE_NAMES, reverse=True)).replace(" ", r"[ \t\n\r\f\v]+"),
        "ends": rf"(?=[-+]*(?:\/\*|[^{_OPERATORS}]|$))",
        "ends_alone": rf"(?=\/\*|--|[^{_OPERATORS}]|$)",
        "words": _WORDS,
        "comment": _COMMENT,
    },
    parser="lalr",
    lexer="basic",
    start=["expr", "type"],
    maybe_placeholders=True,
    transformer=_Tree(),
    lexer_callbacks={"NAME": _word},
)


def parse(text: str) -> Node:
    """The tree of one expression."""
    node: Node = _parsed(text, "expr")
    if tree.height(node) > MAX_DEPTH:
        raise Refused(f"is more than {MAX_DEPTH} levels deep: split it over several steps", 0)
    return node


def parse_type(text: str) -> Target:
    """The type that a name of SQL stands for."""
    target: Target = _parsed(text, "type")
    return target


def _parsed(text: str, start: str) -> Any:
    if len(text) > MAX_LENGTH:
        raise Refused(f"has {len(text):,} characters, and may have {MAX_LENGTH:,}", 0)
    try:
        return _PARSER.parse(text, start=start)
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        if text[at : at + 1] in ("'", '"'):
            raise Refused(f"has a {text[at]} without another at its end", at) from None
        raise Refused(f"uses {_symbol(text, at)!r}, which isn't supported", at, unsupported=True) from None
    except UnexpectedToken as error:
        at = len(text) if error.token.type == "$END" else _at(error.token)
        found = f"has {str(error.token)!r}" if at < len(text) else "ends"
        if start == "type" or ("TYPE" in error.accepts and "NAME" not in error.accepts):
            raise Refused(f"{found} where a type belongs. There are {TYPE_LIST}", at) from None
        raise Refused(f"{found} where something else belongs", at, unsupported=True) from None


def _symbol(text: str, at: int) -> str:
    """The whole operator that stands there, or a character that is none."""
    found = re.compile(f"[{_OPERATORS}]+|.", re.DOTALL).match(text, at)
    return found.group() if found else ""
