"""`select` keeps columns, in the order named."""

import pytest

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, unknown
from pipeline_processing.steps.select import Select
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns((Column("id"), Column("name"), Column("extra")))


async def test_columns_are_kept_in_the_order_named():
    """Rows have just those columns, and no row is dropped."""
    step = Select(["name", "id"], context(COLUMNS))

    kept = await step(batch({"id": 1, "name": "a", "extra": 2}, {"id": 2, "name": None, "extra": 3}))

    assert [list(row.items()) for row in kept.rows] == [[("name", "a"), ("id", 1)], [("name", None), ("id", 2)]]
    assert list(kept.numbers or ()) == [1, 2]
    assert step.columns == Columns((COLUMNS.listed[1], COLUMNS.listed[0]))
    assert step.filtered == 0


def test_unknown_columns_are_found_before_the_first_row():
    """The message names the columns that there are."""
    with pytest.raises(UnknownColumn, match=r"'select' reads column 'nmae'.*id, name, extra"):
        Select(["id", "nmae"], context(COLUMNS))


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell which columns there are; after a `select` they are known again."""
    step = Select(["id"], context(UNKNOWN_COLUMNS))

    assert step.columns == Columns((unknown("id"),))
    assert (await step(batch({"id": 1, "x": 2}))).rows == [{"id": 1}]
    with pytest.raises(UnknownColumn, match="the rows there have x"):
        await step(batch({"id": 1}, {"x": 2}))


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
def test_a_column_named_twice_is_refused(columns: Columns):
    """A row can't have two values of one name."""
    with pytest.raises(InvalidStep, match="'id' twice"):
        Select(["id", "name", "id"], context(columns))
