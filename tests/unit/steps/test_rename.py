"""`rename` gives columns other names, in place."""

import pytest

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns
from pipeline_processing.rows.values import PLAIN_NUMBER
from pipeline_processing.steps.rename import Rename
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns((Column("id", comparison=PLAIN_NUMBER), Column("name"), Column("extra")))


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
async def test_order_and_values_stay(columns: Columns):
    """Only the name changes, whether the columns are known beforehand or not."""
    step = Rename({"name": "display name", "id": "ID"}, context(columns))

    renamed = await step(batch({"id": 1, "name": "a", "extra": None}))

    assert [list(row.items()) for row in renamed.rows] == [[("ID", 1), ("display name", "a"), ("extra", None)]]
    assert list(renamed.numbers or ()) == [1]
    assert step.filtered == 0


def test_what_is_known_of_a_column_stays():
    """A renamed column compares as before."""
    columns = Rename({"id": "key"}, context(COLUMNS)).columns

    assert columns == Columns((Column("key", comparison=PLAIN_NUMBER), Column("name"), Column("extra")))


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
async def test_names_can_be_swapped(columns: Columns):
    """All renaming happens at once."""
    step = Rename({"id": "name", "name": "id"}, context(columns))

    assert (await step(batch({"id": 1, "name": "a", "extra": 2}))).rows == [{"name": 1, "id": "a", "extra": 2}]


def test_unknown_columns_are_found_before_the_first_row():
    """The message names the columns that there are."""
    with pytest.raises(UnknownColumn, match=r"'rename' reads column 'nmae'.*id, name, extra"):
        Rename({"nmae": "x"}, context(COLUMNS))


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell which columns there are."""
    with pytest.raises(UnknownColumn, match="'name'"):
        await Rename({"name": "x"}, context(UNKNOWN_COLUMNS))(batch({"id": 1}))


def test_two_columns_of_one_name_are_refused():
    """No column is lost silently."""
    for names in ({"id": "name"}, {"id": "x", "name": "x"}):
        with pytest.raises(InvalidStep, match="two columns the name"):
            Rename(names, context(COLUMNS))


async def test_two_columns_of_one_name_are_refused_in_rows():
    """Not behind a python step either."""
    with pytest.raises(InvalidStep, match="two columns the name"):
        await Rename({"id": "name"}, context(UNKNOWN_COLUMNS))(batch({"id": 1, "name": 2}))
