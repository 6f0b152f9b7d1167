"""
Analyses a query's text without a server: finds its parameters, and as many column names as it can, to check steps.

Only certain names count: an item whose name Postgres would have to derive (a function, a cast, `*`) makes the columns
incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

from pipeline_processing.postgres.query_text import Token, placeholders_in, tokens_of
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, unknown

if TYPE_CHECKING:
    import sqlglot

_MAX_NAME_BYTES = 63
_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Postgres folds only ASCII letters."""
_NOT_NAMES = """
all any array case cast current_catalog current_date current_role current_schema current_time current_timestamp
current_user default distinct exists false interval isnull localtime localtimestamp not notnull null row session_user
some system_user true user
"""
_VALUE_WORDS = frozenset(_NOT_NAMES.split())
"""Words that may stand where a column or its alias could, and are neither."""
_PLAIN_ITEM = re.compile(r"(?:(?P<all>(?:n\.)*\*)|(?:n\.)*n(?:a?n)?)")
"""An item of a SELECT, with n for each name and a for AS: a column with or without alias, or all columns."""


def names_of_query(query: str) -> Columns:
    """
    Return the query's columns, in order if they are complete. Their types are unknown.

    Never raises. Text that can't be parsed, or isn't a single query, has unknown columns.
    """
    tokens = tokens_of(query)
    if tokens is None:
        return UNKNOWN_COLUMNS
    try:
        names = _plain_names(tokens) or _parsed_names(query)
    except Exception:  # any error of the parser: Postgres will report what is wrong
        return UNKNOWN_COLUMNS
    known = [name for name in names if name is not None]
    if not known or len(set(known)) < len(known):  # the source will reject the query
        return UNKNOWN_COLUMNS
    listed = tuple(unknown(name) for name in known)
    return Columns(listed, complete=len(known) == len(names))


def placeholders_of_query(query: str) -> frozenset[int] | None:
    """Return the numbers of the placeholders $1, $2, …; None if the query can't be cut into tokens."""
    found = placeholders_in(query)
    return None if found is None else frozenset(each.number for each in found)


def _plain_names(tokens: Sequence[Token]) -> Sequence[str | None]:
    """
    Return the names of `SELECT a, t.b AS c, * FROM …`; nothing if the query is less plain.

    Most queries are, and a parser for the others takes long to import.
    """
    if not tokens or _word(tokens[0]) != "select":
        return ()
    end = next((at for at, token in enumerate(tokens) if _word(token) == "from"), len(tokens))
    if any(token.text == ";" for token in tokens[end + 1 : -1]) or end + 1 >= len(tokens):
        return ()
    items: list[list[Token]] = [[]]
    for token in tokens[1:end]:
        if token.text == ",":
            items.append([])
        else:
            items[-1].append(token)
    names = []
    for item in items:
        match = _PLAIN_ITEM.fullmatch("".join(map(_letter, item)))
        if match is None:
            return ()
        names.append(None if match["all"] else _name_in(item[-1]))
    return names


def _word(token: Token) -> str:
    return token.text.translate(_FOLDED) if token.kind == "WORD" else ""


def _letter(token: Token) -> str:
    """Return a token's letter in `_PLAIN_ITEM`; `?` for one that it doesn't know."""
    if token.kind == "SYMBOL":
        return token.text
    if token.kind == "QUOTED":
        return "n" if token.text.startswith('"') else "?"
    word = _word(token)
    if not word or word in _VALUE_WORDS:
        return "?"
    return "a" if word == "as" else "n"


def _name_in(token: Token) -> str:
    if token.kind == "WORD":
        return _cut(token.text.translate(_FOLDED))
    return _cut(token.text[1:-1].replace('""', '"'))


def _cut(name: str) -> str:
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def _parsed_names(query: str) -> Sequence[str | None]:
    """Return the names that sqlglot finds. Raises its errors."""
    import sqlglot
    from sqlglot import TokenType, exp

    # It may take placeholders for dollar quotes.
    for _, start, end in placeholders_in(query) or ():
        query = query[:start] + "1" * (end - start) + query[end:]
    tokens = sqlglot.tokenize(query, read="postgres")
    # Other statements return rows too, but sqlglot logs warnings about those that it doesn't know.
    starts = (TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN)
    if not tokens or tokens[0].token_type not in starts or any(map(_run_together, pairwise(tokens))):
        return ()
    found = [each for each in sqlglot.parse(query, read="postgres") if each and not isinstance(each, exp.Semicolon)]
    if len(found) != 1:
        return ()
    first = found[0]
    while isinstance(first, exp.Subquery | exp.SetOperation):
        first = first.this  # a UNION has the names of its first query
    return [_name(item) for item in first.expressions] if isinstance(first, exp.Select) else ()


def _run_together(pair: tuple[sqlglot.Token, sqlglot.Token]) -> bool:
    """Return whether the tokens are one number, such as 0o17, which sqlglot splits into a number and a name."""
    number, rest = pair
    return number.token_type.name == "NUMBER" and number.end + 1 == rest.start and rest.text[:1].isidentifier()


def _name(item: sqlglot.Expr) -> str | None:
    """Return the name of an item of a SELECT; None if it isn't certain."""
    from sqlglot import exp

    match item:
        case exp.Alias(args={"alias": exp.Identifier() as name}) | exp.Column(this=exp.Identifier() as name):
            text = str(name.this) if name.args.get("quoted") else str(name.this).translate(_FOLDED)
            return _cut(text)
        case _:
            return None
