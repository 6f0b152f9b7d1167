"""A `filter` keeps exactly the rows that Postgres keeps for the same condition after WHERE."""

# ruff: noqa: E501 - tables of samples

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.steps.filter import Filter
from pipeline_processing.steps.step import Batch
from tests.contract.steps.sql_oracle import Oracle, oracle
from tests.properties import examples
from tests.unit.steps.step_context import CollectedErrors, context

TABLE = """
CREATE TYPE mood AS ENUM ('zen', 'angry');
CREATE TABLE things (id int, i int, n numeric, f float8, t text, c char(4), b bool, ts timestamptz, plain timestamp,
    d date, u uuid, m mood, "Mixed Case" int, "B" bool);
INSERT INTO things
SELECT row_number() OVER () - 1, i, n, f, t, t, b, ts, ts, d, u, m, i, NOT b FROM (
    SELECT
        ('{0,1,-1,5,7,NULL,2147483647,3,NULL,2}'::int[])[1 + g % 10] AS i,
        ('{0,-0.00,1.5,1.50,NULL,NaN,Infinity,-Infinity,0.1,5,-1234567890123456789012345678901234567890.5,1e-30}'
            ::numeric[])[1 + g % 12] AS n,
        ('{0,-0,1.5,NULL,NaN,Infinity,-Infinity,0.1,5,1e300,5e-324,0.30000000000000004,1e23}'::float8[])[1 + g % 13] AS f,
        (ARRAY['', 'a', 'A', 'ab', NULL, 'a%', 'a_', 'a\\b', 'it''s', 'É', 'ж', E'a\\nb', '5', 'a ', 'null', 'a.b', '🦉'])
            [1 + g % 17] AS t,
        ('{t,f,NULL}'::bool[])[1 + g % 3] AS b,
        (ARRAY['2026-01-18 10:00:00+00', '2026-01-18 10:00:00.5+00', '2026-01-18 10:00:00.123456+00', NULL, 'infinity',
            '-infinity', '4713-01-01 00:00:00 BC', '0001-01-01 00:00:00', '10000-01-01 00:00:00', '2026-01-18 00:00:00',
            '2026-01-17 23:59:59.999999']::timestamptz[])[1 + g % 11] AS ts,
        (ARRAY['2026-01-18', '2026-01-17', NULL, 'infinity', '-infinity', '0044-03-15 BC', '9999-12-31', '12026-01-18'
            ]::date[])[1 + g % 8] AS d,
        (ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', NULL]::uuid[])[1 + g % 2] AS u,
        (ARRAY['zen', 'angry', NULL]::mood[])[1 + g % 3] AS m
    FROM generate_series(0, 129) g) AS made
"""


@pytest.fixture(scope="module")
def things(servers: EmbeddedServers) -> Iterator[Oracle]:
    servers.postgres.create_database("filters")
    with oracle(servers.postgres.dsn("filters"), TABLE) as opened:
        yield opened


def kept_by_the_step(things: Oracle, condition: str) -> list[list[int]]:
    """Ids of the rows that are kept, from both forms."""
    kept = []
    for carry, (columns, rows) in things.carried.items():
        step = Filter(condition, context(columns, carry=carry, row_errors=CollectedErrors(tolerant=False)))
        left = things.runner.run(step(Batch.read(things.rows(carry), first=1)))
        assert step.filtered == len(rows) - len(left.rows)
        assert [number - 1 for number in left.numbers or ()] == [int(row["id"]) for row in left.rows]
        kept.append([int(row["id"]) for row in left.rows])
    return kept


# -- conditions ----------------------------------------------------------------------------------

