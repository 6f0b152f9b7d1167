"""The `python` step with a declaration of the columns that its function reads and adds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, StepAddedRows, StepFailed, UnknownColumn
from pipeline_processing.formats.formats import new_format
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.model import CsvOptions
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.steps.python import DictsOptions, Python, PythonOptions
from pipeline_processing.steps.step import Batch
from tests.properties import examples
from tests.unit.steps import hooks
from tests.unit.steps.step_context import CollectedErrors, batch, context

HOOKS = "tests.unit.steps.hooks"
FAILING = CollectedErrors(tolerant=False)
FORMATS = ("json", "text")


def columns(carry: str = "json", **kinds: Kind) -> Columns:
    """Columns of the source, each its own origin."""
    return Columns(tuple(column_of_kind(name, kind, carry, origins={name}) for name, kind in kinds.items()))


COLUMNS = columns(id=Kind.INTEGER, name=Kind.TEXT, amount=Kind.NUMBER, doc=Kind.JSON)
ROW: Row = {"id": 1, "name": "a", "amount": Raw(b"1.50"), "doc": Raw(b'{"a": 1.0, "a": 2}')}


def step(
    function: str,
    reads: list[str],
    adds: Mapping[str, Any] | None = None,
    *,
    there: Columns = COLUMNS,
    errors: CollectedErrors = FAILING,
    carry: str = "json",
) -> Python:
    options = PythonOptions(function=f"{HOOKS}:{function}", reads=tuple(reads), adds=dict(adds or {}))
    return Python(options, context(there, row_errors=errors, carry=carry))


async def called(python: Python, *rows: Row, first: int = 1) -> Batch:
    async with python:
        return await python(batch(*(dict(row) for row in rows), first=first))


async def changed(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Row], Any], reads: list[str], **options: Any
) -> Batch:
    """The step's batch after its function has changed each row of one batch, here `ROW` alone."""

    def function(rows: Rows) -> Rows:
        for row in rows:
            change(row)
        return rows

    monkeypatch.setattr(hooks, "given_by_test", function, raising=False)
    rows = options.pop("rows", (ROW,))
    return await called(step("given_by_test", reads, **options), *rows)


# -- what the function gets and gives ------------------------------------------------------------


async def test_the_function_gets_only_the_columns_that_it_reads():
    """In their order, as natural values; everything leaves as it came."""
    after = await called(step("watch", ["amount", "id"]), ROW)

    assert hooks.seen == [{"amount": Decimal("1.50"), "id": 1}]
    assert list(hooks.seen[0]) == ["amount", "id"]
    assert after.rows == [ROW]
    assert after.rows[0]["doc"] is ROW["doc"]


async def test_changed_and_added_columns_are_carried(monkeypatch: pytest.MonkeyPatch):
    """Changed ones stay in their place; added ones follow in the order of the declaration."""

    def change(row: Row) -> None:
        row |= {"b": None, "a": datetime(2026, 1, 18, 10, tzinfo=UTC), "name": "b", "amount": row["amount"] * 2}

    adds = {"a": "timestamptz", "b": "text"}
    after = await changed(monkeypatch, change, ["name", "amount"], adds=adds)

    [row] = after.rows
    assert row == ROW | {"name": "b", "amount": Raw(b"3.00"), "a": "2026-01-18T10:00:00+00:00", "b": None}
    assert list(row) == ["id", "name", "amount", "doc", "a", "b"]


def test_columns_behind_it_stay_known():
    """With their types; each changed or added column may come from all that the function reads."""
    python = step("watch", ["name", "amount"], {"n": "integer", "amount": "text"})

    assert python.columns.complete
    assert python.columns.names == ("id", "name", "amount", "doc", "n")
    assert [column.kind for column in python.columns] == [Kind.INTEGER, Kind.TEXT, Kind.TEXT, Kind.JSON, Kind.INTEGER]
    assert python.columns.find("id") == COLUMNS.find("id")
    for name in ("name", "amount", "n"):
        column = python.columns.find(name)
        assert column is not None
        assert (column.origins, column.unchanged, column.typed) == ({"name", "amount"}, False, True)
    assert not python.foreign


@pytest.mark.parametrize(
    ("reads", "adds", "error", "message"),
    [
        (["nmae"], {}, UnknownColumn, "reads column 'nmae', but the rows there have id, name, amount, doc"),
        (["name"], {"id": "text"}, InvalidStep, "would replace the column 'id'"),
        (["name", "name"], {}, InvalidStep, "names 'name' twice"),
    ],
)
def test_a_declaration_must_fit_the_columns(
    reads: list[str], adds: Mapping[str, str], error: type[Exception], message: str
):
    """A job config error before the first row."""
    with pytest.raises(error, match=message):
        step("watch", reads, adds)


