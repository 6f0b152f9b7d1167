"""`filter`: its counts, its row errors, and what only the rows tell. tests/contract/steps holds it against Postgres."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.steps.filter import Filter
from pipeline_processing.steps.step import Batch
from tests.unit.steps.step_context import CollectedErrors, batch, context

KNOWN = Columns(
    (
        column_of_kind("id", Kind.INTEGER, "json"),
        column_of_kind("name", Kind.TEXT, "json"),
        column_of_kind("ok", Kind.BOOLEAN, "json"),
        column_of_kind("document", Kind.JSON, "json"),
    )
)


def rows(*, natural: bool) -> Batch:
    return batch(
        {"id": 1, "name": "a", "ok": True, "document": {} if natural else Raw(b"{}")},
        {"id": 2, "name": "b", "ok": None, "document": None},
        {"id": None, "name": None, "ok": False, "document": [] if natural else Raw(b"[]")},
    )


@pytest.mark.parametrize("columns", [KNOWN, UNKNOWN_COLUMNS], ids=["known", "unknown"])
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
        ("id + 1 = 2", [1]),
        ("upper(name) || id = 'B2'", [2]),
        ("CASE WHEN ok THEN id END = 1", [1]),
        ("COALESCE(id, 7) = 7", [None]),
        ("NULLIF(id, NULL) = 1", [1]),
        ("GREATEST(id, NULL) = 2", [2]),
        ("-id = -1", [1]),
        ("ABS(id) = ROUND(id, 1)", [1, 2]),
        ("id IS DISTINCT FROM 1", [2, None]),
        ("CONCAT(id, name) = '1a'", [1]),
        ("NOT (ok AND id = 1)", [2, None]),
        ("CAST(id AS text) = name || '' OR NOT ok", [None]),
        ("true", [1, 2, None]),
        ("false", []),
        ("NULL", []),
    ],
)
async def test_only_true_keeps_a_row(condition: str, kept: list[int | None], columns: Columns):
    """What is dropped is counted, rows keep their numbers, and null is not true."""
    step = Filter(condition, context(columns))
    given = rows(natural=columns is UNKNOWN_COLUMNS)

    after = await step(given)

    assert [row["id"] for row in after.rows] == kept
    assert [given.rows[number - 1]["id"] for number in after.numbers or ()] == kept
    assert step.filtered == len(given.rows) - len(kept)
    assert step.columns == columns
    assert step.name == f"filter: {condition}"


async def test_filtered_rows_add_up_over_batches():
    """The count is the step's, not the batch's."""
    step = Filter("id = 1", context(KNOWN))
    await step(batch(*rows(natural=False).rows[:2]))
    await step(batch(*rows(natural=False).rows[1:]))

    assert step.filtered == 3


# -- row errors ----------------------------------------------------------------------------------


async def test_rows_without_an_answer_are_row_errors():
    """They are rejected, not filtered; the others are judged all the same."""
    errors = CollectedErrors()
    step = Filter("10 / id > 3", context(KNOWN, row_errors=errors))

    after = await step(batch({"id": 0}, {"id": 2}, {"id": 5}, {"id": None}, {"id": 0}, first=11))

    assert [row["id"] for row in after.rows] == [2]
    assert list(after.numbers or ()) == [12]
    assert step.filtered == 2
    assert errors.rejected == [(11, "division by zero", step.name), (15, "division by zero", step.name)]


async def test_a_row_error_fails_the_step_where_none_is_tolerated():
    """What becomes of it is the dataset's `on_row_error`."""
    step = Filter("10 / id > 3", context(KNOWN, row_errors=CollectedErrors(tolerant=False)))

    with pytest.raises(StepFailed, match="row 2: division by zero"):
        await step(batch({"id": 1}, {"id": 0}))


