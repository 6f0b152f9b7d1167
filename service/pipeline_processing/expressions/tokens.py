"""
The tokens of an expression, by the rules of Postgres's lexer (src/backend/parser/scan.l).

What the lexer has besides (escapes in strings, dollar quotes, bit strings, parameters, …) is refused here, so that it
can't be taken for something else further on.
"""

import re
from dataclasses import dataclass
from enum import Enum

from pipeline_processing.expressions.refusals import Refused

MAX_LENGTH = 50_000
"""Characters of the longest expression: room for a list of a thousand uuids."""


class TokenKind(Enum):
    NAME = "name"
    QUOTED = "quoted name"
    TEXT = "text"
    NUMBER = "number"
    SYMBOL = "symbol"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is what it says: a name or text without its quotes, anything else as written."""

    kind: TokenKind
    text: str
    at: int

    @property
    def word(self) -> str:
        """A bare name as SQL folds it; empty for anything else, so that `"and"` isn't AND."""
        return folded(self.text) if self.kind is TokenKind.NAME else ""


def folded(name: str) -> str:
    """A bare name in lower case: of ASCII letters only, as Postgres does in UTF-8."""
    return name.translate(_LOWER)


_LOWER = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\n\r\f\v]+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<name> [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<number> (?: [0-9]+ \.? [0-9]* | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? )
    | (?P<text> '[^']*(?:''[^']*)*' )
    | (?P<quoted> "[^"]*(?:""[^"]*)*" )
    | (?P<symbol> :: | [(),] )
    | (?P<operator> [-+*/<>=~!@#%^&|`?]+ )
    """,
    re.VERBOSE,
)
_OPERATOR_ENDS = re.compile(r"--|/\*")
_MAY_END_IN_SIGN = re.compile(r"[~!@#%^&|`?]")
_AFTER_NUMBER = re.compile(r"[A-Za-z0-9_$.\x80-\U0010ffff]")
_STRING_PREFIXES = {
    "e": "Text with backslash escapes",
    "b": "A bit string",
    "x": "A bit string",
    "n": "Text of type nchar",
}


def tokens_of(text: str) -> list[Token]:
    """All tokens, the last one of kind END. Raises Refused."""
    if len(text) > MAX_LENGTH:
        raise Refused(f"has {len(text):,} characters, and may have {MAX_LENGTH:,}", 0)
    if "\0" in text:
        raise Refused("has a NUL character in it", text.index("\0"))
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unknown(text, at)
        end = match.end()
        match match.lastgroup:
            case "space":
                pass
            case "comment":
                end = _comment_end(text, at)
            case "name":
                _check_no_prefix(text, match.group(), end)
                tokens.append(Token(TokenKind.NAME, match.group(), at))
            case "number":
                if _AFTER_NUMBER.match(text, end):
                    raise Refused("has a number that goes on with what doesn't belong to it", at)
                tokens.append(Token(TokenKind.NUMBER, match.group(), at))
            case "text":
                tokens.append(Token(TokenKind.TEXT, match.group()[1:-1].replace("''", "'"), at))
            case "quoted":
                if end - at == 2:
                    raise Refused("has a quoted name without a character in it", at)
                tokens.append(Token(TokenKind.QUOTED, match.group()[1:-1].replace('""', '"'), at))
            case "symbol":
                tokens.append(Token(TokenKind.SYMBOL, match.group(), at))
            case _:
                operator = _operator(match.group())
                end = at + len(operator)
                tokens.append(Token(TokenKind.SYMBOL, operator, at))
        at = end
    return [*tokens, Token(TokenKind.END, "", len(text))]


def _operator(run: str) -> str:
    """The operator at the start of a run of its characters: it ends before a comment, and seldom in a sign."""
    comment = _OPERATOR_ENDS.search(run)
    operator = run[: comment.start()] if comment else run
    if len(operator) > 1 and operator[-1] in "+-" and not _MAY_END_IN_SIGN.search(operator[:-1]):
        operator = operator.rstrip("+-") or operator[0]
    return operator


def _comment_end(text: str, start: int) -> int:
    """Comments nest."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if mark.group() == "/*" else -1
        if not depth:
            return mark.end()
    raise Refused("has a comment that doesn't end", start)


def _check_no_prefix(text: str, name: str, end: int) -> None:
    start = end - len(name)
    if text[end : end + 1] == "'" and (what := _STRING_PREFIXES.get(name.lower())):
        raise Refused(f"uses {name}'…'. {what} isn't supported: write it in plain single quotes", start)
    if name in ("u", "U") and text[end : end + 2] in ("&'", '&"'):
        raise Refused(f"uses {name}{text[end : end + 2]}. Write the characters themselves", start)


def _unknown(text: str, at: int) -> Refused:
    match text[at]:
        case "'":
            return Refused("has text whose closing quote is missing", at)
        case '"':
            return Refused("has a quoted name whose closing quote is missing", at)
        case "$":
            return Refused("uses '$', and has neither parameters nor dollar quotes: write text in single quotes", at)
        case ";":
            return Refused("goes on after ';', but is one expression and no statement", at)
        case ".":
            return Refused("uses '.', but columns have no table, and functions no schema", at)
        case character:
            return Refused(f"uses {character!r}, which isn't supported", at, unsupported=True)
