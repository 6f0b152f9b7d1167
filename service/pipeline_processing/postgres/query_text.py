"""
The text of a query, cut into tokens by Postgres's lexical rules (src/backend/parser/scan.l).

They tell text, names and comments from parameters, not whether the query is valid. Only Postgres knows that.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_STARTS_NAME = r"[^\0-@\[-^`{-\x7f]"  # a letter, an underscore, or beyond ASCII
_IN_TAG = r"[^\0-/:-@\[-^`{-\x7f]"  # a digit too
_IN_NAME = r"[^\0-#%-/:-@\[-^`{-\x7f]"  # a dollar too
_ESCAPED = r"'(?:[^'\\]|\\.|'')*+'"
_GOES_ON = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+"  # a text, in another line
_TOKEN = re.compile(
    rf"""(?P<SPACE>[ \t\n\r\f\v]+|--[^\n\r]*)
    |(?P<COMMENT>/\*)
    |(?P<TEXT>[eE]{_ESCAPED}(?:{_GOES_ON}{_ESCAPED})*|(?:[bBnNxX]|[uU]&)?'(?:[^']|'')*+')
    |(?P<QUOTED>(?:[uU]&)?"(?:[^"]|"")*+")
    |(?P<PLACEHOLDER>\$[0-9]{{1,9}}(?![0-9]))
    |(?P<DOLLARS>\$(?:{_STARTS_NAME}{_IN_TAG}*)?\$)
    |(?P<WORD>(?![bBeEnNxX]'|[uU]&['"]){_STARTS_NAME}{_IN_NAME}*)
    |(?P<NUMBER>\.?[0-9][0-9A-Za-z_.]*)
    |(?P<SYMBOL>[^'"\0A-Za-z])""".replace("\n    |", "|"),
    re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


class Token(NamedTuple):
    """A token at `query[start:end]`."""

    kind: str
    """TEXT, QUOTED, PLACEHOLDER, WORD, NUMBER, or SYMBOL: one character of an operator or of punctuation."""
    text: str
    start: int
    end: int


class Placeholder(NamedTuple):
    """A parameter's place in a query's text: `query[start:end]` is `$number`."""

    number: int
    start: int
    end: int


class EndlessToken(ValueError):
    """A text, a name or a comment has no end. `at` is where it starts."""

    def __init__(self, at: int) -> None:
        super().__init__(f"no end of what starts at {at}")
        self.at = at


def cut(query: str) -> Sequence[Token]:
    """Return the tokens, without spaces and comments. Raises EndlessToken."""
    tokens = []
    at = 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            raise EndlessToken(at)
        kind, start, at = match.lastgroup or "", at, match.end()
        if kind == "COMMENT":
            at = _after_comment(query, start, at)
        elif kind == "DOLLARS":
            if (closing := query.find(match.group(), at)) < 0:
                raise EndlessToken(start)
            at = closing + len(match.group())
            tokens.append(Token("TEXT", query[start:at], start, at))
        elif kind != "SPACE":
            tokens.append(Token(kind, match.group(), start, at))
    return tokens


def tokens_of(query: str) -> Sequence[Token] | None:
    """Return the tokens, without spaces and comments; None if a text, a name or a comment has no end."""
    try:
        return cut(query)
    except EndlessToken:
        return None


def placeholders_in(query: str) -> Sequence[Placeholder] | None:
    """Return the places of the placeholders $1, $2, …, in order; None if the query can't be cut into tokens."""
    tokens = tokens_of(query)
    if tokens is None:
        return None
    return [Placeholder(int(text[1:]), start, end) for kind, text, start, end in tokens if kind == "PLACEHOLDER"]


def without_semicolon(query: str) -> str:
    """Strip trailing semicolons, which a subquery can't have. What can't be cut into tokens stays as it is."""
    tokens = list(tokens_of(query) or ())
    while tokens and tokens[-1].text == ";":
        query = query[: tokens.pop().start]
    return query


def _after_comment(query: str, start: int, at: int) -> int:
    """Return the position after a comment that starts at `start`, and whose text begins at `at`. Comments nest."""
    depth = 1
    for mark in _COMMENT.finditer(query, at):
        depth += 1 if mark.group() == "/*" else -1
        if not depth:
            return mark.end()
    raise EndlessToken(start)