# -- behind a python step ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        (Decimal("1.5"), "x = 1.50"),
        (1.5, "x = 1.5"),
        (1, "x < 1.5"),
        (2**70, "x > 9223372036854775807"),
        ("ä", "x ILIKE 'Ä'"),
        (True, "x"),
        (0, "x = -0"),
        (float("nan"), "x > 1e300"),
        (Decimal("NaN"), "x = 'NaN'"),
        (date(2026, 1, 18), "x = '2026-01-18'"),
        (datetime(2026, 1, 18, 10, tzinfo=UTC), "x < '2026-01-18 10:00:01+00'"),
        (datetime(2026, 1, 18, 10), "x = TIMESTAMP '2026-01-18 10:00'"),  # noqa: DTZ001 - a timestamp without zone
        (UUID(int=1), "x = '00000000000000000000000000000001'"),
        ({"a": [1.5]}, "x -> 'a' ->> 0 = '1.5'"),
        ([1, None], "x ->> 1 IS NULL"),
        (None, "x IS NULL"),
        (None, "(x + x) IS NULL"),
        (Raw(b"1.50"), "x = 1.5"),
        (Raw(b'{"a": 1}'), "x ->> 'a' = '1'"),
    ],
)
async def test_natural_values_compare(value: object, condition: str):
    """Values that a python step returned are of the type that they look like."""
    after = await Filter(condition, context(UNKNOWN_COLUMNS))(batch({"x": value}))

    assert after.rows == [{"x": value}]


async def test_each_row_has_its_own_types():
    """A column may hold anything by turns; a row whose types don't fit is a row error, without its values."""
    errors = CollectedErrors()
    step = Filter("x > 5", context(UNKNOWN_COLUMNS, row_errors=errors))

    after = await step(batch({"x": 6}, {"x": "sixty"}, {"x": Decimal("5.5")}, {"x": None}, {"x": object()}, {"x": 1}))

    assert [row["x"] for row in after.rows] == [6, Decimal("5.5")]
    assert [(number, "sixty" in reason, "object at" in reason) for number, reason, _ in errors.rejected] == [
        (2, False, False),
        (5, False, False),
    ]
    assert "mixes integer and text" in errors.rejected[0][1]
    assert "object" in errors.rejected[1][1]
    assert step.filtered == 2


async def test_unknown_columns_are_found_in_rows():
    """Behind a python step only the rows tell which columns there are."""
    with pytest.raises(UnknownColumn, match="the rows there have id"):
        await Filter("x = 5", context(UNKNOWN_COLUMNS))(batch({"id": 1}))


@pytest.mark.parametrize("condition", ["lower(name) = 5", "x + name > 1", "NOT name", "x AND id"])
def test_what_can_be_checked_without_rows_is(condition: str):
    """A column of unknown type is taken on trust, the others aren't."""
    columns = Columns(KNOWN.listed, complete=False)

    with pytest.raises(InvalidStep):
        Filter(condition, context(columns))


def test_a_column_that_was_left_out_is_unknown():
    """Not all columns are known, but of one it is known that it isn't there."""
    columns = Columns(complete=False, absent=frozenset({"id"}))

    with pytest.raises(UnknownColumn, match="an earlier step left it out"):
        Filter("id = 1", context(columns))


# -- columns -------------------------------------------------------------------------------------


def test_columns_that_cannot_be_compared():
    """A type whose order isn't known is compared in the query instead."""
    with pytest.raises(InvalidStep, match="Compare it in the query"):
        Filter("ranges = 'x'", context([Column("ranges")]))
    with pytest.raises(InvalidStep, match="->>"):
        Filter("document = 'x'", context(KNOWN))


@pytest.mark.parametrize("condition", ["id", "id + 1", "name || 'x'"])
def test_a_condition_is_true_or_false(condition: str):
    """Any other value isn't taken for one."""
    with pytest.raises(InvalidStep, match="where a condition is expected"):
        Filter(condition, context(KNOWN))


async def test_a_quoted_name_is_exact_and_a_bare_one_folds():
    """As in SQL: of two columns that differ in case, a bare name means the one in lower case."""
    columns = [column_of_kind("Id", Kind.INTEGER, "json"), column_of_kind("id", Kind.INTEGER, "json")]

    for condition in ('"Id" = 1', "Id = 2", "ID = 2", "id = 2"):
        step = Filter(condition, context(columns))
        assert (await step(batch({"Id": 1, "id": 2}))).rows, condition
    assert (await Filter("Id = 1", context(columns[:1]))(batch({"Id": 1}))).rows
