"""Cutting a query's text into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.postgres.query_text import placeholders_in, tokens_of, without_semicolon

_PIECES = (
    "$1",
    "$22",
    "'",
    "''",
    "E'",
    "\\",
    '"',
    "$$",
    "$a$",
    "--",
    "\n",
    "/*",
    "*/",
    ";",
    "a",
    "é",
    " ",
    "1.5",
    "U&",
    "(",
)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("SELECT $1,$2", [1, 2]),
        ("SELECT $2+$1$2", [2, 1, 2]),
        ("SELECT '$1', 'it''s $1', N'$1', U&'$1', b'1', \"a\"\"$1\"", []),
        (r"SELECT E'\'$1', '\', $2", [2]),
        ("SELECT E'a'\n'\\' $1', $2", [2]),
        ("SELECT $$ $1 $$, $a$ $$ $1 $a$, $é1$ $1 $é1$, $3", [3]),
        ("SELECT a$1, é$2, $3::int, 1.5e3", [3]),
        ("SELECT /* $1 /* */ $1 */ $2 -- $3\n+$4", [2, 4]),
        ("SELECT 1 */* $1 */ $2", [2]),
        ("SELECT $99999999999", []),
    ],
)
def test_placeholders_are_told_from_text_names_and_comments(query: str, numbers: list[int]) -> None:
    found = placeholders_in(query)

    assert found is not None
    assert [each.number for each in found] == numbers
    assert [query[each.start : each.end] for each in found] == [f"${number}" for number in numbers]


@pytest.mark.parametrize("query", ["'", "E'\\'", '"', "$$", "$a$ $$", "/*", "/* /* */", "\0"])
def test_what_has_no_end_has_no_tokens(query: str) -> None:
    assert tokens_of(f"SELECT $1 {query}") is None
    assert placeholders_in(f"SELECT $1 {query}") is None


@given(st.lists(st.sampled_from(_PIECES)).map("".join))
def test_tokens_are_pieces_of_the_text(query: str) -> None:
    """In order, and with nothing but spaces and comments between them."""
    at = 0
    for token in tokens_of(query) or ():
        assert query[token.start : token.end] == token.text or token.kind == "TEXT"
        assert at <= token.start < token.end
        assert query[at : token.start].strip() == "" or query[at : token.start].lstrip()[:2] in ("--", "/*")
        at = token.end


@pytest.mark.parametrize(
    ("query", "without"),
    [
        ("SELECT 1 ; -- x\n ;", "SELECT 1 "),
        ("SELECT ';'", "SELECT ';'"),
        ("SELECT 1 -- ;", "SELECT 1 -- ;"),
        ("SELECT '; ;", "SELECT '; ;"),
    ],
)
def test_semicolons_at_the_end_go(query: str, without: str) -> None:
    assert without_semicolon(query) == without
