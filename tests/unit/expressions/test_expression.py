"""What steps rely on: whatever the text and whatever the row, there is a value, a row's fault or a refusal."""

# ruff: noqa: E501 - tables of samples

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.expressions.compile import FUNCTION_NAMES
from pipeline_processing.expressions.expression import Expression, cast_of, condition, expression
from pipeline_processing.expressions.parse import MAX_DEPTH
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from tests.properties import examples

COLUMNS = Columns(tuple(column_of_kind(f"{kind}", kind, "json") for kind in Kind))
ROW: Row = {
    "text": "a1", "integer": 5, "number": Raw(b"1.50"), "float": Raw(b"2.5"), "boolean": True, "date": "2026-01-18",
    "timestamp": "2026-01-18T10:00:00", "timestamptz": "2026-01-18T10:00:00+00:00",
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "json": Raw(b'{"a": [1]}'),
}  # fmt: skip
NULLS: Row = dict.fromkeys(ROW)


def compiled(text: str, columns: Columns = COLUMNS) -> Expression:
    return expression(text, columns, carry="json", step="derive", column="x")


def value(text: str, row: Row = ROW) -> Any:
    [found], faults = compiled(text).run([row])
    return faults.get(0, found)


# -- limits --------------------------------------------------------------------------------------

# Some of these take two levels for each.
DEEP: dict[str, Callable[[int], str]] = {
    "sums": lambda levels: "integer" + " + 1" * levels,
    "signs": lambda levels: "- " * levels + "integer",
    "parentheses": lambda levels: "(" * levels + "1" + ")" * levels,
    "functions": lambda levels: "lower(" * levels + "text" + ")" * levels,
    "trims": lambda levels: "trim(both from " * levels + "text" + ")" * levels,
    "choices": lambda levels: "coalesce(NULL, " * levels + "text" + ")" * levels,
    "cases": lambda levels: "CASE WHEN boolean THEN " * levels + "text" + " END" * levels,
    "subjects": lambda levels: "CASE " * levels + "text" + " WHEN text THEN text END" * levels,
    "values": lambda levels: (
        "CASE NOT boolean WHEN " * (levels - 1) + "boolean" + " THEN text = 'a' ELSE boolean END" * (levels - 1)
    ),
    "not": lambda levels: "NOT " * levels + "boolean",
    "conditions": lambda levels: "NOT (boolean AND " * (levels // 2) + "boolean" + ")" * (levels // 2),
    "tests": lambda levels: "boolean" + " IS NULL" * levels,
    "lists": lambda levels: "text IN (" + "substring(" * (levels - 1) + "text" + " for 5)" * (levels - 1) + ")",
    "casts": lambda levels: "text" + "::text" * levels,
    "ranges": lambda levels: "(NOT boolean) NOT BETWEEN false AND (" * (levels - 1) + "boolean" + ")" * (levels - 1),
    "items": lambda levels: "(NOT boolean) NOT IN (boolean, " * (levels - 1) + "boolean" + ")" * (levels - 1),
    "nullifs": lambda levels: "nullif(NOT boolean, " * (levels - 1) + "boolean" + ")" * (levels - 1),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS], ids=["known", "unknown"])
