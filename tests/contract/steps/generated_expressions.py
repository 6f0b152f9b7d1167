"""
Expressions made up at random, of every type, over the columns of `expression_rows.TABLE`.

Constants stand in ⟨ and ⟩. Postgres computes what it can of them before the first row, and by rules of its own leaves
some for later: so a part that has no value may be looked at or not. `plain` is the expression, `unfolded` one whose
constants it doesn't know beforehand.
"""

# ruff: noqa: E501 - tables of samples

import re

from hypothesis import strategies as st

TYPES = ("integer", "numeric", "float", "text", "boolean", "date", "timestamp", "timestamptz", "uuid", "json")

_COLUMNS = {
    "i",
    "k",
    "n",
    "m",
    "f",
    "g",
    "t",
    "s",
    "b",
    '"B"',
    "d",
    "ts",
    "tz",
    "u",
    "c::text",
    "mood::text",
    "j::json",
}
# Integers are 64 bits here, in Postgres whatever they look like: so they are cast where it would take them for less.
_LEAVES = {
    "integer": ["i", "k", "0::bigint", "1::bigint", "(-3)::bigint", "'7'::bigint", "9223372036854775807", "NULL::bigint"],
    "numeric": ["n", "m", "0.0", "1.50", "(-2.5)", "1e3", ".001", "12345.678901234567890", "'NaN'::numeric", "NULL::numeric"],
    "float": ["f", "g", "0.1::float8", "'Infinity'::float8", "'-0'::float8", "1e20::float8", "NULL::float8"],
    "text": ["t", "s", "c::text", "'a'::text", "''::text", "'É%_'::text", "' 5 '::text", "NULL::text", "mood::text"],
    "boolean": ["b", '"B"', "true", "false", "NULL::boolean"],
    "date": ["d", "DATE '2026-01-18'", "'infinity'::date", "NULL::date"],
    "timestamp": ["ts", "TIMESTAMP '2026-01-18 00:00:00'", "'0044-03-15 12:00:00.5 BC'::timestamp", "NULL::timestamp"],
    "timestamptz": ["tz", "TIMESTAMPTZ '2026-01-18 10:00:00+02'", "'-infinity'::timestamptz", "NULL::timestamptz"],
    "uuid": ["u", "UUID 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "NULL::uuid"],
    "json": ["NULL::json", "JSON '{\"a\": [1.50, \"x\"], \"É\": null}'", "j::json"],
    "sign": list("+-*/"),
    "comparison": ["=", "<>", "!=", "<", "<=", ">", ">="],
    "NOT": ["", "NOT"],
    "small": [str(number) for number in range(-4, 7)],
    "pattern": ["'%'", "'_%'", "'%a%'", "'a%'", r"'%\%%'", "'É%'", "'__'", "'%,%,%'"],
}  # fmt: skip

_MORE = {
    "integer": ["(<integer> <sign> <integer>)", "(<integer> % <integer>)", "(- <integer>)", "abs(<integer>)", "length(<text>)::bigint",
                "<text>::bigint", "<numeric>::bigint", "<float>::bigint", "(<boolean>)::int::bigint"],
    "numeric": ["(<numeric> <sign> <numeric>)", "(<numeric> % <integer>)", "(<integer> <sign> <numeric>)", "(- <numeric>)", "abs(<numeric>)",
                "round(<numeric>, <small>)", "round(<integer>, <small>)", "round(<numeric>)", "floor(<numeric>)", "ceil(<numeric>)",
                "<text>::numeric", "<integer>::numeric", "<float>::numeric", "<numeric>::numeric(6, 2)", "<numeric>::numeric(2, -1)",
                "extract(year FROM <date>)", "extract(month FROM <timestamp>)", "extract(day FROM <timestamptz>)"],
    "float": ["(<float> <sign> <float>)", "(<float> <sign> <numeric>)", "(<integer> <sign> <float>)", "(- <float>)", "abs(<float>)",
              "round(<float>)", "floor(<float>)", "ceiling(<integer>)", "<text>::double precision", "<integer>::float8", "<numeric>::float8"],
    "text": ["(<text> || <anything>)", "(<anything> || <text>)", "concat(<anything>, <anything>)", "lower(<text>)", "upper(<text>)", "trim(<text>)",
             "ltrim(<text>)", "rtrim(<text>, <text>)", "btrim(<text>, <text>)", "trim(LEADING <text> FROM <text>)", "trim(BOTH <text> FROM <text>)",
             "left(<text>, <small>)", "right(<text>, <small>)", "substr(<text>, <small>)", "substring(<text> FROM <small> FOR <small>)",
             "replace(<text>, <text>, <text>)", "split_part(<text>, <text>, <small>)", "<anything>::text", "(<json> ->> <text>)", "(<json> ->> 1)"],
    "boolean": ["(<anything> IS <NOT> NULL)", "(<json> IS <NOT> NULL)", "(<number> <comparison> <number>)", "(<time> <comparison> <time>)",
                "(<number> IS <NOT> DISTINCT FROM <number>)", "(<time> <NOT> BETWEEN <time> AND <time>)", "(<number> <NOT> IN (<number>, <number>))",
                "(<text> <NOT> LIKE <text>)", "(<text> <NOT> ILIKE <pattern>)", "(<text> LIKE <pattern>)", "starts_with(<text>, <text>)",
                "(<boolean> AND <boolean>)", "(<boolean> OR <boolean> OR <boolean>)", "(NOT <boolean>)", "(<boolean> IS <NOT> TRUE)",
                "(<boolean> IS <NOT> UNKNOWN)", "<text>::boolean"]
        + [form.replace("x", f"<{name}>") for name in TYPES if name != "json"
           for form in ("(x <comparison> x)", "(x IS <NOT> DISTINCT FROM x)", "(x <NOT> BETWEEN x AND x)", "(x <NOT> IN (x, x, NULL))")],
    "date": ["<time text>::date", "<timestamp>::date", "<timestamptz>::date"],
    "timestamp": ["<time text>::timestamp", "<date>::timestamp", "<timestamptz>::timestamp"],
    "timestamptz": ["<time text>::timestamptz", "<date>::timestamptz", "<timestamp>::timestamptz"],
    "uuid": ["<text>::uuid"],
    "json": ["(<json> -> <text>)", "(<json> -> 1)", "(<json> -> 'a')", "<text>::json"],
    # Around a time Postgres takes much for a time that is refused here: no text is put together for it.
    "time text": ["t", "s", "c", "<date>::text", "<timestamp>::text", "<timestamptz>::text"],
    "number": ["<integer>", "<numeric>", "<float>"],
    "time": ["<date>", "<timestamp>", "<timestamptz>"],
    "anything": [f"<{name}>" for name in TYPES if name != "json"],
}  # fmt: skip

_OF_ANY_TYPE = [
    "CASE WHEN <boolean> THEN x ELSE x END", "CASE WHEN <boolean> THEN x WHEN <boolean> THEN x END", "coalesce(x, x, NULL)",
]  # fmt: skip
_OF_ANY_WITH_ORDER = [
    "CASE x WHEN x THEN x ELSE x END", "nullif(x, x)", "greatest(x, x, x)", "least(x, x)",
]  # fmt: skip
_HOLE = re.compile("<([A-Za-z ]+)>")


def _forms(name: str) -> list[str]:
    common = _OF_ANY_TYPE + (_OF_ANY_WITH_ORDER if name != "json" else [])
    return _MORE.get(name, []) + ([form.replace("x", f"<{name}>") for form in common] if name in TYPES else [])


_FORMS = {name: _forms(name) for name in {*_LEAVES, *_MORE}}


@st.composite
def expressions(draw: st.DrawFn, name: str | None = None, depth: int = 3) -> str:
    """An expression of that type, or of any; so many levels deep at most, and often less."""

    def made(hole: str, depth: int) -> str:
        leaves, forms = _LEAVES.get(hole, []), _FORMS[hole]
        if leaves and (not depth or not forms or not draw(st.integers(0, 3))):
            leaf = draw(st.sampled_from(leaves))
            return f"⟨{leaf}⟩" if hole in TYPES and leaf not in _COLUMNS else leaf
        form = draw(st.sampled_from(forms))
        return _HOLE.sub(lambda match: made(match[1], depth - bool(leaves)), form)

    return made(name or draw(st.sampled_from(TYPES)), depth)


def plain(marked: str) -> str:
    """The expression as people write it."""
    return marked.replace("⟨", "").replace("⟩", "")


def unfolded(marked: str) -> str:
    """For Postgres alone, which computes none of it before the first row."""
    return marked.replace("⟨", "(SELECT ").replace("⟩", ")")


def has_constant_time(marked: str) -> bool:
    """
    Whether constants of times are in it. Postgres computes nothing of them before the first row where the session has a
    say in it, so that what isn't looked at because of them may be looked at there.
    """
    return re.search("⟨[^⟩]*(date|time)", marked, re.IGNORECASE) is not None
