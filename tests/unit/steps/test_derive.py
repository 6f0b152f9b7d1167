"""`derive` puts computed columns into rows. tests/contract/steps holds what it computes against Postgres."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from pipeline_processing.steps.derive import Derive
from pipeline_processing.steps.filter import Filter
from tests.unit.steps.step_context import CollectedErrors, batch, context


def columns(carry: str = "json") -> Columns:
    kinds = {"id": Kind.INTEGER, "amount": Kind.NUMBER, "name": Kind.TEXT, "at": Kind.TIMESTAMPTZ, "ok": Kind.BOOLEAN}
    return Columns(tuple(column_of_kind(name, kind, carry, origins={f"s.{name}"}) for name, kind in kinds.items()))


ROW = {"id": 3, "amount": Raw(b"1.50"), "name": "a", "at": "2026-01-18T10:00:00+00:00", "ok": True}
TEXT_ROW = {"id": "3", "amount": "1.50", "name": "a", "at": "2026-01-18 10:00:00+00", "ok": "t"}

DERIVED: list[tuple[str, Kind, Any, Any]] = [
    ("id + 1", Kind.INTEGER, 4, "4"),
    ("amount * 2", Kind.NUMBER, Raw(b"3.00"), "3.00"),
    ("id::double precision / 2", Kind.FLOAT, Raw(b"1.5"), "1.5"),
    ("1e15::float8", Kind.FLOAT, Raw(b"1e+15"), "1e+15"),
    ("upper(name)", Kind.TEXT, "A", "A"),
    ("id = 3", Kind.BOOLEAN, True, "t"),
    ("NOT ok", Kind.BOOLEAN, False, "f"),
    ("at::date", Kind.DATE, "2026-01-18", "2026-01-18"),
    ("at::timestamp", Kind.TIMESTAMP, "2026-01-18T10:00:00", "2026-01-18 10:00:00"),
    ("GREATEST(at, NULL)", Kind.TIMESTAMPTZ, "2026-01-18T10:00:00+00:00", "2026-01-18 10:00:00+00"),
    ("'{00000000-0000-0000-0000-00000000000A}'::uuid", Kind.UUID, *["00000000-0000-0000-0000-00000000000a"] * 2),
    ("('{\"a\": [1.50,' || '\n2]}')::json -> 'a'", Kind.JSON, Raw(b"[1.50, 2]"), "[1.50,\n2]"),
    ("NULL", Kind.TEXT, None, None),
    ("'x'", Kind.TEXT, "x", "x"),
    ("CASE WHEN id > 5 THEN amount END", Kind.NUMBER, None, None),
    ("'NaN'::numeric", Kind.NUMBER, Raw(b"NaN"), "NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "kind", "as_json", "as_text"), DERIVED)
async def test_values_are_carried_as_their_kind_is(expression: str, kind: Kind, as_json: Any, as_text: Any):
    """In both forms, and the column is what the source would have made of it."""
    for carry, row, value in (("json", ROW, as_json), ("text", TEXT_ROW, as_text)):
        step = Derive({"derived": expression}, context(columns(carry), carry=carry))

        after = await step(batch(dict(row)))

        assert after.rows == [row | {"derived": value}], carry
        derived = step.columns.listed[-1]
        assert derived == column_of_kind("derived", kind, carry, origins=derived.origins)


async def test_new_columns_stand_behind_and_old_ones_where_they_were():
    """A name that is there already is replaced in place."""
    step = Derive({"total": "amount * id", "name": "name || '!'", "id": "id::text"}, context(columns()))

    [row] = (await step(batch(dict(ROW)))).rows

    assert list(row) == ["id", "amount", "name", "at", "ok", "total"]
    assert (row["total"], row["name"], row["id"]) == (Raw(b"4.50"), "a!", "3")
    assert [(column.name, column.kind) for column in step.columns] == [
        ("id", Kind.TEXT), ("amount", Kind.NUMBER), ("name", Kind.TEXT), ("at", Kind.TIMESTAMPTZ), ("ok", Kind.BOOLEAN),
        ("total", Kind.NUMBER),
    ]  # fmt: skip


async def test_every_expression_sees_the_columns_before_the_step():
    """So two columns can be exchanged, and none reads another's result."""
    step = Derive({"id": "name", "name": "id"}, context(columns()))

    [row] = (await step(batch(dict(ROW)))).rows

    assert (row["id"], row["name"]) == ("a", 3)
    with pytest.raises(UnknownColumn, match="'b'"):
        Derive({"b": "id", "c": "b"}, context(columns()))


def test_origins_are_those_of_all_columns_read():
    """Whatever is done with a value, a mask finds where it came from."""
    step = Derive({"x": "CASE WHEN ok THEN name || id END", "y": "5", "z": "amount"}, context(columns()))

    x, y, z = step.columns.listed[-3:]
    assert x.origins == {"s.ok", "s.name", "s.id"}
    assert y.origins == frozenset()
    assert z.origins == {"s.amount"}
    assert not x.unchanged