def test_the_deepest_that_is_allowed_runs(name: str, columns: Columns):
    """It fits into Python's stack, compiled and run, also from far down."""
    text = DEEP[name](MAX_DEPTH - 2)

    def far_down(frames: int) -> None:
        if frames:
            far_down(frames - 1)
            return
        row = ROW | {"float": 2.5, "number": Decimal("1.5"), "json": {}} if columns is UNKNOWN_COLUMNS else ROW
        [found], faults = compiled(text, columns).run([row])
        assert (found is not None, faults) == (True, {})

    far_down(sys.getrecursionlimit() // 4)


@pytest.mark.parametrize("name", DEEP)
def test_deeper_is_refused(name: str):
    """However it is built, a tree that could exhaust the stack isn't made."""
    with pytest.raises(InvalidStep, match="levels deep: split it over several steps"):
        compiled(DEEP[name](600))


def test_the_limit_is_exact():
    """A sum of 100 numbers is 100 levels deep, and one of 101 is too much."""
    assert value(DEEP["sums"](MAX_DEPTH - 1)) == 4 + MAX_DEPTH
    with pytest.raises(InvalidStep, match="more than 100 levels deep"):
        compiled(DEEP["sums"](MAX_DEPTH))


def test_text_doesnt_grow_without_end():
    """A few characters of config can't fill the memory."""
    text = "'aaaaaaaaaa'"
    for _ in range(9):
        text = f"replace({text}, 'a', 'aaaaaaaaaa')"

    with pytest.raises(InvalidStep, match="a text grows too long"):
        compiled(text)
    assert value(text.replace("'aaaaaaaaaa'", "text", 1).replace("replace(text", "replace('aaaaaaaaaa' || text")) == (
        "a text grows too long"
    )


def test_no_pattern_takes_for_ever():
    """A pattern with many % is no regular expression that tries all combinations."""
    row = ROW | {"text": "a" * 20_000}

    assert value("text LIKE '" + "%a" * 50 + "%b'", row) is False
    assert value("text LIKE '" + "%a" * 50 + "'", row) is True
    assert value("text LIKE '" + "%_a" * 50 + "%b%'", row) is False


def test_no_number_takes_for_ever():
    """Numbers too large for Postgres are refused before they are written out."""
    for number in ("1e999999999", "1e131073", "'1e9999999999999999999'::numeric"):
        with pytest.raises(InvalidStep, match="out of range for numeric"):
            compiled(number)


UNREADABLE = "a json can't be read, or has a string with characters in it that text can't have"


@pytest.mark.parametrize("document", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_no_document_blows_the_stack(document: str):
    """A json nested too deeply is a row's fault, as text and as a column."""
    assert value("text::json", ROW | {"text": document}) == "the text isn't JSON"
    assert value("json -> 'a'", ROW | {"json": Raw(document)}) == UNREADABLE


@pytest.mark.parametrize("to", ["ınt", "İnt8", "timeſtamp", "int4"])
def test_a_cast_to_no_type_is_an_invalid_step(to: str):
    """Also to one that only looks like a type where case doesn't matter."""
    with pytest.raises(
        InvalidStep, match=rf"column 'text', has '{to}' where a type is expected\. Supported types: text, integer"
    ):
        cast_of("text", to, COLUMNS, carry="json", step="cast")


# -- any text ------------------------------------------------------------------------------------

FUNCTIONS = [name for name in FUNCTION_NAMES if not name.startswith("EXTRACT")]
WORDS = [
    *(kind.value if kind is not Kind.TIMESTAMP else '"timestamp"' for kind in Kind),
    *FUNCTIONS, "extract(year from",
    *("1", "-2", "1.50", "'a'", "'5'", "'2026-01-18'", "NULL", "true", "(", ")", ",", "=", "<", "+", "-", "*", "/", "%", "||"),
    *("->", "->>", "AND", "OR", "NOT", "IS NULL", "IN (", "LIKE", "BETWEEN", "::text", "::int", "::numeric", "::json", "::date"),
    *("CASE WHEN", "THEN", "ELSE", "END"),
]  # fmt: skip
NATURAL: Row = ROW | {"number": Decimal("1.50"), "float": 2.5, "json": {"a": [1]}}


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Words in any order; most calls have their parentheses, so that some of it is an expression."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
    joined = " ".join(f"{word}(" if word in FUNCTIONS else word for word in words)
    return joined + ")" * max(0, joined.count("(") - joined.count(")"))


@examples(2000)
@given(text=texts())
def test_any_expression_has_a_value_a_fault_or_a_refusal(text: str):
    """For any row, known types or not, nothing else comes out: no error of Python's own, and none of its values."""
    for columns, rows in ((COLUMNS, [ROW, NULLS]), (UNKNOWN_COLUMNS, [NATURAL, NULLS])):
        try:
            found = compiled(text, columns)
            values, faults = found.run(rows)
        except (InvalidStep, UnknownColumn):
            continue
        assert all(isinstance(each, (str, int, Raw, type(None))) for each in values) or not found.result.typed
        assert not any("a0eebc99" in reason or "a1" in reason for reason in faults.values())


# -- no way out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "__class__", "text.__class__", '"__class__"', "__import__('os')", "eval('1')", "exec('1')", "getattr(text, 'upper')",
        "open('/etc/passwd')", "lambda: 1", "{0.__class__}", "%(text)s", "text if boolean else text", "[text]", "text[0]", "`text`",
        "pg_read_file('/etc/passwd')", "current_setting('x')", "(SELECT 1)", "EXISTS (SELECT 1)", "1; DROP TABLE x", "version()",
        "lo_import('/etc/passwd')", "dblink('x')", "query_to_xml('x')", "text COLLATE \"C\"", "text OPERATOR(pg_catalog.||) text",
        "$1", "@x", "text := 1", "coalesce(VARIADIC text)", "lower(text => text)", "lower(ALL text)", "count(*)", "lower(text) OVER ()",
        "text UNION text", "ROW(1)", "ARRAY[1]", "interval '1 day'", "now()", "CURRENT_USER", "nextval('x')", "generate_series(1, 9)",
    ],
)  # fmt: skip
def test_there_is_no_way_out(text: str):
    """What isn't listed isn't there: no attribute, no function of Python's or the server's, no statement."""
    for columns in (COLUMNS, UNKNOWN_COLUMNS):
        if columns is UNKNOWN_COLUMNS and text.strip('"') == "__class__":
            continue  # that could be a column; `test_any_name_is_only_a_key` looks into it
        with pytest.raises((InvalidStep, UnknownColumn)):
            compiled(text, columns)


@pytest.mark.parametrize("name", ["__class__", "__init__", "keys", "items", "self", "row"])
def test_any_name_is_only_a_key(name: str):
    """A column is looked up in the row and nowhere else."""
    found = compiled(f'"{name}"', UNKNOWN_COLUMNS)

    assert found.run([{name: "its value"}]) == (["its value"], {})
    with pytest.raises(UnknownColumn, match="the rows there have other"):
        found.run([{"other": 1}])


def test_conditions_are_truths():
    """True, false or null, and nothing that only looks like it."""
    for text, expected in (("integer > 4", True), ("integer > 5", False), ("integer > NULL", None), ("boolean", True)):
        truths, _ = condition(text, COLUMNS, carry="json", step="filter").run([ROW])
        assert truths == [expected]
        assert type(truths[0]) in (bool, type(None))
