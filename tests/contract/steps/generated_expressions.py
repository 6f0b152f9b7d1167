"""Expressions made up at random, of every type, over the columns of `expression_rows.TABLE`."""

from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st

Strategy = st.SearchStrategy[str]

# Integers are 64 bits here, in Postgres whatever they look like: so they are cast where it would take them for less.
_LEAVES = {
    "integer": ["i", "k", "0::bigint", "1::bigint", "(-3)::bigint", "'7'::bigint", "9223372036854775807", "NULL::bigint"],
    "numeric": ["n", "m", "0.0", "1.50", "(-2.5)", "1e3", ".001", "12345.678901234567890", "'NaN'::numeric", "NULL::numeric"],
    "double precision": ["f", "g", "0.1::float8", "'Infinity'::float8", "'-0'::float8", "1e20::float8", "NULL::float8"],
    "text": ["t", "s", "c::text", "'a'::text", "''::text", "'É%_'::text", "' 5 '::text", "NULL::text", "mood::text"],
    "boolean": ["b", '"B"', "true", "false", "NULL::boolean"],
    "date": ["d", "DATE '2026-01-18'", "'infinity'::date", "NULL::date"],
    "timestamp": ["ts", "TIMESTAMP '2026-01-18 00:00:00'", "'0044-03-15 12:00:00.5 BC'::timestamp", "NULL::timestamp"],
    "timestamptz": ["tz", "TIMESTAMPTZ '2026-01-18 10:00:00+02'", "'-infinity'::timestamptz", "NULL::timestamptz"],
    "uuid": ["u", "UUID 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "NULL::uuid"],
    "json": ["NULL::json", "JSON '{\"a\": [1.50, \"x\"], \"É\": null}'", "j::json"],
}  # fmt: skip
TYPES = sorted(_LEAVES)
_COMPARABLE = [name for name in TYPES if name != "json"]

_TIMES = ("date", "timestamp", "timestamptz")

_comparison = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
_not = st.sampled_from(["", "NOT "])
_small = st.integers(-4, 6).map(str)


def _numbers(of: Callable[[str], Strategy], name: str) -> list[Strategy]:
    same = of(name)
    signs = ["+", "-", "*", "/"] if name == "double precision" else ["+", "-", "*", "/", "%"]
    return [
        st.builds("({} {} {})".format, same, st.sampled_from(signs), same),
        st.builds("(- {})".format, same),
        st.builds("abs({})".format, same),
    ]


def _of_type(of: Callable[[str], Strategy], name: str) -> list[Strategy]:
    """What has that type and isn't to be had of every type."""
    text, whole, exact, real = of("text"), of("integer"), of("numeric"), of("double precision")
    # Around a time Postgres takes much for a time that is refused here: no text is put together for it.
    time_text = st.one_of(
        st.sampled_from(["t", "s", "c"]), *(st.builds("{}::text".format, of(time)) for time in _TIMES)
    )
    match name:
        case "integer":
            return [
                *_numbers(of, name),
                st.builds("length({})::bigint".format, text),
                st.builds("{}::bigint".format, st.one_of(text, exact, real)),
                st.builds("({})::int::bigint".format, of("boolean")),
            ]
        case "numeric":
            fields = st.sampled_from(["year", "month", "day"])
            moments = st.one_of(of("date"), of("timestamp"), of("timestamptz"))
            return [
                *_numbers(of, name),
                st.builds("({} {} {})".format, whole, st.sampled_from("+-*/%"), exact),
                st.builds("round({}, {})".format, st.one_of(exact, whole), _small),
                st.builds("{}({})".format, st.sampled_from(["round", "floor", "ceil"]), exact),
                st.builds("{}::numeric".format, st.one_of(text, whole, real)),
                st.builds("{}::numeric({}, {})".format, exact, st.integers(1, 12), st.integers(-2, 6)),
                st.builds("extract({} FROM {})".format, fields, moments),
            ]
        case "double precision":
            return [
                *_numbers(of, name),
                st.builds("({} {} {})".format, real, st.sampled_from("+-*/"), st.one_of(whole, exact)),
                st.builds("{}({})".format, st.sampled_from(["round", "floor", "ceiling"]), st.one_of(real, whole)),
                st.builds("{}::double precision".format, st.one_of(text, whole, exact)),
            ]
        case "text":
            anything = st.one_of(*map(of, _COMPARABLE))
            return [
                st.builds("({} || {})".format, text, anything),
                st.builds("({} || {})".format, anything, text),
                st.builds("concat({}, {})".format, anything, anything),
                st.builds("{}({})".format, st.sampled_from(["lower", "upper", "trim", "ltrim", "rtrim"]), text),
                st.builds("{}({}, {})".format, st.sampled_from(["btrim", "ltrim", "rtrim"]), text, text),
                st.builds("trim({} {} FROM {})".format, st.sampled_from(["LEADING", "TRAILING", "BOTH"]), text, text),
                st.builds("{}({}, {})".format, st.sampled_from(["left", "right", "substr"]), text, _small),
                st.builds("substring({} FROM {} FOR {})".format, text, _small, _small),
                st.builds("replace({}, {}, {})".format, text, text, text),
                st.builds("split_part({}, {}, {})".format, text, text, _small),
                st.builds("{}::text".format, anything),
                st.builds("({} ->> {})".format, of("json"), st.one_of(text, st.just("1"))),
            ]
        case "boolean":
            return [_conditions(of)]
        case "date":
            return [st.builds("{}::date".format, st.one_of(time_text, of("timestamp"), of("timestamptz")))]
        case "timestamp":
            return [st.builds("{}::timestamp".format, st.one_of(time_text, of("date"), of("timestamptz")))]
        case "timestamptz":
            return [st.builds("{}::timestamptz".format, st.one_of(time_text, of("date"), of("timestamp")))]
        case "uuid":
            return [st.builds("{}::uuid".format, text)]
    return [
        st.builds("({} -> {})".format, of("json"), st.one_of(text, st.just("1"), st.just("'a'"))),
        st.builds("{}::json".format, text),
    ]


def _conditions(of: Callable[[str], Strategy]) -> Strategy:
    truth, text = of("boolean"), of("text")
    alike = [of(name) for name in _COMPARABLE]
    alike.append(st.one_of(of("integer"), of("numeric"), of("double precision")))
    alike.append(st.one_of(of("date"), of("timestamp"), of("timestamptz")))
    return st.one_of(
        *(st.builds("({} {} {})".format, each, _comparison, each) for each in alike),
        *(st.builds("({} IS {}DISTINCT FROM {})".format, each, _not, each) for each in alike),
        *(st.builds("({} {}BETWEEN {} AND {})".format, each, _not, each, each) for each in alike),
        *(st.builds("({} {}IN ({}, {}, NULL))".format, each, _not, each, each) for each in alike),
        st.builds("({} {}{} {})".format, text, _not, st.sampled_from(["LIKE", "ILIKE"]), st.one_of(text, _patterns)),
        st.builds("starts_with({}, {})".format, text, text),
        st.builds("({} AND {})".format, truth, truth),
        st.builds("({} OR {} OR {})".format, truth, truth, truth),
        st.builds("(NOT {})".format, truth),
        st.builds("({} IS {}{})".format, truth, _not, st.sampled_from(["TRUE", "FALSE", "UNKNOWN", "NULL"])),
        st.builds("({} IS {}NULL)".format, st.one_of(*map(of, TYPES)), _not),
        st.builds("{}::boolean".format, text),
    )


_patterns = st.sampled_from(["'%'", "'_%'", "'%a%'", "'a%'", r"'%\%%'", "'É%'", "'__'", "'%,%,%'"])


def _of_any_type(of: Callable[[str], Strategy], name: str) -> list[Strategy]:
    same, truth = of(name), of("boolean")
    whichever = [
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, truth, same, same),
        st.builds("CASE WHEN {} THEN {} WHEN {} THEN {} END".format, truth, same, truth, same),
        st.builds("coalesce({}, {}, NULL)".format, same, same),
    ]
    if name == "json":
        return whichever
    return [
        *whichever,
        st.builds("CASE {} WHEN {} THEN {} ELSE {} END".format, same, same, same, same),
        st.builds("nullif({}, {})".format, same, same),
        st.builds("{}({}, {}, {})".format, st.sampled_from(["greatest", "least"]), same, same, same),
    ]


@cache
def expressions(name: str, depth: int = 3) -> Strategy:
    """Expressions of that type, so many levels deep at most."""
    leaves = st.sampled_from(_LEAVES[name])
    if depth == 0:
        return leaves

    def deeper(other: str) -> Strategy:
        return st.deferred(lambda: expressions(other, depth - 1))

    return st.one_of(leaves, *_of_type(deeper, name), *_of_any_type(deeper, name))
