"""Text becomes the tree that Postgres makes of it, or is refused; nothing blows the stack."""

# ruff: noqa: E501 - tables of samples

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.expressions import parse as parsing
from pipeline_processing.expressions.parse import MAX_DEPTH, parse, parse_type
from pipeline_processing.expressions.tree import Call, Cast, Literal, Name, Node, height
from pipeline_processing.expressions.types import Refused, Target, Type
from tests.properties import examples


def shape(node: Node) -> str:
    """The tree with all its parentheses."""
    match node:
        case Name():
            return node.name
        case Literal():
            return str(node.value)
        case Cast():
            return f"{shape(node.operand)}::{node.target}"
        case Call(_, name, arguments) if len(arguments) > 1 and (name in ("AND", "OR") or not name[0].isalpha()):
            return "(" + f" {name} ".join(map(shape, arguments)) + ")"
        case Call(_, name, arguments):
            return f"{name}({', '.join(map(shape, arguments))})"
    raise AssertionError(node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("a - b - c", "((a - b) - c)"),
        ("a || b + c || d", "((a || (b + c)) || d)"),
        ("a || b -> c", "((a || b) -> c)"),
        ("- a * b", "(-(a) * b)"),
        ("- a::int", "-(a::integer)"),
        ("(- a)::int", "-(a)::integer"),
        ("a::int::text", "a::integer::text"),
        ("-5", "-5"),
        ("- -5", "5"),
        ("NOT a = b", "NOT((a = b))"),
        ("NOT a AND b", "(NOT(a) AND b)"),
        ("a OR b AND c OR d", "(a OR (b AND c) OR d)"),
        ("a AND b AND (c AND d)", "(a AND b AND (c AND d))"),
        ("a = b IS NULL", "IS NULL((a = b))"),
        ("a = NOT b = c", "(a = NOT((b = c)))"),
        ("a < b + 1", "(a < (b + 1))"),
        ("a != b", "(a <> b)"),
        ("a BETWEEN b AND c AND d", "(BETWEEN(a, b, c) AND d)"),
        ("a BETWEEN b AND c = d", "(BETWEEN(a, b, c) = d)"),
        ("a = b BETWEEN c AND d", "(a = BETWEEN(b, c, d))"),
        ("a LIKE b || c", "LIKE(a, (b || c))"),
        ("a NOT IN (b, c) OR d", "(NOT IN(a, b, c) OR d)"),
        ("a IS DISTINCT FROM b = c", "IS DISTINCT FROM(a, (b = c))"),
        ("a IS NULL IS NOT NULL", "IS NOT NULL(IS NULL(a))"),
        ("CASE a WHEN b THEN c ELSE d END + 1", "(CASE OF(a, b, c, d) + 1)"),
        ("lower(a) || upper(b)", "(lower(a) || upper(b))"),
        ("DATE '2026-01-18' < a", "(2026-01-18::date < a)"),
        ("date < a", "(date < a)"),
        ("timestamp with time zone '2026-01-18' = a", "(2026-01-18::timestamptz = a)"),
        ("timestamp = a", "(timestamp = a)"),
        ('"and" AND "Or"', "(and AND Or)"),
        ("TRIM(BOTH 'x' FROM a)", "btrim(a, x)"),
        ("SUBSTRING(a FOR 2 FROM 1)", "substr(a, 1, 2)"),
        ("EXTRACT(YEAR FROM a)", "extract year(a)"),
    ],
)
def test_precedence(text: str, expected: str):
    """What binds tighter goes first."""
    assert shape(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("a = b = c", 6, r"has '=' where the end or another operator is expected"),
        ("a IS DISTINCT FROM b IS NULL", 21, r"has 'IS' where the end or another operator is expected"),
        ("a BETWEEN 1 AND 2 LIKE b", 18, r"has 'LIKE' where the end or another operator is expected"),
        ("a +", 3, r"ends where a value is expected"),
        ("a b", 2, r"has 'b' where the end or another operator is expected"),
        ("(a", 2, r"ends where `\)` is expected"),
        ("a)", 1, r"has '\)' where the end or another operator is expected"),
        ("a BETWEEN 1 = 2 AND 3", 12, r"has '=' where `AND` is expected"),
        ("a IS b", 5, r"has 'b' where something else is expected"),
        ("CASE WHEN a b END", 12, r"has 'b' where `THEN` is expected"),
        ("CASE ELSE a END", 5, r"has 'ELSE' where a value is expected"),
        ("CASE a END", 7, r"has 'END' where `WHEN` is expected"),
        ("CAST(a AS)", 9, r"has '\)' where a type is expected"),
        ("a::", 3, "ends where a type is expected"),
        ("a::numeric(x)", 11, r"has 'x' where something else is expected"),
        ("a::timestamp(3)", 3, "gives timestamp a length"),
        ("a LIKE b ESCAPE 'c'", 9, r"has 'ESCAPE' where the end or another operator is expected"),
        ('"f"(a)', 3, r"has '\(' where the end or another operator is expected"),
        ("(a, b) = (1, 2)", 2, r"has ',' where `\)` is expected"),
        ("a IN ()", 6, r"has '\)' where a value is expected"),
        ("a IN b", 5, r"has 'b' where `\(` is expected"),
        ("a NOT b", 6, r"has 'b' where something else is expected"),
        ("select", 0, "select, a word of SQL: write it in double quotes"),
        ("a ~ b", 2, "uses '~': write `LIKE`"),
        ("a == b", 2, "uses '==': write `=`"),
        ("a && b", 2, "uses '&&': write `AND`"),
        ("!a", 0, "uses '!': write `NOT`"),
        ("a # b", 2, "uses '#', which isn't supported"),
        ("extract(5 FROM a)", 8, r"has '5' where something else is expected"),
    ],
)
def test_where_it_goes_wrong(text: str, at: int, why: str):
    """Each refusal names its place."""
    with pytest.raises(Refused, match=why) as refused:
        parse(text)

    assert refused.value.at == at


