"""What expressions are made of, value by value against Postgres: casts, digits, letters, patterns, words."""

# ruff: noqa: E501 - tables of samples

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.expressions import decimals, documents, floats, integers, text, times
from pipeline_processing.expressions.tokens import RESERVED
from pipeline_processing.expressions.types import RowFault
from tests.contract.source.reading import postgres
from tests.properties import examples

Ask = Callable[..., list[Any]]
"""A query with one column, whose parameters are lists → its rows."""

# Each example is fifty values. Shrinking their list takes minutes, and the failed assertion names the one value.
generated = settings(examples(50), phases=[Phase.generate])


@pytest.fixture(scope="module")
def ask(servers: EmbeddedServers) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        session = postgres(servers.postgres.dsn())
        connection = runner.run(session.__aenter__())
        yield lambda query, *lists: [row[0] for row in runner.run(connection.fetch(query, *lists))]
        runner.run(session.__aexit__(None, None, None))


# -- text to values ------------------------------------------------------------------------------

CASTS: dict[str, Callable[[str], Any]] = {
    "bigint": integers.integer_of,
    "numeric": lambda given: format(decimals.decimal_of(given), "f"),
    "float8": lambda given: floats.float_text(floats.float_of(given)),
    "boolean": lambda given: text.boolean_text(text.boolean_of(given)),
    "date": times.date_of,
    "timestamp": times.timestamp_of,
    "timestamptz": times.timestamptz_of,
    "uuid": text.uuid_of,
    "json": documents.document_of,
}

_space = st.sampled_from(["", "", " ", "\t\n", "\v"])
_sign = st.sampled_from(["", "+", "-"])
_digits = st.text("0123456789", max_size=6)
_number_texts = st.builds(
    "{}{}{}{}{}{}".format,
    _space,
    _sign,
    st.one_of(
        _digits, st.sampled_from(["1_000", "_1", "1_", "1__0", "0x1F", "0b1", "0o17", "9223372036854775807", "١"])
    ),
    st.sampled_from(["", "", ".", ".5", ".000", ".1_0", "_"]),
    st.sampled_from(["", "", "e5", "E-3", "e+400", "e-400", "e", "e1_0"]),
    _space,
)
_words = st.sampled_from(
    ["NaN", "nan", "-nan", "inf", "Infinity", "-infinity", "+inf", "t", "tr", "TRUE", "f", "of", "o", "on", "yes", "n", "0", "1", "2", ""]
)  # fmt: skip
_time_texts = st.builds(
    "{}{}-{}-{}{}{}{}{}".format,
    _space,
    st.sampled_from(["2026", "2024", "0001", "0000", "9999", "10000", "294276", "294277", "4714", "4713", "5874897", "5874898", "1900"]),
    st.sampled_from(["01", "1", "02", "11", "12", "13", "00"]),
    st.sampled_from(["01", "9", "23", "24", "28", "29", "30", "31", "32", "0"]),
    st.sampled_from(["", "", " 10:00", "T23:59:59.9999995", " 00:00:00.000001", " 1:2:3", " 24:00:01", " 12:60", "t10:00:00.5", " 10"]),
    st.sampled_from(["", "", "Z", "+02", "-0330", " +05:30", "+15:59:59", "+16", "+2", " UTC", "-230", "+00:60"]),
    st.sampled_from(["", "", " BC", " AD", "bc"]),
    _space,
)  # fmt: skip
_uuid_texts = st.from_regex(r"\{?([0-9a-fA-F]{4}-?){7,8}\}?", fullmatch=True)
_json_texts = st.one_of(
    st.recursive(
        st.sampled_from(["1", "-0", "01", "1.", ".5", "1e5", "1E+", "true", "True", "null", "NaN", "Infinity", '"a"', '"\\u00e9"',
                         '"\\x"', '"\\u12"', '"\n"', "'a'", "", '"\\ud800"', '"\\u0000"']),
        lambda inner: st.one_of(
            st.builds(lambda items: "[" + " ,".join(items) + "]", st.lists(inner, max_size=3)),
            st.builds(lambda items: "{" + ", ".join(f'"k" : {item}' for item in items) + "}", st.lists(inner, max_size=3)),
            st.builds("[{},]".format, inner),
            st.builds("{{a: {}}}".format, inner),
        ),
        max_leaves=5,
    ),
)  # fmt: skip
_any_text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
texts = st.one_of(_number_texts, _words, _time_texts, _uuid_texts, _json_texts, _any_text)


