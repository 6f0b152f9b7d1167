"""`add` puts constants behind the other columns."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.errors import InvalidStep
from pipeline_processing.kinds import text_of
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.step import StepContext
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns((Column("id"),))
ARGUMENTS = {"region": "eu", "agency_id": 7, "run_id": "r-1", "since": None, "until": datetime(2026, 1, 18, tzinfo=UTC)}
CONSTANTS = {"text": "x", "number": 5, "float": 1.5, "whole": 2.0, "yes": True, "nothing": None}


def bound(columns: Columns = COLUMNS, **changes: Any) -> StepContext:
    return context(columns, **{"arguments": ARGUMENTS, **changes})


@pytest.mark.parametrize(
    ("carry", "values"),
    [
        ("json", ["x", "5", "1.5", "2", "true", None]),
        ("text", ["x", "5", "1.5", "2", "t", None]),
    ],
)
async def test_constants_stand_behind_the_columns(carry: str, values: list[str | None]):
    """All kinds of constants, in their order, carried as the format prints them."""
    step = Add(CONSTANTS, bound(carry=carry))

    added = await step(batch({"id": 1}, {"id": 2}))

    for number, row in enumerate(added.rows, start=1):
        assert list(row) == ["id", *CONSTANTS]
        assert row["id"] == number
        assert [None if row[name] is None else text_of(row[name]) for name in CONSTANTS] == values
    assert step.columns.names == ("id", *CONSTANTS)
    assert step.filtered == 0


async def test_numbers_stay_numbers():
    """In JSON a constant isn't text unless it was."""
    [row] = (await Add(CONSTANTS, bound())(batch({"id": 1}))).rows

    assert (row["number"], row["yes"], type(row["float"])) == (5, True, Raw)


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
    [row] = (await Add({"x": template}, bound())(batch({"id": 1}))).rows

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
        Add({"x": template}, bound())


async def test_values_are_not_templates():
    """What a param holds is put in as it is."""
    [row] = (await Add({"x": "{region}"}, bound(arguments={"region": "{run_id}"}))(batch({"id": 1}))).rows

    assert row["x"] == "{run_id}"


def test_no_column_is_replaced():
    """A name that is there already is refused."""
    with pytest.raises(InvalidStep, match="replace the column 'id'"):
        Add({"id": 1}, bound())


async def test_no_column_is_replaced_in_rows():
    """Not behind a python step either, where only the rows tell."""
    with pytest.raises(InvalidStep, match="replace the column 'id'"):
        await Add({"id": 1}, bound(UNKNOWN_COLUMNS))(batch({"id": 2}))


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_constants_compare_like_any_other_column(carry: str):
    """A later filter reads them by their kind."""
    step = Add(CONSTANTS, bound(carry=carry))
    [row] = (await step(batch({"id": 1}))).rows

    equal_to = {"text": "x", "number": 5, "float": "1.5", "whole": 2, "yes": True}
    for name, literal in equal_to.items():
        column = step.columns.require(name, step="test")
        assert column.comparison is not None
        assert column.comparison.key(row[name]) == column.comparison.literal(literal)
    assert [column.kind for column in step.columns][1:] == [
        Kind.TEXT,
        Kind.INTEGER,
        Kind.FLOAT,
        Kind.FLOAT,
        Kind.BOOLEAN,
        Kind.TEXT,
    ]