# -- limits --------------------------------------------------------------------------------------


def test_parentheses_are_not_deep():
    """They leave no trace in the tree; far too many are refused like any other depth."""
    assert height(parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)) == 1
    with pytest.raises(Refused, match="levels deep"):
        parse("(" * 5000 + "a" + ")" * 5000)


def test_many_conditions_are_not_deep():
    """A thousand of them side by side are one node."""
    tree = parse(" OR ".join(f"a = {number}" for number in range(1000)))

    assert isinstance(tree, Call)
    assert len(tree.arguments) == 1000
    assert height(tree) == 3


def test_a_list_may_be_long():
    """A thousand uuids fit into the longest expression."""
    assert height(parse("a IN (" + ", ".join(["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"] * 1000) + ")")) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1" * 100_000 + "_", "uses '1', which isn't supported"),
        ("1" * 50_000 + "." + "1" * 50_000 + "_", "uses '1', which isn't supported"),
        ("+" * 200_000 + "a", "levels deep: split it over several steps"),
        ("a = " + "+-" * 100_000 + "a", "levels deep: split it over several steps"),
    ],
    ids=["digits", "digits after a point", "signs", "signs by turns"],
)
def test_no_text_takes_for_ever(text: str, why: str, monkeypatch: pytest.MonkeyPatch):
    """The time grows with the text and not with its square: of a text this long, that would be minutes."""
    monkeypatch.setattr(parsing, "MAX_LENGTH", len(text))
    started = time.process_time()

    with pytest.raises(Refused, match=why):
        parse(text)

    assert time.process_time() - started < 30


@pytest.mark.parametrize("text", ["+-+a", "a+-+a", "a = +-a", "a*+-a", "+/**/-a", "a+--x\n-a"])
def test_signs_may_stand_side_by_side(text: str):
    """As long as no character of another operator follows them, as in Postgres."""
    assert isinstance(parse(text), Call)
    for after in ("*", "=", "->"):
        with pytest.raises(Refused, match="which isn't supported"):
            parse(f"{text[:-1]}+{after}a")


PIECES = [
    *("a", '"B"', "1", "1.5", "'x'", "'", '"', "$", "\n", "--", "/*", "*/", "(", ")", ",", "+", "-", "*", "/", "%", "||"),
    *("->", "=", "<", "<>", "::", "int", "text", "AND", "OR", "NOT", "IS", "NULL", "TRUE", "DISTINCT", "FROM", "BETWEEN"),
    *("IN", "LIKE", "CASE", "WHEN", "THEN", "ELSE", "END", "lower", "CAST", "AS", "trim", "substring", "extract", "for"),
    *("timestamp", "with", "time", "zone", "numeric"),
]  # fmt: skip


@examples(1500)
@given(text=st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join), st.text(max_size=20)))
def test_any_text_is_parsed_or_refused(text: str):
    """Nothing else happens, and a refusal's place is inside the text."""
    try:
        assert height(parse(text)) <= MAX_DEPTH
    except Refused as refused:
        assert 0 <= refused.at <= len(text)  # noqa: PT017 - most texts are refused, not all


# -- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("INT", Target(Type.INTEGER)),
        ("character  varying", Target(Type.TEXT)),
        ("Numeric (10 , 2)", Target(Type.NUMBER, 10, 2)),
        ("decimal(5)", Target(Type.NUMBER, 5, 0)),
        ("numeric(3,-2)", Target(Type.NUMBER, 3, -2)),
        ("timestamp", Target(Type.TIMESTAMP)),
        ("timestamp without time zone", Target(Type.TIMESTAMP)),
        ("TIMESTAMP WITH TIME ZONE", Target(Type.TIMESTAMPTZ)),
    ],
)
def test_types(text: str, target: Target):
    """By SQL's names, in any case."""
    assert parse_type(text) == target


@pytest.mark.parametrize(
    "text",
    ["", "ınt", "İnt8", "timeſtamp", "int4", "jsonb", '"text"', "text text", "timestamp with zone", "numeric(1,2,3)"],
)
def test_other_types_are_refused(text: str):
    """Those that this doesn't know, and what is no name."""
    with pytest.raises(Refused):
        parse_type(text)


@pytest.mark.parametrize("text", ["a::ınt", "CAST(a AS İnt8)", "a::timeſtamp", "a::dıte", "a::int4"])
def test_letters_that_only_fold_to_a_type(text: str):
    """Letters outside of ASCII have no other case here: such a name is an unknown type like any other."""
    with pytest.raises(Refused, match=r"where a type is expected\. Supported types: text, integer"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a || 'b", "has a ' without another at its end"),
        ('"a', 'has a " without another at its end'),
        ("a = 1e99999999999999999999", "a number that is too large"),
        ("timeſtamp '2020-01-01'", "has \"'2020-01-01'\" where the end or another operator is expected"),
        ("int4 '2020-01-01'", "has \"'2020-01-01'\" where the end or another operator is expected"),
        ("double precision = 1", "has 'double precision' where something else is expected"),
        ("a::numeric(10, +2)", "isn't a whole number"),
    ],
)
def test_what_the_grammar_alone_does_not_tell(text: str, why: str):
    """A quote that isn't closed, numbers out of all bounds, names of types in other places."""
    with pytest.raises(Refused, match=re.escape(why)):
        parse(text)