@pytest.mark.parametrize("type_", CASTS)
@generated
@given(st.data())
def test_a_text_is_cast_as_in_postgres_or_not_at_all(ask: Ask, type_: str, data: st.DataObject):
    """No text has another value than there, and none has one that has none there."""
    given_texts = data.draw(st.lists(texts, min_size=40, max_size=60))
    query = f"SELECT CASE WHEN pg_input_is_valid(x, '{type_}') THEN x::{type_}::text END FROM unnest($1::text[]) AS x"
    for one, expected in zip(given_texts, ask(query, given_texts), strict=True):
        try:
            got = str(CASTS[type_](one))
        except RowFault:
            continue
        assert got == expected, one


READ = {
    "bigint": ["5", " -7 ", "+0", "0x1F", "1_000", "-9223372036854775808"],
    "numeric": ["5", " -7.50 ", "1e5", "1.", ".5", "NaN", "Infinity", "-inf", "1_0.5", "-0.00", "1e-30"],
    "float8": ["5", " -7.50 ", "1e5", "1.", ".5", "NaN", "Infinity", "-inf", "-0", "1e23", "5e-324", "1.7976931348623157e308"],
    "boolean": ["t", "TRUE", " yes ", "on", "1", "f", "fal", "no", "of", "0"],
    "date": ["2026-01-18", " 2026-1-8 ", "infinity", "-Infinity", "0044-03-15 BC", "12026-01-18", "2026-01-18 10:00:00+02", "2024-02-29"],
    "timestamp": ["2026-01-18", "2026-01-18T10:00", "2026-01-18 10:00:00.123456", "2026-01-18 23:59:59.9999999", "2026-01-18 10:00+02",
                  "infinity", "294276-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC"],
    "timestamptz": ["2026-01-18", "2026-01-18T10:00:00Z", "2026-01-18 10:00:00.5+02:30", "2026-01-18 10:00-0330", "2026-01-18 00:30 +01",
                    "-infinity", "0001-01-01 00:00:00+01", "2026-01-18 10:00:00 utc", "0044-03-15 10:00:00 BC"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11"],
    "json": ["{}", ' {"a" : [1.50, null, "x\\n"]} ', "5", '"a"', "null", "-1.5E+10", '{"a": 1, "a": 2}', '"\\ud800"'],
}  # fmt: skip


@pytest.mark.parametrize("type_", CASTS)
def test_what_people_write_is_read(ask: Ask, type_: str):
    """The other side of it: a cast isn't right by refusing everything."""
    expected = ask(f"SELECT x::{type_}::text FROM unnest($1::text[]) AS x", READ[type_])

    assert [str(CASTS[type_](one)) for one in READ[type_]] == expected


# -- digits --------------------------------------------------------------------------------------

_numerics = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**12), max_value=10**12),
    st.builds(lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(-(10**25), 10**25), st.integers(-40, 20)),
    st.sampled_from([Decimal(text) for text in ("NaN", "Infinity", "-Infinity", "0", "0.000", "1", "9999", "10000", "0.0001")]),
)  # fmt: skip


ARITHMETIC: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": decimals.add, "-": decimals.subtract, "*": decimals.multiply, "/": decimals.divide, "%": decimals.remainder,
}  # fmt: skip


