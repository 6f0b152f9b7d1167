"""The `python` step whose function takes columns."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.errors import StepFailed
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Columns, Kind
from pipeline_processing.steps import python as python_module
from pipeline_processing.steps.python import Python, PythonOptions
from pipeline_processing.steps.step import Batch
from tests.unit.steps import hooks
from tests.unit.steps.step_context import CollectedErrors, batch, context

KINDS = {"id": Kind.INTEGER, "name": Kind.TEXT, "amount": Kind.NUMBER, "doc": Kind.JSON}
COLUMNS = Columns(tuple(column_of_kind(name, kind, "json", origins={name}) for name, kind in KINDS.items()))
ROWS: list[Row] = [
    {"id": 1, "name": "a", "amount": Raw(b"1.50"), "doc": Raw(b'{"a": 1.0}')},
    {"id": 2, "name": "b", "amount": None, "doc": None},
    {"id": 3, "name": None, "amount": Raw(b"2"), "doc": Raw(b"[1]")},
]
FAILING = CollectedErrors(tolerant=False)

Columns_ = dict[str, list[Any]]


def step(function: str, reads: list[str], adds: Mapping[str, Any], errors: CollectedErrors = FAILING) -> Python:
    options = PythonOptions(
        function=f"tests.unit.steps.hooks:{function}", takes="columns", reads=tuple(reads), adds=dict(adds)
    )
    built = python_module.PLUGIN.build(options, context(COLUMNS, row_errors=errors))
    assert isinstance(built, Python)
    return built


async def called(python: Python) -> Batch:
    async with python:
        return await python(batch(*(dict(row) for row in ROWS), first=11))


async def given(
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[Columns_], Any],
    *reads: str,
    errors: CollectedErrors = FAILING,
    **adds: str,
) -> Batch:
    """The batch after this function."""
    monkeypatch.setattr(hooks, "given_by_test", function, raising=False)
    return await called(step("given_by_test", list(reads), adds, errors))


async def test_columns_are_changed_and_added():
    """Changed ones keep their place, all other values are as they were read."""
    after = await called(step("columns_upper", ["name"], {"length": "integer"}))

    assert after.rows == [
        ROWS[0] | {"name": "A", "length": 1},
        ROWS[1] | {"name": "B", "length": 1},
        ROWS[2] | {"length": None},
    ]
    assert list(after.rows[0]) == ["id", "name", "amount", "doc", "length"]
    assert list(after.numbers or ()) == [11, 12, 13]


async def test_the_function_gets_natural_values_by_column(monkeypatch: pytest.MonkeyPatch):
    seen: list[Columns_] = []

    def watch(columns: Columns_) -> Columns_:
        seen.append({name: list(values) for name, values in columns.items()})
        return {}

    after = await given(monkeypatch, watch, "amount", "doc")

    assert seen == [{"amount": [Decimal("1.50"), None, Decimal(2)], "doc": [{"a": Decimal("1.0")}, None, [1]]}]
    assert list(seen[0]) == ["amount", "doc"]
    assert after.rows == ROWS


async def test_what_comes_back_as_it_was_stays_as_it_was_read(monkeypatch: pytest.MonkeyPatch):
    """Also if the function returns what it got; a document that it has changed is written anew."""

    def change_one(columns: Columns_) -> Columns_:
        columns["doc"][2].append(2)
        columns["amount"][1] = Decimal("0.10")
        return columns

    after = await given(monkeypatch, change_one, "amount", "doc")

    assert after.rows == [ROWS[0], ROWS[1] | {"amount": Raw(b"0.10")}, ROWS[2] | {"doc": Raw(b"[1,2]")}]
    assert after.rows[0]["doc"] is ROWS[0]["doc"]


async def test_columns_of_a_subclass_of_list(monkeypatch: pytest.MonkeyPatch):
    class Values(list[Any]):
        pass

    after = await given(monkeypatch, lambda columns: {"name": Values(["x", "y", None])}, "name")

    assert [row["name"] for row in after.rows] == ["x", "y", None]


async def test_added_columns_are_in_the_order_of_the_declaration(monkeypatch: pytest.MonkeyPatch):
    def add(columns: Columns_) -> Columns_:
        return {"b": [1, 2, 3], "a": ["x"] * 3}

    after = await given(monkeypatch, add, "id", a="text", b="integer")

    assert list(after.rows[0]) == ["id", "name", "amount", "doc", "a", "b"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "rows 11 to 13: returned NoneType, not columns. Return a dict"),
        ([], "returned list, not columns"),
        ({}, "returned columns without 'size'"),
        ({"size": [1, 2, 3], "id": [1, 2, 3]}, "returned columns with the undeclared 'id'"),
        ({"size": (1, 2, 3)}, "returned a tuple as 'size'. Return a list"),
        ({"size": [1, 2]}, "got 3 rows and returned 2 values of 'size'.*`filter`"),
        ({"size": [1, 2, 3], "name": []}, "returned 0 values of 'name'"),
        ({"size": [1, "x", 3]}, "row 12: the function's 'size' is"),
    ],
)
async def test_what_has_the_wrong_shape_fails_the_step(monkeypatch: pytest.MonkeyPatch, returned: Any, message: str):
    with pytest.raises(StepFailed, match=message):
        await given(monkeypatch, lambda columns: returned, "name", size="integer")


async def test_a_read_column_of_a_new_type_must_be_returned(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StepFailed, match="without 'name'"):
        await given(monkeypatch, lambda columns: {}, "name", name="integer")


async def test_rows_for_which_it_raises_are_rejected():
    """It is called with each row alone, which is a list of one value for each column."""
    errors = CollectedErrors()

    after = await called(step("columns_refuse_b", ["name"], {"length": "integer"}, errors))

    assert [(row["id"], row["name"], row["length"]) for row in after.rows] == [(1, "A", 1), (3, None, None)]
    assert [(number, reason) for number, reason, _ in errors.rejected] == [(12, "ValueError: no b here")]
    assert list(after.numbers or ()) == [11, 13]


@pytest.mark.parametrize("raises", [False, True])
async def test_rows_with_a_value_of_another_type_are_rejected(monkeypatch: pytest.MonkeyPatch, raises: bool):
    """Of all rows, and of rows by themselves."""

    def wrong(columns: Columns_) -> Columns_:
        if raises and len(columns["id"]) > 1:
            raise ValueError
        return {"size": ["?" if each == 2 else each for each in columns["id"]]}

    errors = CollectedErrors()
    after = await given(monkeypatch, wrong, "id", errors=errors, size="integer")

    assert [row["size"] for row in after.rows] == [1, 3]
    assert [(number, "'size'" in reason) for number, reason, _ in errors.rejected] == [(12, True)]


async def test_without_tolerance_an_error_fails_the_step():
    with pytest.raises(StepFailed, match="raised ValueError: no b here"):
        await called(step("columns_refuse_b", ["name"], {"length": "integer"}))