INTEGERS = ["0", "1", "-1", "5", "+7", "2147483647", "'5'", "NULL"]
DECIMALS = ["1.5", "1.50", "-0.5", "1e-30", ".1", "5.", "0.10", "-1234567890123456789012345678901234567890.5", "1E1"]
SPECIALS = ["'NaN'", "'Infinity'", "'-Infinity'", "'0.1'"]
TIMES = [
    "'2026-01-18 10:00:00'", "'2026-01-18T10:00:00Z'", "'2026-01-18 12:00:00.5+02'", "'2026-01-18'", "'infinity'",
    "'-infinity'", "TIMESTAMPTZ '2026-01-18 10:00:00.123456+00'", "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59'",
    "'2026-01-18 10:00:00.500000'::timestamptz", "NULL",
]  # fmt: skip
LITERALS = {
    "number i": [*INTEGERS, *DECIMALS],
    "number n": [*INTEGERS, *DECIMALS, *SPECIALS],
    "number f": [*INTEGERS, *DECIMALS[:-2], *SPECIALS, "0.30000000000000004", "1e23", "9.999999999999999e22", "0.1000000000000000055"],
    "text t": [
        "''", "'a'", "'A'", "'ab'", "'it''s'", "'É'", "'ж'", "'5'", "'a '", "'🦉'", "'null'", r"'a\b'", "NULL", "'a'::text",
    ],
    "text c": ["''", "'a'", "'a   '", "' a'", "'A'", "'🦉'", "NULL"],
    "timestamptz ts": TIMES,
    "timestamp plain": [each.replace("TIMESTAMPTZ", "TIMESTAMP").replace("::timestamptz", "::timestamp") for each in TIMES],
    "date d": ["'2026-01-18'", "DATE '2026-01-17'", "'infinity'", "'-infinity'", "'9999-12-31'", "'0001-01-01'::date", "NULL"],
    'number "Mixed Case"': [*INTEGERS, *DECIMALS],
}  # fmt: skip
EQUAL_ONLY = {
    "u": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "NULL"],
    "m": ["'zen'", "'angry'", "NULL"],
}  # fmt: skip
PATTERNS = [
    "''", "'%'", "'a'", "'a%'", "'_'", "'__'", "'A%'", "'%b'", r"'a\%'", r"'a\_'", r"'a\\b'", "'%.%'", "'[a]'", "'a.b'",
    "'É'", "'é'", "'Ж'", "'%''%'", "'a%b'", "'(a|b)'", "'🦉'", "'a   '", "'^a$'", r"'\a'", "'%\n%'",
]  # fmt: skip

comparison_of_one = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
negation = st.sampled_from(["", "NOT "])


def _spelled(name: str) -> st.SearchStrategy[str]:
    """A column as people write it: folded, or in quotes."""
    return st.just(name) if name.startswith('"') else st.sampled_from([name, name.upper(), f'"{name}"', f"({name})"])


@st.composite
def _simple(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(sorted(LITERALS)))
    column, literals = draw(_spelled(kind.partition(" ")[2])), st.sampled_from(LITERALS[kind])
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return f"{column} {draw(comparison_of_one)} {draw(literals)}"
        case 3:
            return f"{draw(literals)} {draw(comparison_of_one)} {column}"
        case 4 | 5:
            return f"{column} {draw(negation)}IN ({', '.join(draw(st.lists(literals, min_size=1, max_size=4)))})"
        case 6:
            return f"{column} {draw(negation)}BETWEEN {draw(literals)} AND {draw(literals)}"
        case 7:
            return f"{column} IS {draw(negation)}NULL"
        case 8:
            like = draw(st.sampled_from(["LIKE", "ILIKE"]))
            return f"{draw(st.sampled_from('tc'))} {draw(negation)}{like} {draw(st.sampled_from(PATTERNS))}"
        case _:
            return draw(_of_two_columns() | _boolean() | _equal_only())


def _of_two_columns() -> st.SearchStrategy[str]:
    pairs = st.sampled_from(
        [("i", "n"), ("n", "f"), ("f", "i"), ("i", '"Mixed Case"'), ("n", "n"), ("t", "t"), ("b", '"B"'), ("t", "c")]
    )
    return st.builds(lambda pair, compare: f"{pair[0]} {compare} {pair[1]}", pairs, comparison_of_one)


def _boolean() -> st.SearchStrategy[str]:
    forms = [
        "b",
        'NOT "B"',
        "b = true",
        "false <> b",
        "b IN (true, NULL)",
        "b = 't'",
        "b <= false",
        "b IS NULL",
        "b = NULL",
    ]
    return st.sampled_from([*forms, "true", "false", "b IS UNKNOWN", "b ISNULL", "b NOTNULL"])


@st.composite
def _equal_only(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(sorted(EQUAL_ONLY)))
    literals = st.sampled_from(EQUAL_ONLY[column])
    if draw(st.booleans()):
        return f"{column} {draw(negation)}IN ({draw(literals)}, {draw(literals)})"
    return f"{column} {draw(st.sampled_from(['=', '<>']))} {draw(literals)}"


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{} AND {}".format, inner, inner),
        st.builds("{} OR {}".format, inner, inner),
        st.builds("({} OR {}) AND {}".format, inner, inner, inner),
        st.builds("NOT {}".format, inner),
        st.builds("NOT ({})".format, inner),
        st.builds("({}) IS {}{}".format, inner, negation, st.sampled_from(["TRUE", "FALSE"])),
        st.builds("-- why\n({}) /* so */".format, inner),
    )


conditions = st.recursive(_simple(), _combined, max_leaves=5)