async def test_a_column_under_another_name_stays_what_it_is():
    """Its value isn't touched, and it still has the source's values."""
    [source] = (column_of_kind("document", Kind.JSON, "json", origins={"document"}),)
    step = Derive({"copy": "document"}, context([source]))
    document = Raw(b'{"a":  1.0}')

    [row] = (await step(batch({"document": document}))).rows

    assert row["copy"] is document
    assert step.columns.listed[-1].kind is Kind.JSON
    assert step.columns.listed[-1].origins == source.origins


# -- row errors ----------------------------------------------------------------------------------


async def test_a_row_that_has_no_value_is_a_row_error():
    """Named with its column, once a row, and the other rows are computed."""
    errors = CollectedErrors()
    step = Derive({"a": "10 / id", "b": "name::integer"}, context(columns(), row_errors=errors))
    rows = [ROW | {"id": number, "name": name} for number, name in ((0, "1"), (1, "x"), (0, "y"), (5, "7"))]

    after = await step(batch(*rows, first=100))

    assert [(row["a"], row["b"]) for row in after.rows] == [(2, 7)]
    assert list(after.numbers or ()) == [103]
    assert errors.rejected == [
        (100, "column 'a': division by zero", "derive"),
        (101, "column 'b': the text isn't an integer", "derive"),
        (102, "column 'a': division by zero", "derive"),
    ]
    assert step.filtered == 0


async def test_a_rejected_row_is_left_as_it_was():
    """Nothing of it is computed, so it can be shown as it came."""
    rejected = ROW | {"id": 0}
    step = Derive({"name": "'new'", "a": "10 / id"}, context(columns()))

    await step(batch(rejected, dict(ROW)))

    assert rejected == ROW | {"id": 0}


async def test_a_row_error_fails_the_step_where_none_is_tolerated():
    """What becomes of it is the dataset's `on_row_error`."""
    step = Derive({"a": "10 / id"}, context(columns(), row_errors=CollectedErrors(tolerant=False)))

    with pytest.raises(StepFailed, match="row 7: column 'a': division by zero"):
        await step(batch(ROW | {"id": 0}, first=7))


# -- behind a python step ------------------------------------------------------------------------


async def test_of_unknown_columns_the_kind_may_be_known():
    """Then values are carried as that kind is; else they are Python's own, as a python step leaves them."""
    expressions = {"a": "x::integer", "b": "x + 1", "c": "x", "d": "COALESCE(day, NULL)", "e": "day::timestamptz"}
    step = Derive(expressions, context(UNKNOWN_COLUMNS, carry="text"))

    after = await step(batch({"x": Decimal("1.5"), "day": date(2026, 1, 18)}, {"x": 2, "day": None}))

    assert [[row[name] for name in expressions] for row in after.rows] == [
        ["2", Decimal("2.5"), Decimal("1.5"), date(2026, 1, 18), "2026-01-18 00:00:00+00"],
        ["2", 3, 2, None, None],
    ]
    assert [(column.name, column.typed, column.kind) for column in step.columns] == [
        ("a", True, Kind.INTEGER), ("b", False, None), ("c", False, None), ("d", False, None),
        ("e", True, Kind.TIMESTAMPTZ),
    ]  # fmt: skip
    assert not step.columns.complete


async def test_what_is_derived_can_be_filtered_by():
    """A later step reads it like any other column."""
    derive = Derive({"total": "amount * id", "when": "at::date"}, context(columns()))
    after = await derive(batch(dict(ROW), ROW | {"id": None}))

    kept = await Filter("total = 4.5 AND \"when\" > '2026-01-17'", context(derive.columns))(after)

    assert [row["id"] for row in kept.rows] == [3]


# -- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("id +", r"ends where a value is expected"),
        ("id ^ 2", r"uses '\^': write a product, such as `x \* x` \(character 4: \^ 2\)\.$"),
        (
            "id # 2",
            r"uses '#', which isn't supported \(character 4: # 2\)\. `pipeline-processing config expressions` lists",
        ),
        (
            "sleep(5)",
            r"calls SLEEP, which isn't a function here \(character 1: sleep\(5\)\)\. `pipeline-processing config",
        ),
        ("lower(id)", r"gives LOWER integer, and it takes text: cast what doesn't fit"),
        ("id || ok", r"cast one of them to text"),
        ("1 / 0", r"can't be computed: division by zero"),
        ("id = 'three'", r"has 'three' where integer is expected: the text isn't an integer \(character 6"),
        ("round(id::float8, 2)", r"gives ROUND double precision, integer, and it takes .*; numeric, integer: cast"),
        ("id::jsonb", r"has 'jsonb' where a type is expected. Supported types: text, integer"),
        ("left(name)", r"gives LEFT text, and it takes text, integer"),
        ("at + 1", r"gives \+ timestamptz, integer, and it takes integer, integer; numeric, numeric;"),
    ],
)
def test_a_bad_expression_is_explained(expression: str, message: str):
    """What is wrong, where, and what there is instead."""
    with pytest.raises(InvalidStep, match=rf"^Step 'derive', column 'x', .*{message}"):
        Derive({"x": expression}, context(columns()))
