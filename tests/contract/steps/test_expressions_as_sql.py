"""A `derive` computes exactly what Postgres does for the same expression after SELECT, or refuses it."""

# ruff: noqa: E501 - tables of samples

from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import given, settings

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import InvalidStep
from pipeline_processing.rows.columns import Kind
from tests.contract.steps.expression_rows import TABLE
from tests.contract.steps.generated_expressions import expressions, has_constant_time, plain, unfolded
from tests.contract.steps.sql_oracle import ERROR, Oracle, oracle
from tests.properties import examples

KINDS = {
    "int4": Kind.INTEGER, "int8": Kind.INTEGER, "numeric": Kind.NUMBER, "float8": Kind.FLOAT, "bool": Kind.BOOLEAN,
    "text": Kind.TEXT, "bpchar": Kind.TEXT, "varchar": Kind.TEXT, "date": Kind.DATE, "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ, "uuid": Kind.UUID, "json": Kind.JSON, "jsonb": Kind.JSON, "mood": None, "int4[]": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def things(servers: EmbeddedServers) -> Iterator[Oracle]:
    servers.postgres.create_database("expressions")
    with oracle(servers.postgres.dsn("expressions"), TABLE) as opened:
        yield opened


@examples(500)
@given(marked=expressions())
def test_a_derived_column_is_what_select_computes(things: Oracle, marked: str):
    """Whatever the expression, nulls and row errors included, from both forms."""
    assert differences(things, marked) == []


def differences(things: Oracle, marked: str) -> list[str]:
    """Where the step doesn't say what Postgres does, folding constants or not."""
    found, expression = [], plain(marked)
    expected = things.answers(expression)
    for carry in ("json", "text"):
        try:
            got, _ = things.derived(expression, carry)
        except InvalidStep as refused:
            # A part without columns that has no value is found before the first row, also where no row comes to it.
            if "can't be computed" not in str(refused):
                found.append(f"{expression} is refused: {refused}")
            continue
        if got != expected[carry]:
            either = zip(expected[carry], things.answers(unfolded(marked))[carry], strict=True)
            found += [
                f"{expression} is {mine} in {carry}, and in Postgres {theirs}"
                for mine, theirs in zip(got, either, strict=True)
                if mine not in theirs and not (has_constant_time(marked) and ERROR in (mine, *theirs))
            ]
    return found


def test_generated_expressions_are_worth_their_time(things: Oracle):
    """Most of them are computed, not refused, and most of those have values."""
    computed = values = 0
    for expression in _examples(100):
        try:
            got, _ = things.derived(expression, "json")
        except InvalidStep:
            continue
        computed += 1
        values += any(value not in (None, ERROR) for value in got)
    assert computed > 70
    assert values > 40


def _examples(number: int) -> list[str]:
    found: list[str] = []

    @settings(max_examples=number, derandomize=True)
    @given(marked=expressions())
    def collect(marked: str) -> None:
        found.append(plain(marked))

    collect()
    return found


TRICKY: dict[str, list[str]] = {
    "columns as they are": ["i", "n", "f", "t", "c", "b", "d", "ts", "tz", "u", "j", "o", "mood", "list", '"B"', "(T)", '"t"'],
    "constants": ["5", "1.50", "'x'", "''", "true", "NULL", "1e3", ".5", "5.", "1.50e1", "-9223372036854775808", "9223372036854775808", "'it''s'", "NULL::int", "- -5", "+7"],
    "integers": ["i + k", "i - k", "i * k", "i / k", "i % k", "-i", "abs(i)", "mod(i, k)", "-5 % k", "- i % k", "-(-i)", "+i", "i - -1", "i*-1", "i + '5'", "NULL + i", "round(i)", "floor(i)"],
    "numerics": ["n + m", "n - m", "n * m", "n / m", "n % m", "-n", "abs(n)", "n / k", "i / m", "i / n", "round(n)", "round(n, 1)", "round(n, -2)", "round(m, k::int)", "floor(n)", "ceil(n)", "n / 3", "n / 1e10", "1e-20 / m", "m / 7.00000", "10000 / m", "9999 / m", "99999999 / m", "0.0001 / m", "n / 0.00012345", "1 / m", "1.5 / k", "n * '2.50'", "round(i, 2)"],
    "floats": ["f + g", "f - g", "f * g", "f / g", "f + n", "f + i", "f / k", "-f", "abs(f)", "round(f)", "floor(f)", "ceil(f)", "1 / g", "f - '1e3'", "(f * 3)::text"],
    "casts": [f"{column}::{type_}" for column in "int" for type_ in ("text", "bigint", "numeric", "float8", "numeric(5,2)", "numeric(3,-1)")]
        + [f"t::{type_}" for type_ in ("boolean", "date", "timestamp", "timestamptz", "uuid", "json")]
        + ["f::text", "f::numeric", "f::bigint", "f::numeric(20, 5)", "b::text", "b::int", "d::timestamp", "d::timestamptz", "ts::date", "ts::timestamptz", "tz::date", "tz::timestamp",
           "d::text", "ts::text", "tz::text", "u::text", "j::text", "o::text", "mood::text", "c::text", "c::bigint", "c::boolean", "c::varchar", "CAST(n AS double precision)",
           "CAST(t AS timestamp with time zone)", "t::timestamp without time zone", "i::decimal(25, 3)::text"],
    "text": ["lower(t)", "UPPER(t)", "length(t)", "char_length(t)", "trim(t)", "ltrim(t, 'a ')", "rtrim(t, '0e ')", "btrim(t, s)", "trim(both 'a1' from t)", "trim(leading from t)", "trim(trailing t)", "left(t, 2)", "left(t, -1)", "right(t, 2)", "right(t, -3)", "right(t, 0)", "left(t, k::int)", "right(t, k::int)", "substring(t, 2, 3)", "substr(t, 0, 2)", "substring(t, k::int)", "substring(t, k::int, 2)", "substring(t from 2 for k::int)", "substring(t for 2)", "substring(t for 1 from 3)", "replace(t, s, 'xx')", "replace(t, 'a', s)", "split_part(t, ',', 2)", "split_part(t, s, 1)", "split_part(t, ',', k::int)", "split_part(t, '', -1)", "starts_with(t, s)"],
    "texts put together": ["t || s", "i || t", "t || n", "f || s", "t || b", "t || d || ts || tz", "u || t", "mood || s", "c || s", "s || c", "concat(t, s, c, b, f, n, d, ts, tz, u, i, mood)", "concat(j)", "'' || NULL", "NULL || t", "t||''||s", "'a' || 'b'", "t || 'x' = s || 'x'", "i + k || t"],
    "text of type char(n)": ["c = s", "c = c", "c < s", "c IN ('a', 'ab ')", "c LIKE 'a%'", "c LIKE 'a   '", "coalesce(c, 'x')", "nullif(c, 'a')", "nullif(c, s)", "nullif(s, c)", "greatest(c, 'a ')", "case when b then c else 'zz' end", "trim(c)", "length(c)", "upper(c)", "left(c, 3)", "c || '|'", "concat(c, '|')"],
    "enums": ["mood = 'zen'", "mood <> 'zen'", "mood IN ('zen', NULL)", "mood = mood", "mood IS DISTINCT FROM 'zen'", "mood IS NULL"],
    "comparisons": ["n > f", "f < n", "f = 1.5", "f = 0.1", "n = 0.1", "i > 1.5", "i = 5.0", "i < f", "f >= 1e23", "b > \"B\"", "b = \"B\"", "'a' < t", "'2026-01-18' < d", "d = ts", "d < tz", "ts < tz", "d > '2026-01-01'", "tz >= '2026-01-18 10:00+02'", "tz BETWEEN '2026-01-01' AND 'infinity'", "u = 'A0EEBC999C0B4EF8BB6D6BB9BD380A11'", "u < 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "NULL = i", "i=-1", "i<-1", "t = 'É'", "i BETWEEN k AND 3", "i NOT BETWEEN 0 AND n", "i + k > n - 1", "length(t) > 3", "lower(t) = t", "1 = 1", "'a' = 'b'"],
    "IN": ["i IN (1, k, NULL)", "i IN (k, 3)", "i NOT IN (1, k, 2.5)", "f IN ('NaN', 0.1, 1e23)", "n IN ('NaN', 'Infinity', 1.5)", "n IN (0, f)", "t IN (s, 'a')", "t NOT IN ('a', NULL)", "b IN (true, NULL)", "tz IN ('2026-01-18 08:00', NULL)", "i IN (0.1::float8, 9223372036854775800)", "1 IN (i, k)", "i IN ('1', 2.5)", "i IN (5)"],
    "null": ["b AND NULL", "b OR NULL", "NOT NULL", "NULL IS NULL", "b IS DISTINCT FROM \"B\"", "n IS NOT DISTINCT FROM m", "f IS DISTINCT FROM f", "t IS DISTINCT FROM NULL", "(b AND \"B\") IS UNKNOWN", "b IS NOT TRUE", "i ISNULL", "i NOTNULL", "list IS NULL", "j IS NULL", "NULL IS TRUE"],
    "choices": ["greatest(d, ts)", "greatest(d, tz)", "least(ts, tz, d)", "coalesce(d, ts, tz)", "nullif(d, ts)", "nullif(i, n)", "nullif(i, f)", "nullif(n, 0)", "greatest(i, n, f)", "greatest(n, m)", "least(f, g)", "greatest(t, s, 'b')", "least(b, \"B\")", "greatest(u, NULL)", "greatest(1.0, 1.00)", "coalesce(t, '?')", "coalesce(n, 1/k)", "case i when 1 then 'one' when 5 then 'five' else t end", "case when i > 1 then n when b then i else f end", "case when b then 1/k end", "case when 't' then 1 else 2 end", "case i when n then 1 end", "case when b then j end", "nullif('a', t)", "coalesce(NULL, NULL)"],
    "what isn't looked at": ["b AND 1/k > 0", "k <> 0 AND i / k > 0", "k = 0 OR i / k > 0", "false AND 1/k > 0", "case when true then i else 1/k end", "case 1/k when NULL then 1 else i end", "case when k = 0 then 0 else i / k end", "coalesce(i, 1/k)", "coalesce(1, 1/k)", "NULL::bigint + 1/k"],
    "precedence": ["NOT i = 1", "NOT b AND \"B\"", "i = 1 IS NULL", "b = NOT \"B\"", "i + 2 * 3 - k", "(i + 2) * k", "- i + 2", "(-i)::text", "- i::numeric", "i BETWEEN 0 AND 5 AND b", "i BETWEEN 0 AND 5 = b", "t || s LIKE '%a' || s", "i IS NULL OR k IS NULL AND b", "1 - 2 - 3", "100 / 10 / k", "2 - i < k + 1", "NOT i IN (1, 2)", "i NOT IN (1) = b", "b = \"B\" IS NOT NULL", "t LIKE 'a' OR b", "-2 - -2", "NOT NOT b"],
    "patterns": ["t LIKE s || '%'", "t LIKE s", "t NOT ILIKE '%e' || s", "t ILIKE 'É'", r"t LIKE '%\%\_'", r"t LIKE '%y\\z%'", "t LIKE '_%_'", "t LIKE '%1%5%'", "t LIKE '%%%'", "t LIKE ''", "t LIKE NULL", "t LIKE 'line_end'"],
    "json": ["j -> 'a'", "j ->> 'a'", "j -> 3", "j ->> 1", "j -> 'a' -> 'b' ->> 0", "o -> 'a'", "o ->> 'a'", "o -> 'k' -> 'b' -> 0", "o ->> 'k'", "(o ->> 'i')::bigint + 1", "(t::json) -> 'a' -> 1", "j ->> t", "o ->> s", "j -> NULL", "coalesce(j, NULL)", "o ->> 'i' || 'x'", "o -> 'a' IS NULL", "j ->> 'k' = 'x'"],
    "fields of dates": [f"extract({field} FROM {column})" for field in ("year", "MONTH", "'day'") for column in ("d", "ts", "tz")],
    "typed text": ["DATE '2026-01-18' = d", "timestamp with time zone '2026-01-18 08:00+00' = tz", "TIMESTAMP '2026-01-18' = ts", "double precision '1.5' = f", "numeric '1.50' + n", "bigint '5' + i", "UUID 'A0EEBC999C0B4EF8BB6D6BB9BD380A11' = u", "'5'::bigint + i", "boolean 'on' AND b"],
    "comments": ["i -- why\n + 1", "i /* so /* far */ */ + 1", "i+--x\n1"],
}  # fmt: skip


@pytest.mark.parametrize("expressions", TRICKY.values(), ids=TRICKY)
def test_tricky_ones(things: Oracle, expressions: list[str]):
    """Those that are easy to get wrong, their row errors, and the kind of column that they make."""
    for expression in expressions:
        expected = things.answers(expression)
        for carry in ("json", "text"):
            got, columns = things.derived(expression, carry)
            assert got == expected[carry], (carry, expression)
            assert columns.listed[-1].kind is KINDS[things.type_of(expression)], expression


ONLY_HERE = {
    "(i::integer)::boolean": [None if i is None else str(i != 0).lower() for i in (0, 1, -1, 5, -7, None, 2147483648)],
    "2147483647 + 1": ["2147483648"] * 7,
    "i::int": ["0", "1", "-1", "5", "-7", None, "2147483648"],
}


@pytest.mark.parametrize("expression", ONLY_HERE)
def test_integers_have_64_bits(things: Oracle, expression: str):
    """Under any name and as literals: a column doesn't tell how many bits it has. Postgres stops at 32 in places."""
    got, _ = things.derived(expression, "json")

    assert got[:7] == ONLY_HERE[expression]


JSON_THAT_MAY_BE_JSONB = ["j -> 0", "j ->> 0", "j -> -1", "o -> 0", "o ->> -1"]


@pytest.mark.parametrize("expression", JSON_THAT_MAY_BE_JSONB)
def test_elements_of_what_is_no_array(things: Oracle, expression: str):
    """To json a plain value has no elements, to jsonb it is its own: where that matters it is a row error."""
    expected = things.answers(expression)["json"]
    documents = things.answers(expression[:1])["json"]
    got, _ = things.derived(expression, "json")

    plain = [document is not None and document.strip()[:1] not in "[{" for document in documents]
    assert any(plain)
    assert got == [ERROR if is_plain else value for value, is_plain in zip(expected, plain, strict=True)]


def test_the_first_row_error_of_a_row_counts(things: Oracle):
    """What Postgres calls an error of data is a row error, one a row, and never holds the row's values."""
    got, _ = things.derived("t::bigint / k", "json")

    assert got == things.answers("t::bigint / k")["json"]
    assert got.count(ERROR) > len(got) / 2


@pytest.mark.parametrize(
    "expression",
    ["1 = 2 = true", "i IS DISTINCT FROM 1 IS NULL", "i BETWEEN 1 AND 2 BETWEEN 0 AND 1", "t LIKE 'a' LIKE 'b'",
     "'5' + '1'", "lower(i)", "i || k", "i + b", "i + t", "t = 5", "i = b", "i LIKE '1'", "b > 1", "f % 2", "substring(t, 1.5)",
     "round(f, 2)", "i::date", "n::boolean", "b::numeric", "d::bigint", "u::bigint", "j::bigint", "j = '{}'", "t -> 'a'",
     "extract(year FROM t)", "extract(year FROM '2026-01-01')", "extract(year FROM NULL)", "NULL + NULL", "- NULL", "i AND b", "NOT i", "i IS TRUE", "case when i then 1 end",
     "case when b then i else t end", "coalesce(i, b)", "greatest(i, t)", "nullif(i, b)", "i IN (1, b)",
     "'a' ||-1", "i %-3", "i == 5", "i === 5", "'a' 'b'", "a'b'", "1a", "1..2", "i -", "()", "coalesce()", "lower()", "lower(t, t)",
     "(i", "i)", "case end", "case when b then 1", "nonsense(i)", "i::nonsense", "user = order", "i i", "i AS x", "*",
     "order", "t::numeric()", "-3::text"],
)  # fmt: skip
def test_what_postgres_refuses_is_refused(things: Oracle, expression: str):
    """Also by Postgres itself, which shows that each of these is wrong SQL and not only unknown here."""
    with pytest.raises(asyncpg.PostgresError):
        things.answers(expression)
    with pytest.raises(InvalidStep, match="Step 'derive', column 'derived'"):
        things.derived(expression, "json")