async def test_behind_code_whose_columns_are_unknown():
    """What the rows lack or have already is found when they come."""
    python = step("copies", ["x"], there=UNKNOWN_COLUMNS)
    assert (await called(python, {"x": Decimal(1), "y": {}})).rows == [{"x": Decimal(1), "y": {}}]

    with pytest.raises(UnknownColumn, match="'x', but the rows there have id, name"):
        await called(step("watch", ["x"], there=UNKNOWN_COLUMNS), ROW)
    with pytest.raises(InvalidStep, match="would replace the column 'id'"):
        await called(step("watch", ["name"], {"id": "text"}, there=UNKNOWN_COLUMNS), ROW)


# -- which rows come back ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "numbers"),
    [("watch", [11, 12, 13]), ("drop_odd", [12]), ("reverse", [13, 12, 11]), ("copies", [11, 12, 13])],
)
async def test_returned_rows_are_joined_with_those_they_came_from(function: str, numbers: list[int]):
    """The dicts tell which rows they are; as many new ones are in order."""
    rows = [{"id": number, "name": f"n{number}"} for number in (1, 2, 3)]
    there = columns(id=Kind.INTEGER, name=Kind.TEXT)

    python = step(function, ["id"], there=there)
    after = await called(python, *rows, first=11)

    assert after.rows == [rows[number - 11] for number in numbers]
    assert list(after.numbers or ()) == numbers
    assert python.filtered == 3 - len(numbers)


@pytest.mark.parametrize("function", ["fewer_copies", "swapped_and_new"])
@pytest.mark.parametrize("errors", [FAILING, CollectedErrors()])
async def test_rows_must_be_told_apart(function: str, errors: CollectedErrors):
    """Otherwise the other columns can't be joined."""
    with pytest.raises(StepFailed, match="With `reads`, return the dicts that the function got"):
        await called(step(function, ["id"], errors=errors), ROW, ROW)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("nothing", StepFailed, "NoneType"),
        ("no_dicts", StepFailed, "int"),
        ("same_twice", StepFailed, "the same dict twice"),
        ("add_rows", StepAddedRows, "got 2 rows and returned 4"),
        ("other_columns", StepFailed, "a row without 'id' and with the undeclared 'a', 'b'"),
    ],
)
async def test_what_has_the_wrong_shape_is_the_steps_fault(function: str, error: type[Exception], message: str):
    """Rows that may be rejected don't change that."""
    for errors in (FAILING, CollectedErrors()):
        with pytest.raises(error, match=message):
            await called(step(function, ["id"], errors=errors), ROW, ROW)


async def test_a_row_without_an_added_column_is_refused():
    """A null has to be said."""
    with pytest.raises(StepFailed, match=r"a row without 'n'\. Every row must have the columns"):
        await called(step("watch", ["id"], {"n": "integer"}), ROW)


# -- rows that can't be used ---------------------------------------------------------------------


async def test_rows_for_which_it_raises_are_rejected():
    """It gets each row as it first was; the others leave with all their columns."""
    errors = CollectedErrors()
    rows = [ROW | {"id": number, "doc": Raw(b"{}")} for number in (2, 3, 4, 5, 6)]

    python = step("fail_on_odd", ["id", "doc"], {"seen": "boolean"}, errors=errors)
    after = await called(python, *rows, first=11)

    expected = {"name": "a", "amount": Raw(b"1.50"), "doc": Raw(b'{"seen":true}'), "seen": True}
    assert after.rows == [{"id": number, **expected} for number in (2, 6)]
    assert list(after.numbers or ()) == [11, 15]
    assert [(number, reason) for number, reason, _ in errors.rejected] == [
        (12, "ValueError: odd: 3"),
        (14, "ValueError: odd: 5"),
    ]
    assert python.filtered == 1


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("text", 5, "not text"),
        ("integer", "5", "not an integer"),
        ("integer", 2**63, "an integer of more than 64 bits"),
        ("number", True, "not a number"),
        ("boolean", 1, "not a boolean"),
        ("date", "tomorrow", "not a date"),
        ("date", "2026-02-31", "not a date"),
        ("timestamp", datetime(2026, 1, 18, tzinfo=UTC), "a timestamp with a time zone"),
        ("uuid", "x", "not a uuid"),
    ],
)
async def test_a_row_with_a_value_of_another_type_is_rejected(
    monkeypatch: pytest.MonkeyPatch, kind: str, value: Any, reason: str
):
    """The reason names the column and the fault, not the value."""
    errors = CollectedErrors()

    def change(row: Row) -> None:
        row["new"] = value if row["id"] == 1 else None

    rows = (ROW | {"id": 0}, ROW, ROW | {"id": 2})
    after = await changed(monkeypatch, change, ["id"], adds={"new": kind}, errors=errors, rows=rows)

    assert [row["id"] for row in after.rows] == [0, 2]
    assert list(after.numbers or ()) == [1, 3]
    [(number, found, _)] = errors.rejected
    assert number == 2
    assert found.startswith(f"the function's 'new' is {reason}")


