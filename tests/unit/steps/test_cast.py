"""`cast` changes columns' types as SQL does. tests/contract/steps holds the casts themselves against Postgres."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.values import ENUM, PADDED_TEXT
from pipeline_processing.steps.cast import Cast
from tests.unit.steps.step_context import CollectedErrors, batch, context

A_UUID = "00000000-0000-0000-0000-00000000000a"


def column(kind: Kind, carry: str = "json") -> Column:
    return column_of_kind("x", kind, carry, origins={"source"})


@pytest.mark.parametrize(
    ("kind", "value", "to", "cast", "result"),
    [
        (Kind.TEXT, " 12 ", "integer", 12, Kind.INTEGER),
        (Kind.TEXT, "yes", "boolean", True, Kind.BOOLEAN),
        (Kind.TEXT, "1.50", "number", Raw(b"1.50"), Kind.NUMBER),
        (Kind.TEXT, "1.50", "float", Raw(b"1.5"), Kind.FLOAT),
        (Kind.TEXT, '{"a":\n1}', "json", Raw(b'{"a": 1}'), Kind.JSON),
        (Kind.TEXT, "2026-01-18T10:00+02", "timestamptz", "2026-01-18T08:00:00+00:00", Kind.TIMESTAMPTZ),
        (Kind.NUMBER, Raw(b"2.5"), "BIGINT", 3, Kind.INTEGER),
        (Kind.NUMBER, Raw(b"-2.5"), "int", -3, Kind.INTEGER),
        (Kind.FLOAT, Raw(b"2.5"), "int8", 2, Kind.INTEGER),
        (Kind.NUMBER, Raw(b"2.555"), "numeric(10, 2)", Raw(b"2.56"), Kind.NUMBER),
        (Kind.INTEGER, 5, "text", "5", Kind.TEXT),
        (Kind.INTEGER, 5, " Double  Precision ", Raw(b"5"), Kind.FLOAT),
        (Kind.TIMESTAMPTZ, "2026-01-18T23:30:00+00:00", "date", "2026-01-18", Kind.DATE),
        (Kind.DATE, "2026-01-18", "timestamp with time zone", "2026-01-18T00:00:00+00:00", Kind.TIMESTAMPTZ),
        (Kind.UUID, A_UUID, "varchar", A_UUID, Kind.TEXT),
        (Kind.JSON, Raw(b'{"a": 1.0}'), "text", '{"a": 1.0}', Kind.TEXT),
        (Kind.BOOLEAN, True, "integer", 1, Kind.INTEGER),
        (Kind.TEXT, None, "integer", None, Kind.INTEGER),
    ],
)  # fmt: skip
async def test_values_and_columns_change(kind: Kind, value: Any, to: str, cast: Any, result: Kind):
    """Types go by the names of SQL and of the columns' kinds; where the values came from is kept."""
    step = Cast({"x": to}, context([column(kind)]))

    after = await step(batch({"x": value, "y": 1}))

    assert after.rows == [{"x": cast, "y": 1}]
    assert step.columns == Columns((column(result),))
    assert step.filtered == 0


@pytest.mark.parametrize("kind", Kind)
async def test_a_cast_to_what_it_is_costs_nothing(kind: Kind):
    """Column and value stay the very same."""
    unchanged = replace(column(kind), unchanged=True)
    step = Cast({"x": kind.value}, context([unchanged]))
    value = object()  # nobody looks at it

    [row] = (await step(batch({"x": value}))).rows

    assert row["x"] is value
    assert step.columns.listed == (unchanged,)


async def test_columns_keep_their_places():
    """Only the columns named change."""
    columns = [column_of_kind(name, Kind.TEXT, "text", origins={name}) for name in "abc"]
    step = Cast({"c": "integer", "a": "boolean"}, context(columns, carry="text"))

    [row] = (await step(batch({"a": "yes", "b": "no", "c": "007"}))).rows

    assert list(row.items()) == [("a", "t"), ("b", "no"), ("c", "7")]
    assert [(each.name, each.kind, each.origins) for each in step.columns] == [
        ("a", Kind.BOOLEAN, {"a"}),
        ("b", Kind.TEXT, {"b"}),
        ("c", Kind.INTEGER, {"c"}),
    ]


async def test_a_failing_value_is_a_row_error():
    """It is named without its value; the other rows are cast."""
    errors = CollectedErrors()
    step = Cast({"x": "integer"}, context([column(Kind.TEXT)], row_errors=errors))

    after = await step(batch({"x": "1"}, {"x": "one"}, {"x": "1e3"}, {"x": "99999999999999999999"}, {"x": None}))

    assert [row["x"] for row in after.rows] == [1, None]
    assert errors.rejected == [
        (2, "column 'x': the text isn't an integer", "cast"),
        (3, "column 'x': the text isn't an integer", "cast"),
        (4, "column 'x': a number is out of range for an integer, which has 64 bits", "cast"),
    ]


async def test_text_of_other_kinds():
    """An enum gives its label, and char(n) loses the spaces that it is filled up with."""
    enum = Column("m", comparison=ENUM)
    padded = replace(column_of_kind("c", Kind.TEXT, "json"), comparison=PADDED_TEXT)
    step = Cast({"m": "text", "c": "text"}, context([enum, padded]))

    assert (await step(batch({"m": "zen", "c": "a   "}))).rows == [{"m": "zen", "c": "a"}]
    assert [each.comparison for each in step.columns] == [column(Kind.TEXT).comparison] * 2


async def test_unknown_columns_are_cast_by_what_comes():
    """Behind a python step; then their kind is known."""
    errors = CollectedErrors()
    step = Cast({"x": "integer"}, context(UNKNOWN_COLUMNS, row_errors=errors))

    after = await step(batch({"x": "5"}, {"x": Decimal("2.5")}, {"x": True}, {"x": {}}, {"x": None}))

    assert [row["x"] for row in after.rows] == [5, 3, 1, None]
    assert [(number, "casts json to integer" in reason) for number, reason, _ in errors.rejected] == [(4, True)]
    assert step.columns.listed == (column_of_kind("x", Kind.INTEGER, "json", origins=["x"]),)


@pytest.mark.parametrize(
    ("kind", "to", "message"),
    [
        (
            Kind.INTEGER,
            "date",
            "column 'x', casts integer to date. Supported casts from integer: text, numeric, .* boolean",
        ),
        (Kind.TEXT, "jsonb", "has 'jsonb' where a type is expected. Supported types: text, integer"),
        (Kind.TEXT, "varchar(5)", "gives varchar a length, which only numeric has"),
        (Kind.TEXT, "numeric(0)", "other than 1 to 1000 digits"),
        (Kind.TEXT, "", "ends where a type is expected"),
        (Kind.TEXT, "integer; drop table x", "uses ';'"),
        (Kind.TEXT, "integer integer", "has 'integer' where a type is expected"),
    ],
)
def test_a_bad_type_is_explained(kind: Kind, to: str, message: str):
    """What is wrong, and which types there are."""
    with pytest.raises(InvalidStep, match=f"^Step 'cast', .*{message}"):
        Cast({"x": to}, context([column(kind)]))


def test_columns_that_only_postgres_knows():
    """An array, a range and the like are cast in the query."""
    with pytest.raises(InvalidStep, match="cast it in the query"):
        Cast({"x": "text"}, context([Column("x")]))


def test_unknown_columns_are_refused():
    """Names are exact, as in the other steps."""
    with pytest.raises(UnknownColumn, match="'X', but the rows there have x"):
        Cast({"X": "text"}, context([column(Kind.TEXT)]))
