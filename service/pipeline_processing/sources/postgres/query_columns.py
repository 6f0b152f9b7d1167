"""
What can be said of a query by reading it, without a server: which parameters it has, and of its columns enough to
check steps against.

Of columns, only what is certain is said: one whose name Postgres would have to work out (a function, a cast, `*`)
leaves the columns incomplete.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase

import sqlglot
from sqlglot import Expr, Token, TokenType, exp

from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, unknown

_MAX_NAME_BYTES = 63
_PLACEHOLDER = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|(\$\d+)""", re.DOTALL)
"""What is quoted or a comment, or, as a group, a placeholder."""
_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Postgres folds letters of ASCII only."""
_STARTS = (TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN)


def names_of_query(query: str) -> Columns:
    """
    The query's columns, in order if they are complete. Their types aren't known.

    What can't be read, or isn't one query, has unknown columns; nothing is raised.
    """
    try:
        names = _names(query)
    except Exception:  # whatever a parser may raise on what isn't SQL: Postgres will say what is wrong
        return UNKNOWN_COLUMNS
    known = [name for name in names if name is not None]
    if not known or len(set(known)) < len(known):  # Postgres, or its source here, will refuse the query
        return UNKNOWN_COLUMNS
    listed = tuple(unknown(name) for name in known)
    return Columns(listed, complete=len(known) == len(names))


def placeholders_of_query(query: str) -> frozenset[int] | None:
    """The numbers of its $1, $2, …; those in comments, literals and names don't count. None if it can't be read."""
    # Apart from what follows, or sqlglot takes `$1,$` for the beginning of a dollar quote.
    query = _PLACEHOLDER.sub(lambda found: f"{found[0]} " if found[1] else found[0], query)
    try:
        tokens = sqlglot.tokenize(query, read="postgres")
    except Exception:  # whatever a tokeniser may raise on what isn't SQL
        return None
    if any(token.token_type is TokenType.COMMAND for token in tokens):
        return None  # of which sqlglot reads no more than the first word
    return frozenset(
        int(number.text)
        for dollar, number in pairwise(tokens)
        if dollar.token_type is TokenType.PARAMETER
        and query[dollar.start : dollar.end + 1] == "$"
        and number.start == dollar.end + 1
        and number.text.isdecimal()
    )


def without_placeholders(query: str) -> str:
    """The query with a number of the same length for each $1, $2, …, which sqlglot may take for a dollar quote."""
    return _PLACEHOLDER.sub(lambda found: "1" * len(found[0]) if found[1] else found[0], query)


def _names(query: str) -> Sequence[str | None]:
    query = without_placeholders(query)
    tokens = sqlglot.tokenize(query, read="postgres")
    # Other statements too give rows, but what sqlglot doesn't know of them it logs.
    if not tokens or tokens[0].token_type not in _STARTS or any(map(_run_together, pairwise(tokens))):
        return ()
    found = [each for each in sqlglot.parse(query, read="postgres") if each and not isinstance(each, exp.Semicolon)]
    if len(found) != 1:
        return ()
    first = found[0]
    while isinstance(first, exp.Subquery | exp.SetOperation):
        first = first.this  # the first query of a UNION gives the names
    return [_name(item) for item in first.expressions] if isinstance(first, exp.Select) else ()


def _run_together(pair: tuple[Token, Token]) -> bool:
    """Numbers such as 0o17, which sqlglot takes for two things, the second of them a name."""
    number, rest = pair
    return number.token_type is TokenType.NUMBER and number.end + 1 == rest.start and rest.text[:1].isidentifier()


def _name(item: Expr) -> str | None:
    """The name of one item of a SELECT, None where that isn't plain."""
    match item:
        case exp.Alias(args={"alias": exp.Identifier() as name}) | exp.Column(this=exp.Identifier() as name):
            text = str(name.this) if name.args.get("quoted") else str(name.this).translate(_FOLDED)
            return text.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        case _:
            return None
