"""
Analyses a query's text without a server: finds its parameters, and as many column names as it can, to check steps.

Only certain names count: an item whose name Postgres would have to derive (a function, a cast, `*`) makes the columns
incomplete.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import sqlglot
from sqlglot import Expr, Token, TokenType, exp

from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, unknown

_MAX_NAME_BYTES = 63
_PLACEHOLDER = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|(\$\d+)""", re.DOTALL)
"""Quoted text, a comment, or (as a group) a placeholder."""
_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Postgres folds only ASCII letters."""
_STARTS = (TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN)


def names_of_query(query: str) -> Columns:
    """
    Return the query's columns, in order if they are complete. Their types are unknown.

    Never raises. Text that can't be parsed, or isn't a single query, has unknown columns.
    """
    try:
        names = _names(query)
    except Exception:  # any error of the parser: Postgres will report what is wrong
        return UNKNOWN_COLUMNS
    known = [name for name in names if name is not None]
    if not known or len(set(known)) < len(known):  # the source will reject the query
        return UNKNOWN_COLUMNS
    listed = tuple(unknown(name) for name in known)
    return Columns(listed, complete=len(known) == len(names))


def placeholders_of_query(query: str) -> frozenset[int] | None:
    """Return the numbers of the placeholders $1, $2, …; None if the query can't be parsed."""
    found = placeholders_in(query)
    return None if found is None else frozenset(placeholder.number for placeholder in found)


class Placeholder(NamedTuple):
    """A parameter's place in a query's text: `query[start:end]` is `$number`."""

    number: int
    start: int
    end: int


def placeholders_in(query: str) -> Sequence[Placeholder] | None:
    """
    Find the placeholders $1, $2, …, in order; None if the query can't be parsed.

    This is a tokeniser's opinion: only Postgres knows what is a placeholder, and what is text.
    """
    # Add a space, because sqlglot takes `$1,$` for the start of a dollar quote.
    ends = [found.end() for found in _PLACEHOLDER.finditer(query) if found[1]]
    spaced = " ".join(query[start:end] for start, end in pairwise([0, *ends, len(query)]))
    try:
        tokens = sqlglot.tokenize(spaced, read="postgres")
    except Exception:  # any error of the tokeniser
        return None
    if any(token.token_type is TokenType.COMMAND for token in tokens):
        return None  # sqlglot tokenises only its first word
    placeholders = []
    spaces_before = 0
    for dollar, number in pairwise(tokens):
        if (
            dollar.token_type is not TokenType.PARAMETER
            or spaced[dollar.start : dollar.end + 1] != "$"
            or number.start != dollar.end + 1
            or not number.text.isdecimal()
        ):
            continue
        while spaces_before < len(ends) and ends[spaces_before] + spaces_before <= dollar.start:
            spaces_before += 1
        start = dollar.start - spaces_before
        placeholders.append(Placeholder(int(number.text), start, number.end + 1 - spaces_before))
    return placeholders


def without_placeholders(query: str) -> str:
    """Replace $1, $2, … by numbers of the same length, because sqlglot may take them for dollar quotes."""
    return _PLACEHOLDER.sub(lambda found: "1" * len(found[0]) if found[1] else found[0], query)


def _names(query: str) -> Sequence[str | None]:
    query = without_placeholders(query)
    tokens = sqlglot.tokenize(query, read="postgres")
    # Other statements return rows too, but sqlglot logs warnings about those that it doesn't know.
    if not tokens or tokens[0].token_type not in _STARTS or any(map(_run_together, pairwise(tokens))):
        return ()
    found = [each for each in sqlglot.parse(query, read="postgres") if each and not isinstance(each, exp.Semicolon)]
    if len(found) != 1:
        return ()
    first = found[0]
    while isinstance(first, exp.Subquery | exp.SetOperation):
        first = first.this  # a UNION has the names of its first query
    return [_name(item) for item in first.expressions] if isinstance(first, exp.Select) else ()


def _run_together(pair: tuple[Token, Token]) -> bool:
    """Return whether the tokens are one number, such as 0o17, which sqlglot splits into a number and a name."""
    number, rest = pair
    return number.token_type is TokenType.NUMBER and number.end + 1 == rest.start and rest.text[:1].isidentifier()


def _name(item: Expr) -> str | None:
    """Return the name of an item of a SELECT; None if it isn't certain."""
    match item:
        case exp.Alias(args={"alias": exp.Identifier() as name}) | exp.Column(this=exp.Identifier() as name):
            text = str(name.this) if name.args.get("quoted") else str(name.this).translate(_FOLDED)
            return text.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        case _:
            return None
