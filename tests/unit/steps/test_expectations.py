"""The checks of rows behind `expect`, as steps: `unique` and `not_null`."""

import pytest
from msgspec import Raw

from pipeline_processing.errors import ExpectationFailed, InvalidStep, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from pipeline_processing.steps.expectations import NotNull, Unique
from pipeline_processing.steps.step import Batch
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns(tuple(column_of_kind(name, Kind.NUMBER, "json") for name in ("id", "code")))


def numbers(*pairs: tuple[int | str | None, int | str | None], first: int = 1) -> Batch:
    rows = [
        {name: None if value is None else Raw(str(value)) for name, value in zip(("id", "code"), pair, strict=True)}
        for pair in pairs
    ]
    return batch(*rows, first=first)


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
async def test_rows_without_a_null_pass(columns: Columns):
    """Nothing is changed or counted."""
    step = NotNull(["id"], context(columns))
    rows = numbers((1, None), (2, 3))

    assert await step(rows) is rows
    assert (step.columns, step.filtered) == (columns, 0)


async def test_a_null_fails_the_dataset():
    """The error names dataset, column and row."""
    step = NotNull(["id", "code"], context(COLUMNS, dataset="records"))

    with pytest.raises(ExpectationFailed, match=r"Dataset 'records', row 1,003: 'code' is null.*`expect`"):
        await step(numbers((1, 1), (2, 2), (3, None), first=1001))


async def test_after_a_python_step_that_dropped_rows_the_place_is_the_batch():
    """Which row it was isn't known any more."""
    step = NotNull(["id"], context(UNKNOWN_COLUMNS))

    with pytest.raises(ExpectationFailed, match="rows 5 to 9: 'id' is null"):
        await step(Batch([{"id": None}], None, (5, 9)))


async def test_different_rows_pass():
    """Over all batches; a null equals nothing, as in UNIQUE."""
    async with Unique(["id", "code"], context(COLUMNS)) as step:
        first = numbers((1, 1), (1, 2), (1, None))
        assert await step(first) is first
        second = numbers((2, 1), (1, None), (None, None), (None, None))
        assert await step(second) is second
        assert step.filtered == 0


@pytest.mark.parametrize("columns", [COLUMNS, UNKNOWN_COLUMNS])
async def test_equal_rows_fail_the_dataset(columns: Columns):
    """The error names dataset, columns and the row that repeats another, and no value."""
    async with Unique(["id"], context(columns, dataset="records")) as step:
        await step(numbers((4711, 1)))
        with pytest.raises(ExpectationFailed, match=r"Dataset 'records', row 4: 'id' should be unique") as raised:
            await step(numbers((None, 1), (4712, 1), (4711, 2), first=2))

    assert "4711" not in str(raised.value)


async def test_equal_is_what_sql_calls_equal():
    """1 and 1.0 of a numeric column are one key."""
    async with Unique(["id"], context(COLUMNS)) as step:
        with pytest.raises(ExpectationFailed, match="row 2"):
            await step(numbers((1, 1), ("1.0", 1)))


@pytest.mark.parametrize("check", [Unique, NotNull])
def test_unknown_columns_are_found_before_the_first_row(check: type[Unique] | type[NotNull]):
    """The message says what reads them."""
    with pytest.raises(UnknownColumn, match=r"'expect (unique|not_null): nope' reads column 'nope'"):
        check(["nope"], context(COLUMNS))
    with pytest.raises(InvalidStep, match="'id' twice"):
        check(["id", "id"], context(COLUMNS))


@pytest.mark.parametrize("check", [Unique, NotNull])
async def test_unknown_columns_are_found_in_rows(check: type[Unique] | type[NotNull]):
    """Behind a python step only the rows tell."""
    async with check(["id"], context(UNKNOWN_COLUMNS)) as step:
        with pytest.raises(UnknownColumn, match="'id'"):
            await step(batch({"code": 1}))
