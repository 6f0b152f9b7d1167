"""`add` puts constants behind the other columns."""

from datetime import UTC, datetime

import pytest

from pipeline_processing.errors import InvalidStep
from pipeline_processing.ports import Column
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.filter import Filter

COLUMNS = (Column("id"),)
ARGUMENTS = {"region": "eu", "agency_id": 7, "run_id": "r-1", "since": None, "until": datetime(2026, 1, 18, tzinfo=UTC)}


async def test_constants_stand_behind_the_columns():
    """All kinds of constants, in their order."""
    constants = {"text": "x", "number": 5, "float": 1.5, "yes": True, "nothing": None}
    step = Add(constants, COLUMNS, arguments=ARGUMENTS)

    rows = await step([{"id": 1}, {"id": 2}])

    assert rows == [{"id": 1} | constants, {"id": 2} | constants]
    assert step.columns is not None
    assert [column.name for column in step.columns] == ["id", *constants]
    assert step.filtered == 0


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{agency_id}", "7"),
        ("{run_id} of {region}", "r-1 of eu"),
        ("{since}", ""),
        ("{{run_id}} }}{{", "{run_id} }{"),
        ("", ""),
        ("🦉 100% $1 \\", "🦉 100% $1 \\"),
    ],
)
async def test_names_are_filled_in(template: str, text: str):
    """Built-in names and params; braces are doubled to stand for themselves."""
    [row] = await Add({"x": template}, COLUMNS, arguments=ARGUMENTS)([{"id": 1}])

    assert row == {"id": 1, "x": text}


@pytest.mark.parametrize(
    "template",
    [
        "{nonsense}",
        "{}",
        "{0}",
        "{run_id.__class__}",
        "{run_id[0]}",
        "{agency_id:>10}",
        "{run_id!r}",
        "{",
        "}",
        "{run_id",
    ],
)
def test_nothing_but_names_is_filled_in(template: str):
    """No attributes, items, formats or conversions: a template can't reach into objects."""
    with pytest.raises(InvalidStep, match="'add'"):
        Add({"x": template}, COLUMNS, arguments=ARGUMENTS)


async def test_values_are_not_templates():
    """What a param holds is put in as it is."""
    [row] = await Add({"x": "{region}"}, COLUMNS, arguments={"region": "{run_id}"})([{"id": 1}])

    assert row["x"] == "{run_id}"


def test_no_column_is_replaced():
    """A name that is there already is refused."""
    with pytest.raises(InvalidStep, match="replace the column 'id'"):
        Add({"id": 1}, COLUMNS, arguments=ARGUMENTS)


async def test_no_column_is_replaced_in_rows():
    """Not behind a python step either, where only the rows tell."""
    with pytest.raises(InvalidStep, match="replace the column 'id'"):
        await Add({"id": 1}, None, arguments=ARGUMENTS)([{"id": 2}])


@pytest.mark.parametrize("condition", ["x = 'eu'", "n > 4", "yes", "nothing IS NULL"])
async def test_constants_can_be_filtered_by(condition: str):
    """A later filter reads constants like any other column."""
    step = Add({"x": "{region}", "n": 5, "yes": True, "nothing": None}, COLUMNS, arguments=ARGUMENTS)
    rows = await step([{"id": 1}])

    assert await Filter(condition, step.columns)(rows) == rows
