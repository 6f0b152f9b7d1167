"""`drop` leaves columns out."""

import pytest

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns
from pipeline_processing.steps.drop import Drop
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns((Column("id"), Column("name"), Column("extra")))


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
async def test_the_others_stay_in_their_order(columns: Columns):
    """Rows lose just those columns, and no row is dropped."""
    step = Drop(["name"], context(columns))

    left = await step(batch({"id": 1, "name": "a", "extra": 2}, {"id": 2, "name": None, "extra": 3}))

    assert [list(row.items()) for row in left.rows] == [[("id", 1), ("extra", 2)], [("id", 2), ("extra", 3)]]
    assert list(left.numbers or ()) == [1, 2]
    assert step.filtered == 0


def test_columns_that_are_left_are_known():
    """Also that a dropped one is gone where others aren't known."""
    assert Drop(["name"], context(COLUMNS)).columns.names == ("id", "extra")

    unknown = Drop(["name"], context(UNKNOWN_COLUMNS)).columns
    with pytest.raises(UnknownColumn, match="an earlier step left it out"):
        unknown.require("name", step="select")


def test_unknown_columns_are_found_before_the_first_row():
    """The message names the columns that there are."""
    with pytest.raises(UnknownColumn, match=r"'drop' reads column 'nmae'.*id, name, extra"):
        Drop(["nmae"], context(COLUMNS))


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell: the first that lacks one is told."""
    with pytest.raises(UnknownColumn, match="'name'"):
        await Drop(["name"], context(UNKNOWN_COLUMNS))(batch({"id": 1, "name": 2}, {"id": 1}))


def test_something_must_be_left():
    """Rows without any column have no meaning."""
    with pytest.raises(InvalidStep, match="would leave no column"):
        Drop(["extra", "id", "name"], context(COLUMNS))


def test_a_column_named_twice_is_refused():
    """It is a slip, most likely of the second name."""
    with pytest.raises(InvalidStep, match="'id' twice"):
        Drop(["id", "id"], context(COLUMNS))
