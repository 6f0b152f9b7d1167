"""`filter` behind a python step, where only the rows tell. tests/contract/steps holds the rest, against Postgres."""

from decimal import Decimal

import pytest

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.ports import Column
from pipeline_processing.steps.filter import Filter
from pipeline_processing.values import PLAIN_BOOLEAN, PLAIN_NUMBER, PLAIN_TEXT

COLUMNS = (
    Column("id", comparison=PLAIN_NUMBER),
    Column("name", comparison=PLAIN_TEXT),
    Column("ok", comparison=PLAIN_BOOLEAN),
    Column("document"),
)
ROWS = [
    {"id": 1, "name": "a", "ok": True, "document": {}},
    {"id": 2, "name": "b", "ok": None, "document": None},
    {"id": None, "name": None, "ok": False, "document": []},
]


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("id > 1", [2]),
        ("id <> 1", [2]),
        ("NOT id = 1", [2]),
        ("id NOT IN (1, NULL)", []),
        ("id IN (1, NULL)", [1]),
        ("name LIKE 'a%'", [1]),
        ("ok", [1]),
        ("ok IS NOT TRUE", [2, None]),
        ("document IS NULL", [2]),
        ("id = 1 OR name IS NULL", [1, None]),
        ("id BETWEEN 1 AND 1.5", [1]),
        ("true", [1, 2, None]),
        ("false", []),
    ],
)
async def test_only_true_keeps_a_row(condition: str, kept: list[int | None], columns: tuple[Column, ...] | None):
    """What is dropped is counted; null is not true."""
    step = Filter(condition, columns)

    rows = await step([dict(row) for row in ROWS])

    assert [row["id"] for row in rows] == kept
    assert step.filtered == len(ROWS) - len(kept)
    assert step.columns == columns


async def test_filtered_rows_add_up_over_batches():
    """The count is the step's, not the batch's."""
    step = Filter("id = 1", COLUMNS)
    await step(ROWS[:2])
    await step(ROWS[1:])

    assert step.filtered == 3


@pytest.mark.parametrize(
    ("value", "condition"),
    [(Decimal("1.5"), "x = 1.50"), (1.5, "x = 1.5"), (1, "x < 1.5"), ("ä", "x ILIKE 'Ä'"), (True, "x"), (0, "x = -0")],
)
async def test_natural_values_compare(value: object, condition: str):
    """Values that a python step returned compare with literals of their kind."""
    assert await Filter(condition, None)([{"x": value}]) == [{"x": value}]


async def test_values_of_different_types_are_the_steps_fault():
    """Python can't order a number and a text, and neither is guessed at."""
    with pytest.raises(StepFailed, match="different types"):
        await Filter("x > 5", None)([{"x": "abc"}])


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell which columns there are."""
    with pytest.raises(UnknownColumn, match="the rows there have id"):
        await Filter("x = 5", None)([{"id": 1}])


def test_columns_that_cannot_be_compared():
    """A type whose order isn't known is compared in the query instead."""
    with pytest.raises(InvalidStep, match="Compare it in the query"):
        Filter("document = 'x'", COLUMNS)


async def test_a_quoted_name_is_exact_and_a_bare_one_folds():
    """As in SQL: of two columns that differ in case, a bare name means the one in lower case."""
    columns = (Column("Id", comparison=PLAIN_NUMBER), Column("id", comparison=PLAIN_NUMBER))
    row = {"Id": 1, "id": 2}

    for condition in ('"Id" = 1', "Id = 2", "ID = 2", "id = 2"):
        assert await Filter(condition, columns)([row]) == [row], condition
    assert await Filter("Id = 1", columns[:1])([{"Id": 1}])
