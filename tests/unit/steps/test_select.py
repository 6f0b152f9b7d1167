"""`select` keeps columns, in the order named."""

import pytest

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.ports import Column
from pipeline_processing.steps.select import Select

COLUMNS = (Column("id"), Column("name"), Column("extra"))


async def test_columns_are_kept_in_the_order_named():
    """Rows have just those columns, and no row is dropped."""
    step = Select(["name", "id"], COLUMNS)

    rows = await step([{"id": 1, "name": "a", "extra": 2}, {"id": 2, "name": None, "extra": 3}])

    assert [list(row.items()) for row in rows] == [[("name", "a"), ("id", 1)], [("name", None), ("id", 2)]]
    assert step.columns == (COLUMNS[1], COLUMNS[0])
    assert step.filtered == 0


def test_unknown_columns_are_found_before_the_first_row():
    """The message names the columns that there are."""
    with pytest.raises(UnknownColumn, match=r"'select' reads column 'nmae'.*id, name, extra"):
        Select(["id", "nmae"], COLUMNS)


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell which columns there are."""
    step = Select(["id"], None)

    assert step.columns is None
    assert await step([{"id": 1, "x": 2}]) == [{"id": 1}]
    with pytest.raises(UnknownColumn, match="the rows there have x"):
        await step([{"id": 1}, {"x": 2}])


@pytest.mark.parametrize("columns", [COLUMNS, None])
def test_a_column_named_twice_is_refused(columns: tuple[Column, ...] | None):
    """A row can't have two values of one name."""
    with pytest.raises(InvalidStep, match="'id' twice"):
        Select(["id", "name", "id"], columns)
