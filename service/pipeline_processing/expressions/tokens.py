"""Text → tokens, with Postgres's lexical rules (src/backend/parser/scan.l). Raises Refused."""

import re
from dataclasses import dataclass

from pipeline_processing.expressions.types import TYPE_NAMES, Refused

_RESERVED = """
all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc
distinct do else end except false fetch for foreign from grant group having in initially intersect into lateral
leading limit localtime localtimestamp not null offset on only or order placing primary references returning select
session_user some symmetric system_user table then to trailing true union unique user using variadic when where
window with
authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull join left like
natural notnull outer overlaps right similar tablesample verbose
"""
_KEYWORDS = """
and as between both case cast distinct else end extract false for from ilike in is isnull leading left like not notnull
null or right substring then trailing trim true unknown when
"""
RESERVED = frozenset(_RESERVED.split())
"""Words that must be quoted as a column's name, from `pg_get_keywords()` in Postgres 18."""
KEYWORDS = frozenset(_KEYWORDS.split())
"""Words that the grammar uses."""

_OPERATORS = r"-+*\/<>=~!@#%^&|`?"
_ENDS = rf"(?=[-+]*(?:\/\*|[^{_OPERATORS}]|$))"
_ENDS_ALONE = rf"(?=\/\*|--|[^{_OPERATORS}]|$)"
_COMMENT = "(?!)"
for _ in range(4):  # they nest
    _COMMENT = rf"\/\*(?:{_COMMENT}|(?!\/\*|\*\/)[^\0])*\*\/"
# What isn't in ASCII may be in names. The sets list what may not, because ranges up to U+10FFFF take long to compile.
_STARTS_NAME = r"[^\0-@\[-^`{-\x7f]"
_IN_NAME = r"[^\0-#%-/:-@\[-^`{-\x7f]"
_NO_NAME = f"(?!{_IN_NAME})"
_TYPES = "|".join(sorted(TYPE_NAMES, reverse=True)).replace(" ", r"[ \t\n\r\f\v]+")
# A sign after another one needs no lookahead: the first one has checked what follows all of them.
_TOKEN = re.compile(
    rf"""(?P<SPACE>[ \t\n\r\f\v]+|--[^\n\r\0]*|{_COMMENT})
    |(?P<TYPE>(?ai:{_TYPES}){_NO_NAME})
    |(?P<NAME>{_STARTS_NAME}{_IN_NAME}*)
    |(?P<NUMBER>(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+(?!\.|{_IN_NAME}))
    |(?P<TEXT>'[^'\0]*(?:''[^'\0]*)*')
    |(?P<QUOTED>"[^"\0]+(?:""[^"\0]*)*")
    |(?P<CONVERT>::)
    |(?P<COMPARE>(?:<>|<=|>=|[<>=]){_ENDS}|!={_ENDS_ALONE})
    |(?P<OTHER>->>?{_ENDS}|\|\|{_ENDS_ALONE})
    |(?P<SIGN>(?<=[-+])[-+]|[-+]{_ENDS})
    |(?P<PRODUCT>[*\/]{_ENDS}|%{_ENDS_ALONE})
    |(?P<MARK>[(),])""".replace("\n    |", "|")
)
_SYMBOL = re.compile(f"[{_OPERATORS}]+|.", re.DOTALL)
_INSTEAD = {
    "==": "`=`",
    "===": "`=`",
    "<=>": "`IS NOT DISTINCT FROM`",
    "=!": "`<>`",
    "!": "`NOT`",
    "&&": "`AND`",
    "&": "`AND`",
    "|": "`OR`, or `||` to join texts",
    "~": "`LIKE`, where `%` stands for any text",
    "^": "a product, such as `x * x`",
    "`": "a name as it is, or in double quotes, and a text in single quotes",
    "$": "a column; to compare with a param, add it as a column with `add` first",
    "[": "parentheses, as in `IN (1, 2)`",
    "{": "a column; to compare with a param, add it as a column with `add` first",
    ";": "nothing there: it is one expression",
}
"""Symbols of other languages → what stands for them here."""
_LOWER = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def folded(name: str) -> str:
    """Return an unquoted name in lower case: ASCII letters only, as Postgres does in UTF-8."""
    return name.translate(_LOWER)


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    """A group of `_TOKEN`, a keyword in capitals, `(`, `)` or `,`; empty at the end of the text."""
    text: str
    at: int


def token_at(text: str, at: int) -> Token:
    """Return the first token at or after a position. Raises Refused."""
    while (match := _TOKEN.match(text, at)) is not None and match.lastgroup == "SPACE":
        at = match.end()
    if match is None:
        if at == len(text):
            return Token("", "", at)
        if text[at] in "'\"":
            raise Refused(f"has a {text[at]} without another at its end", at)
        symbol = _SYMBOL.match(text, at)
        assert symbol is not None  # there is a character
        if symbol.group() in _INSTEAD:
            raise Refused(f"uses {symbol.group()!r}: write {_INSTEAD[symbol.group()]}", at)
        raise Refused(f"uses {symbol.group()!r}, which isn't supported", at, unsupported=True)
    found, kind = match.group(), match.lastgroup or ""
    if kind == "MARK":
        kind = found
    elif kind == "NAME" and (word := folded(found)) in KEYWORDS:
        kind = word.upper()
    elif kind == "NAME" and word in RESERVED:
        raise Refused(f"uses {found}, a word of SQL: write it in double quotes if it is a column", at, unsupported=True)
    return Token(kind, found, at)