@pytest.mark.parametrize("sign", ARITHMETIC)
@generated
@given(pairs=st.lists(st.tuples(_numerics, _numerics), min_size=30, max_size=50))
def test_numerics_have_postgres_digits(ask: Ask, sign: str, pairs: list[tuple[Decimal, Decimal]]):
    """All of them, and as many zeros behind the point."""
    pairs = [(decimals.stored(a), decimals.stored(b)) for a, b in pairs if b or sign not in "/%"]
    query = f"SELECT (a::numeric {sign} b::numeric)::text FROM unnest($1::text[], $2::text[]) AS pairs(a, b)"
    expected = ask(query, [format(a, "f") for a, _ in pairs], [format(b, "f") for _, b in pairs])

    assert [format(ARITHMETIC[sign](a, b), "f") for a, b in pairs] == expected


@generated
@given(numbers=st.lists(_numerics, min_size=30, max_size=50), places=st.integers(-15, 40))
def test_rounding(ask: Ask, numbers: list[Decimal], places: int):
    """A half goes away from zero, before the point and behind it."""
    numbers = [decimals.stored(number) for number in numbers]
    given_numbers = [format(number, "f") for number in numbers]
    for function, mine in (
        (f"round(x::numeric, {places})", lambda number: decimals.rounded(number, places)),
        ("floor(x::numeric)", decimals.floor),
        ("ceil(x::numeric)", decimals.ceiling),
    ):
        expected = ask(f"SELECT {function}::text FROM unnest($1::text[]) AS x", given_numbers)
        assert [format(mine(number), "f") for number in numbers] == expected, function


_floats = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-1074, 1023).map(lambda power: 2.0**power),
    st.builds(lambda digits, power: float(f"{digits}e{power}"), st.integers(1, 99), st.integers(-30, 40)),
)


@generated
@given(numbers=st.lists(_floats, min_size=60, max_size=120))
def test_floats_have_postgres_digits(ask: Ask, numbers: list[float]):
    """The fewest that name the float to Postgres, and as many as it casts to numeric."""
    texts_, digits = (
        "SELECT x::text FROM unnest($1::float8[]) AS x",
        "SELECT x::numeric::text FROM unnest($1::float8[]) AS x",
    )

    assert [floats.float_text(number) for number in numbers] == ask(texts_, numbers)
    assert [format(decimals.decimal_of_float(number), "f") for number in numbers] == ask(digits, numbers)


# -- text ----------------------------------------------------------------------------------------


def test_letters_have_the_case_that_postgres_gives_them(ask: Ask):
    """Of all characters that Python knows, one to one, in Postgres's own locale for UTF-8."""
    characters = [chr(code) for code in range(1, 0x110000) if chr(code).isprintable() and not 0xD800 <= code < 0xE000]
    lower = ask("SELECT lower(x COLLATE pg_c_utf8) FROM unnest($1::text[]) AS x", characters)
    upper = ask("SELECT upper(x COLLATE pg_c_utf8) FROM unnest($1::text[]) AS x", characters)

    # Postgres may know newer pairs of letters than this Python.
    differ = [
        each
        for each, low, up in zip(characters, lower, upper, strict=True)
        if (text.lower(each), text.upper(each)) != (low, up)
    ]
    assert all(text.lower(each) == text.upper(each) == each for each in differ)
    assert len(differ) < 50


_like_texts = st.text("ab%_\\É\n", max_size=8)


@generated
@given(
    pairs=st.lists(
        st.tuples(_like_texts, _like_texts.filter(lambda each: not each.endswith("\\"))), min_size=60, max_size=120
    )
)
def test_patterns(ask: Ask, pairs: list[tuple[str, str]]):
    """Nothing but %, _ and \\ means more than itself."""
    query = "SELECT a LIKE b FROM unnest($1::text[], $2::text[]) AS pairs(a, b)"
    expected = ask(query, [a for a, _ in pairs], [b for _, b in pairs])

    assert [text.is_matched(text.like_pattern(b), a) for a, b in pairs] == expected


def test_words_that_need_quotes(ask: Ask):
    """The list of reserved words is Postgres's own."""
    assert set(ask("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")) == RESERVED
