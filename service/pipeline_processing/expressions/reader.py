"""Takes the tokens of an expression one after the other."""

from collections.abc import Callable, Sequence

from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.tokens import Token, TokenKind
from pipeline_processing.expressions.tree import Node
from pipeline_processing.expressions.types import TYPE_LIST, TYPE_NAMES, Target, Type

_FIRST_WORDS = {
    "double": ("precision",),
    "character": ("varying",),
    "timestamp": ("with", "without"),
}
"""Names of types that may have more than one word, and the second one."""

MAX_PRECISION = 1000

_KNOWN_SYMBOLS = {*"(),=<>+-*/%", "::", "<>", "!=", "<=", ">=", "||", "->", "->>"}


class Reader:
    """`token` is the one that comes next."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._place]

    @property
    def ahead(self) -> Token:
        """The token after the next."""
        return self._tokens[min(self._place + 1, len(self._tokens) - 1)]

    @property
    def at(self) -> int:
        return self.token.at

    def next(self) -> Token:
        token = self.token
        self._place = min(self._place + 1, len(self._tokens) - 1)
        return token

    # -- symbols and words -----------------------------------------------------------------------

    def sees(self, symbol: str) -> bool:
        return self.token.kind is TokenKind.SYMBOL and self.token.text == symbol

    def take(self, symbol: str) -> bool:
        """Whether that symbol comes next; if so, it is taken."""
        if seen := self.sees(symbol):
            self.next()
        return seen

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.unexpected(repr(symbol))

    def sees_word(self, *words: str) -> bool:
        return self.token.word in words

    def take_word(self, word: str) -> bool:
        """Whether that bare word comes next; if so, it is taken."""
        if seen := self.sees_word(word):
            self.next()
        return seen

    def expect_word(self, word: str) -> None:
        if not self.take_word(word):
            raise self.unexpected(word.upper())

    def expect_end(self) -> None:
        if self.token.kind is not TokenKind.END:
            raise self.unexpected()

    def unexpected(self, wanted: str = "") -> Refused:
        """The error where something else has to come."""
        token = self.token
        if token.kind is TokenKind.SYMBOL and not wanted and token.text not in _KNOWN_SYMBOLS:
            return Refused(f"uses {token.text!r}, which isn't supported", token.at, unsupported=True)
        what = "ends" if token.kind is TokenKind.END else f"has {token.text!r}"
        return Refused(f"{what} where {wanted or 'something else'} belongs", token.at, unsupported=not wanted)

    def until_closed(self, expression: Callable[[], Node]) -> tuple[Node, ...]:
        """One or more expressions with commas between them, and the parenthesis that closes them."""
        nodes = [expression()]
        while self.take(","):
            nodes.append(expression())
        self.expect(")")
        return tuple(nodes)

    # -- types -----------------------------------------------------------------------------------

    def type_of_text(self) -> Target | None:
        """The type of text that comes right after it, as in DATE '2026-01-18'; None where that isn't what comes."""
        start = self._place
        second = _FIRST_WORDS.get(self.token.word, ())
        if self.ahead.kind is not TokenKind.TEXT and self.ahead.word not in second:
            return None
        target = self.target()
        if self.token.kind is TokenKind.TEXT:
            return target
        self._place = start
        return None

    def target(self) -> Target:
        """The name of a type, with the digits of a numeric."""
        at, name = self.at, self._type_name()
        if (type_ := TYPE_NAMES.get(name)) is None:
            raise Refused(f"uses the type {name or self.token.text!r}. There are {TYPE_LIST}", at)
        if not self.take("("):
            return Target(type_)
        if type_ is not Type.NUMBER:
            raise Refused(f"gives {name} a length, which only numeric has. There are {TYPE_LIST}", at)
        precision = self._whole_number()
        scale = self._whole_number() if self.take(",") else 0
        self.expect(")")
        if not 1 <= precision <= MAX_PRECISION or not -MAX_PRECISION <= scale <= MAX_PRECISION:
            raise Refused(f"has a numeric of other than 1 to {MAX_PRECISION} digits", at)
        return Target(type_, precision, scale)

    def _type_name(self) -> str:
        first = self.token.word
        if not first:
            return ""
        self.next()
        if not self.sees_word(*_FIRST_WORDS.get(first, ())):
            return first
        words = [first, self.next().word]
        if words[1] in ("with", "without"):
            words += [self.next().word, self.next().word]
        return " ".join(words)

    def _whole_number(self) -> int:
        sign = -1 if self.take("-") else 1
        if self.token.kind is not TokenKind.NUMBER or not self.token.text.isdigit() or len(self.token.text) > 9:
            raise self.unexpected("a whole number")
        return sign * int(self.next().text)
