"""Each part of an expression is compiled once and runs once a row, however often what is around it needs it."""

from collections.abc import Callable
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.expressions.compile import column_read, compiled
from pipeline_processing.expressions.compiled import Compiled
from pipeline_processing.expressions.expression import condition, expression
from pipeline_processing.expressions.parse import parse
from pipeline_processing.expressions.tree import Name
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.rows.columns import Columns, Kind

COLUMNS = Columns(
    (
        column_of_kind("b", Kind.BOOLEAN, "json"),
        column_of_kind("t", Kind.TEXT, "json"),
        column_of_kind("i", Kind.INTEGER, "json"),
        column_of_kind("k", Kind.INTEGER, "json"),
        column_of_kind("n", Kind.NUMBER, "json"),
    )
)
LEVELS = 12
NESTED: dict[str, Callable[[str], str]] = {
    "a list with one constant": lambda inner: f"(NOT b) IN (true, {inner})",
    "a list of columns": lambda inner: f"({inner}) IN (b, NOT b)",
    "a list of both": lambda inner: f"({inner}) NOT IN (true, false, b)",
    "a range": lambda inner: f"({inner}) BETWEEN b AND b",
    "no range": lambda inner: f"({inner}) NOT BETWEEN b AND true",
    "nullif": lambda inner: f"nullif({inner}, b)",
    "a subject": lambda inner: f"CASE ({inner}) WHEN b THEN b WHEN NOT b THEN false WHEN NULL THEN b ELSE true END",
}


def nested(name: str) -> str:
    text = "NOT b"
    for _ in range(LEVELS):
        text = NESTED[name](text)
    return text


class CountedRow(dict[str, Any]):
    """A row that knows how often its columns were read."""

    reads = 0

    def __getitem__(self, name: str) -> Any:
        self.reads += 1
        return super().__getitem__(name)


@pytest.mark.parametrize("name", NESTED)
def test_each_part_is_compiled_once(name: str):
    """Nesting doesn't double the work: each name in the text is looked up once."""
    text, looked_up = nested(name), 0

    def column(column: Name) -> Compiled:
        nonlocal looked_up
        looked_up += 1
        return column_read(COLUMNS.require(column.name, step="derive"), "json")

    compiled(parse(text), column)

    assert looked_up == text.count("b")


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("truth", [True, False, None])
def test_each_part_runs_once_a_row(name: str, truth: bool | None):
    """Nor does it double the work of a row, which reads no column more often than its name stands in the text."""
    text, row = nested(name), CountedRow(b=truth)

    expression(text, COLUMNS, carry="json", step="derive", column="x").run([row])

    assert 0 < row.reads <= text.count("b")


def test_a_subject_that_no_branch_needs_is_not_computed():
    """Comparing with NULL decides nothing: as in Postgres, not even a subject without a value is a row's fault."""
    text = "CASE 1 / k WHEN NULL THEN 1 ELSE i END"
    compiled = expression(text, COLUMNS, carry="json", step="derive", column="x")

    assert compiled.run([{"i": 5, "k": 0}]) == ([5], {})


VALUES: list[list[Any]] = [[True, None], ["a", None], [1, 2, None], [0, 1, None], [Raw(b"1.0"), Raw(b"1.50"), None]]
ROWS = [dict(zip(("b", "t", "i", "k", "n"), values, strict=True)) for values in product(*VALUES)]


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ("i + 0 BETWEEN k AND n", "i + 0 >= k AND i + 0 <= n"),
        ("i / k BETWEEN NULL AND 1.5", "i / k >= NULL AND i / k <= 1.5"),
        ("i + k NOT BETWEEN 1 / k AND 2", "NOT (i + k >= 1 / k AND i + k <= 2)"),
        ("i / k IN (n, k, NULL)", "i / k = n OR i / k = k OR i / k = NULL"),
        ("i / k IN (k, NULL)", "i / k = k OR i / k = NULL"),
        ("nullif(i / k, n)", "CASE WHEN i / k = n THEN NULL ELSE (i / k)::numeric END"),
        ("nullif(i + k, 1)", "CASE WHEN i + k = 1 THEN NULL ELSE i + k END"),
        ("nullif(lower(t), 'a')", "CASE WHEN lower(t) = 'a' THEN NULL ELSE lower(t) END"),
        ("nullif(n * 1.0, NULL)", "CASE WHEN n * 1.0 = NULL THEN NULL ELSE n * 1.0 END"),
        ("CASE i / k WHEN NULL THEN 1 WHEN n THEN 2 WHEN k THEN 3 END",
         "CASE WHEN i / k = NULL THEN 1 WHEN i / k = n THEN 2 WHEN i / k = k THEN 3 END"),
        ("CASE i / k WHEN NULL THEN k ELSE i END", "CASE WHEN i / k = NULL THEN k ELSE i END"),
    ],
)  # fmt: skip
def test_once_is_the_same_as_twice(once: str, twice: str):
    """Nulls, row errors and the type that comes out are those of the longer way to write it."""
    one, other = (expression(text, COLUMNS, carry="json", step="derive", column="x") for text in (once, twice))

    assert one.run(ROWS) == other.run(ROWS)
    assert one.result.kind == other.result.kind


NUMBERS = [
    "0.1", "0.10000000000000000000001", "0.09999999999999999999999", "1e400", "1.5e400", "-1e400", "9007199254740993",
    "9007199254740992.5", "0", "-0.0", "1e-400", "NaN", "Infinity", "-Infinity",
]  # fmt: skip


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("sign", ["=", "<>", "<", "<=", ">", ">="])
def test_numbers_that_are_the_same_as_floats_differ(sign: str, carry: str):
    """A column is compared with a constant as with a column, of which only the latter is always exact."""
    columns = Columns((column_of_kind("n", Kind.NUMBER, carry), column_of_kind("m", Kind.NUMBER, carry)))
    form = form_of(Kind.NUMBER, carry)
    for number in NUMBERS:
        rows = [{"n": form.carried(Decimal(each)), "m": form.carried(Decimal(number))} for each in NUMBERS]

        exact = condition(f"n {sign} m", columns, carry=carry, step="filter").run(rows)

        assert condition(f"n {sign} '{number}'::numeric", columns, carry=carry, step="filter").run(rows) == exact
        assert not exact[1]
