"""`dedupe` keeps the first row of each key."""

import sqlite3
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import ValidationError

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from pipeline_processing.steps.dedupe import Dedupe, DedupeOptions
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns(
    (
        column_of_kind("id", Kind.INTEGER, "json"),
        column_of_kind("amount", Kind.NUMBER, "json"),
        column_of_kind("name", Kind.TEXT, "json"),
        column_of_kind("doc", Kind.JSON, "json"),
    )
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["0", "-0.0", "1", "1.0", "1.00", "1e0", "1.5", "NaN"]),
        st.none() | st.sampled_from(["", "a", "A", "a ", "NaN", "é"]),
    ),
    max_size=25,
)


def dedupe(*by: str, columns: Columns = COLUMNS) -> Dedupe:
    return Dedupe(DedupeOptions(by=by), context(columns))


@given(rows=ROWS, by=st.sampled_from([("amount",), ("name",), ("amount", "name")]), size=st.integers(1, 7))
async def test_it_keeps_what_distinct_on_keeps(
    rows: list[tuple[str | None, str | None]], by: tuple[str, ...], size: int
):
    """DISTINCT ON (…) ordered by the place in the source, in a database, however the rows come in batches."""
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE source (id INTEGER, amount, name TEXT)")
        for number, (amount, name) in enumerate(rows, start=1):
            # SQLite has no NaN.
            value = amount if amount in (None, "NaN") else float(amount)
            database.execute("INSERT INTO source VALUES (?, ?, ?)", (number, value, name))
        kept = database.execute(f"SELECT min(id) FROM source GROUP BY {', '.join(by)} ORDER BY 1").fetchall()

    left: list[int] = []
    step = dedupe(*by)
    async with step:
        for start in range(0, len(rows), size):
            read: list[Row] = [
                {"id": number, "amount": None if amount is None else Raw(amount), "name": name, "doc": None}
                for number, (amount, name) in enumerate(rows[start : start + size], start=start + 1)
            ]
            after = await step(batch(*read, first=start + 1))
            assert list(after.numbers or ()) == [row["id"] for row in after.rows]
            left += [row["id"] for row in after.rows]

    assert left == [number for (number,) in kept]
    assert step.filtered == len(rows) - len(left)


async def test_behind_a_python_step():
    """Values are compared as they were left there."""
    step = dedupe("x", columns=UNKNOWN_COLUMNS)
    rows: list[Row] = [{"x": 1}, {"x": Decimal("1.0")}, {"x": "1"}, {"x": None}, {"x": None}, {"x": True}]

    async with step:
        left = await step(batch(*rows))
        with pytest.raises(UnknownColumn, match="'x'"):
            await step(batch({"y": 1}))

    assert left.rows == [{"x": 1}, {"x": "1"}, {"x": None}, {"x": True}]
    assert left.numbers == [1, 3, 4, 6]


def test_columns_stay():
    """Only rows go."""
    assert dedupe("id").columns == COLUMNS


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        (("nope",), UnknownColumn, "'dedupe: nope' reads column 'nope'"),
        (("doc",), InvalidStep, "can't compare"),
        (("id", "id"), InvalidStep, "'id' twice"),
    ],
)
def test_wrong_columns_are_found_before_the_first_row(by: tuple[str, ...], error: type[Exception], message: str):
    """No file is opened for them."""
    with pytest.raises(error, match=message):
        dedupe(*by)


@pytest.mark.parametrize("options", [{"by": []}, {"by": ["id"], "keep": "last"}, {"by": ["id"], "memory": 5}, {}])
def test_wrong_options(options: dict[str, Any]):
    """The last row of a key isn't known before the end."""
    with pytest.raises(ValidationError):
        DedupeOptions.model_validate(options)