@pytest.mark.parametrize("text", ["infinity", "12026-01-18T10:00:00.5+00:00", "0044-03-15T10:00:00+00:00 BC"])
async def test_times_outside_pythons_range_are_text(monkeypatch: pytest.MonkeyPatch, text: str):
    """They can be put into another column."""

    def change(row: Row) -> None:
        row["new"] = text

    assert (await changed(monkeypatch, change, ["id"], adds={"new": "timestamptz"})).rows == [ROW | {"new": text}]


async def test_a_column_of_another_type_may_be_read_but_not_changed(monkeypatch: pytest.MonkeyPatch):
    """An array, say: unless the declaration gives it a new type."""
    array = Column("list", natural=form_of(Kind.JSON, "json").natural, origins=frozenset({"list"}))
    there, rows = Columns((array,)), ({"list": Raw(b"[1.0, 2]")},)

    def copy(row: Row) -> None:
        row["list"] = row.pop("list")

    def append(row: Row) -> None:
        row["list"].append(3)

    assert (await changed(monkeypatch, copy, ["list"], there=there, rows=rows)).rows == [*rows]
    with pytest.raises(StepFailed, match="name its new type in `adds`"):
        await changed(monkeypatch, append, ["list"], there=there, rows=rows)
    after = await changed(monkeypatch, append, ["list"], adds={"list": "json"}, there=there, rows=rows)
    assert after.rows == [{"list": Raw(b"[1.0,2,3]")}]


# -- the same with and without a declaration -----------------------------------------------------

NATURAL: Mapping[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: st.text(st.characters(exclude_categories=["Cs"])),
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMBER: st.decimals(allow_nan=False, places=3) | st.sampled_from([Decimal("NaN"), Decimal("-Infinity")]),
    Kind.FLOAT: st.floats(),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates() | st.sampled_from(["infinity", "0044-03-15 BC", "12026-01-18"]),
    Kind.TIMESTAMP: st.datetimes() | st.sampled_from(["-infinity"]),
    Kind.TIMESTAMPTZ: st.datetimes(timezones=st.just(UTC)),
    Kind.UUID: st.uuids().map(str),
    Kind.JSON: st.dictionaries(st.text("ab"), st.integers() | st.booleans() | st.none() | st.lists(st.text("xy"))),
}
KINDS = tuple(NATURAL)


@st.composite
def carried_rows(draw: st.DrawFn, carry: str) -> list[Row]:
    """Rows with two columns of each kind, and nulls."""
    return [
        {
            f"{kind}{twin}": None if value is None else form_of(kind, carry).carried(value)
            for kind in KINDS
            for twin in (1, 2)
            for value in [draw(st.none() | NATURAL[kind])]
        }
        for _ in range(draw(st.integers(1, 4)))
    ]


def artifact(rows: Rows, carry: str, names: list[str] | None) -> bytes:
    name = "ndjson" if carry == "json" else "csv"
    made = new_format(name, header=names or [], fixed=names is not None, csv=CsvOptions())  # type: ignore[arg-type]
    return made.encode(rows)


@examples(200)
@given(data=st.data(), carry=st.sampled_from(FORMATS))
async def test_a_declaration_does_not_change_what_is_written(data: st.DataObject, carry: str):
    """To the byte: values that the function leaves, replaces, moves between columns or changes in place."""
    rows = data.draw(carried_rows(carry))
    replaced = {kind: data.draw(st.none() | NATURAL[kind]) for kind in KINDS}
    moved = data.draw(st.sets(st.sampled_from(KINDS)))
    reads = [f"{kind}{twin}" for kind in data.draw(st.sets(st.sampled_from(KINDS), min_size=1)) for twin in (1, 2)]

    def change(given_rows: Rows) -> Rows:
        for row in given_rows:
            for kind in KINDS:
                one, other = f"{kind}1", f"{kind}2"
                if one not in reads:
                    continue
                if kind in moved:
                    row[one], row[other] = row[other], row[one]
                else:
                    row[one] = replaced[kind]
                if kind is Kind.JSON and isinstance(row[other], dict):
                    row[other]["x"] = 1.5
            row["new"] = len(row["text1"] or "") if "text1" in row and "text1" in reads else 0
        return given_rows

    hooks.given_by_property = change  # type: ignore[attr-defined]
    there = columns(carry, **{f"{kind}{twin}": kind for kind in KINDS for twin in (1, 2)})
    plain_context = context(there, row_errors=FAILING, carry=carry)
    plain = Python(f"{HOOKS}:given_by_property", plain_context)
    last = Python(f"{HOOKS}:given_by_property", replace(plain_context, last=True))
    dicts = DictsOptions(function=f"{HOOKS}:given_by_property", takes="dicts")
    last_dicts = Python(dicts, replace(plain_context, last=True))
    declared = step("given_by_property", reads, {"new": "integer"}, there=there, carry=carry)

    expected = artifact((await called(plain, *rows)).rows, carry, None)
    assert artifact((await called(last, *rows)).rows, carry, None) == expected
    assert artifact((await called(last_dicts, *rows)).rows, carry, None) == expected
    assert artifact((await called(declared, *rows)).rows, carry, list(declared.columns.names)) == expected
