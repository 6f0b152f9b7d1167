"""Tokens are cut as Postgres cuts them, and what isn't known is refused where it stands."""

import pytest

from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.tokens import MAX_LENGTH, TokenKind, tokens_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<-1", ["a", "<", "-", "1"]),
        ("a=-1", ["a", "=", "-", "1"]),
        ("a||-1", ["a", "||-", "1"]),
        ("a%-1", ["a", "%-", "1"]),
        ("a->-1", ["a", "->", "-", "1"]),
        ("a->>'b'", ["a", "->>", "b"]),
        ("a::int", ["a", "::", "int"]),
        ("a- -1", ["a", "-", "-", "1"]),
        ("a --1\n+b", ["a", "+", "b"]),
        ("a+--1\nb", ["a", "+", "b"]),
        ("a/*x*/b", ["a", "b"]),
        ("a+/* /* */ */b", ["a", "+", "b"]),
        ("a-- end", ["a"]),
        ("1.5e-3", ["1.5e-3"]),
        (".5", [".5"]),
        ("5.", ["5."]),
        ("(1,2)", ["(", "1", ",", "2", ")"]),
        ("'it''s'", ["it's"]),
        ("'-- no comment /* '", ["-- no comment /* "]),
        ("'a\\'", ["a\\"]),
        ('"A ""b"""', ['A "b"']),
        ("Ärger$1_x", ["Ärger$1_x"]),
        ("date'2026-01-18'", ["date", "2026-01-18"]),
        ("be'x'", ["be", "x"]),
        ("u & 'x'", ["u", "&", "x"]),
        ("\f\v\r\n\t a", ["a"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]):
    """Operators end where Postgres ends them, and comments are none inside text."""
    *tokens, end = tokens_of(text)

    assert [token.text for token in tokens] == expected
    assert (end.kind, end.at) == (TokenKind.END, len(text))


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("a = 'b", 4, "closing quote"),
        ('"b', 0, "closing quote"),
        ('a ""', 2, "without a character"),
        ("a /* b /* c */", 2, "comment that doesn't end"),
        ("1a", 0, "a number that goes on"),
        ("a + 0x1F", 4, "a number that goes on"),
        ("1_000", 0, "a number that goes on"),
        ("1..2", 0, "a number that goes on"),
        ("a $1", 2, "neither parameters nor dollar quotes"),
        ("$$a$$", 0, "neither parameters nor dollar quotes"),
        ("a; b", 1, "one expression and no statement"),
        ("a.b", 1, "columns have no table"),
        ("a = E'x'", 4, "backslash escapes"),
        ("e'x'", 0, "backslash escapes"),
        ("U&'x'", 0, "the characters themselves"),
        ('u&"x"', 0, "the characters themselves"),
        ("B'1'", 0, "bit string"),
        ("n'a'", 0, "nchar"),
        ("a[1]", 1, "isn't supported"),
        ("{a}", 0, "isn't supported"),
        (":a", 0, "isn't supported"),
        ("a \\ b", 2, "isn't supported"),
        ("a\x01", 1, "isn't supported"),
        ("a\0", 1, "NUL"),
        ("x" * (MAX_LENGTH + 1), 0, "50,001 characters, and may have 50,000"),
    ],
)
def test_what_is_refused(text: str, at: int, why: str):
    """Nothing is passed over, and the place is the one where it begins."""
    with pytest.raises(Refused, match=why) as refused:
        tokens_of(text)

    assert refused.value.at == at


@pytest.mark.parametrize(("name", "word"), [("AND", "and"), ("Straße", "straße"), ("ÄND", "Änd"), ("İ", "İ")])
def test_only_ascii_letters_fold(name: str, word: str):
    """As in Postgres, where the database's encoding is UTF-8."""
    assert tokens_of(name)[0].word == word


def test_a_quoted_name_is_no_word():
    """So a column may be called "and"."""
    assert tokens_of('"and"')[0].word == ""