@examples(400)
@given(condition=conditions)
def test_a_filter_keeps_what_where_keeps(things: Oracle, condition: str):
    """Whatever the condition, nulls, NaN and infinities included, the same rows are kept, from both forms."""
    expected = things.kept(condition)

    assert kept_by_the_step(things, condition) == [expected, expected]


@pytest.mark.parametrize("kind", LITERALS)
def test_every_literal_with_every_comparison(things: Oracle, kind: str):
    """No literal and no operator is left to chance."""
    column = kind.partition(" ")[2]
    for literal in LITERALS[kind]:
        for compare in ("=", "<>", "<", "<=", ">", ">="):
            condition = f"{column} {compare} {literal}"
            expected = things.kept(condition)
            assert kept_by_the_step(things, condition) == [expected, expected], condition


@pytest.mark.parametrize("like", ["LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE"])
def test_every_pattern(things: Oracle, like: str):
    """LIKE has its own escapes, and nothing of a regular expression."""
    for condition in (f"{column} {like} {pattern}" for column in "tc" for pattern in PATTERNS):
        expected = things.kept(condition)
        assert kept_by_the_step(things, condition) == [expected, expected], condition


REFUSED: dict[str, str] = {
    "code": "__import__('os').system('touch /tmp/pwned')",
    "a function of the server": "pg_sleep(10) IS NULL",
    "a quoted function": "\"lower\"(t) = 'a'",
    "a function of a schema": "pg_catalog.lower(t) = 'a'",
    "a subquery": "i IN (SELECT 1)",
    "another subquery": "EXISTS (SELECT 1)",
    "a scalar subquery": "i = (SELECT 1)",
    "several statements": "i = 1; DROP TABLE things",
    "a statement": "DELETE FROM things",
    "a select": "SELECT true",
    "a parameter": "i = $1",
    "a placeholder": "i = :x",
    "a Python format": "i = {i.__class__}",
    "an attribute": "t.__class__ = 'a'",
    "a column of a table": "things.t = 'a'",
    "a regular expression": "t ~ '(a+)+$'",
    "an array": "i = ANY (ARRAY[1])",
    "an element": "t[1] = 'a'",
    "nothing": "   ",
    "only a comment": "-- nothing",
    "half a condition": "i =",
    "an open quote": "t = 'a",
    "an open comment": "i = 1 /* what",
    "symmetric between": "i BETWEEN SYMMETRIC 5 AND 1",
    "text where a number belongs": "i > 'abc'",
    "a fraction where an integer belongs": "i = '1.5'",
    "a number where text belongs": "t = 5",
    "a time that there isn't": "ts > '2026-02-30'",
    "a time that Postgres reads and this doesn't": "ts > 'yesterday'",
    "columns of two families": "i = t",
    "order of an enum": "m > 'angry'",
    "a range of an enum": "m BETWEEN 'angry' AND 'zen'",
    "order against an enum": "'zen' <= m",
    "a pattern on a number": "i LIKE '1%'",
    "a pattern that isn't text": "t LIKE 5",
    "a pattern that ends too early": r"t LIKE 'a\'",
    "an unknown escape": "t LIKE 'a' ESCAPE '!'",
    "a collation": 't COLLATE "C" > \'a\'',
    "a time zone": "ts AT TIME ZONE 'UTC' = plain",
    "an interval": "ts > plain - interval '1 day'",
    "now": "ts > now()",
    "a word without quotes": "user = 'postgres'",
    "no uuid": "u = 'a'",
    "a value": "i + 1",
    "escapes": r"t = E'\x41'",
    "unicode escapes": r"t = U&'\0041'",
    "dollar quotes": "t = $$a$$",
    "tagged dollar quotes": "t = $x$a$x$",
    "bits": "t = b'01'",
    "national characters": "t = n'a'",
    "two texts side by side": "t = 'a' 'b'",
    "a NUL": "t = 'a\0'",
    "full-width operators": "i ＝ 1",
}  # fmt: skip


@pytest.mark.parametrize("condition", REFUSED.values(), ids=REFUSED)
def test_what_isnt_understood_is_refused(things: Oracle, condition: str):
    """Nothing is evaluated, guessed or ignored: a condition that isn't understood as a whole is an InvalidStep."""
    for carry, (columns, _) in things.carried.items():
        with pytest.raises((InvalidStep, UnknownColumn), match="filter"):
            Filter(condition, context(columns, carry=carry))


def test_unknown_columns_are_refused(things: Oracle):
    """A column in quotes is taken exactly; the message names the columns that there are."""
    for condition in ("nonsense = 1", '"I" = 1', "things = 1", '"mixed case" IS NULL'):
        with pytest.raises(UnknownColumn, match="Mixed Case"):
            Filter(condition, context(things.carried["json"][0]))
