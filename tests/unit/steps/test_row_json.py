"""Rows as the JSON that NDJSON writes."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.kinds import column_of_kind, form_of, text_of
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.untouched import remembering
from pipeline_processing.steps.foreign_values import text_of_any
from pipeline_processing.steps.row_json import RowJson

DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NATURAL: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: st.text(),
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMBER: st.decimals(min_value=Decimal("-1e30"), max_value=Decimal("1e30"))
    | st.sampled_from([Decimal("NaN"), Decimal("-Infinity"), Decimal("1e400"), Decimal("0.10")]),
    Kind.FLOAT: st.floats(),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates() | st.sampled_from(["infinity", "0044-03-15 BC"]),
    Kind.TIMESTAMP: st.datetimes(),
    Kind.TIMESTAMPTZ: st.datetimes(timezones=st.just(UTC)),
    Kind.UUID: st.uuids().map(str),
    Kind.JSON: st.lists(DOCUMENTS, max_size=3) | st.dictionaries(st.text(max_size=3), DOCUMENTS, max_size=3),
}


def exactly(line: bytes) -> Any:
    return json.loads(line, parse_float=Decimal)


def made(kind: Kind, natural: Any, carry: str) -> Any:
    value = None if natural is None else form_of(kind, carry).carried(natural)
    return RowJson(Columns((column_of_kind("x", kind, carry),)), carry).of({"x": value})


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("kind", list(NATURAL))
@given(data=st.data())
def test_it_is_what_ndjson_writes(kind: Kind, carry: str, data: st.DataObject):
    """Of values of every kind, carried in either form, to the last digit."""
    natural = data.draw(st.none() | NATURAL[kind])
    value = None if natural is None else form_of(kind, "json").carried(natural)

    assert made(kind, natural, carry) == exactly(Ndjson(exact=True).encode([{"x": value}]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("infinity", "infinity"),
        ("4713-01-01 00:00:00+00 BC", "4713-01-01T00:00:00+00:00 BC"),
        ("10000-01-01 00:00:00.5+00", "10000-01-01T00:00:00.5+00:00"),
    ],
)
def test_instants_that_python_does_not_reach(text: str, expected: str):
    """CSV's text becomes NDJSON's."""
    columns = Columns((column_of_kind("x", Kind.TIMESTAMPTZ, "text"),))

    assert RowJson(columns, "text").of({"x": text}) == {"x": expected}


def test_types_that_are_none_of_ours():
    """An array or a composite is its JSON where there is any, else its text."""
    rendered = Columns((Column("x", natural=lambda raw: raw),))

    assert RowJson(rendered, "json").of({"x": Raw("[1, 2.50]")}) == {"x": [1, Decimal("2.50")]}
    assert RowJson(Columns((Column("x"),)), "text").of({"x": "{1,2.50}"}) == {"x": "{1,2.50}"}


FOREIGN = [
    (1, 1),
    (True, True),
    (2**70, 2**70),
    (0.1, Decimal("0.1")),
    (float("nan"), "NaN"),
    (Decimal("-Infinity"), "-Infinity"),
    (Decimal("0.10"), Decimal("0.10")),
    (datetime(2026, 1, 18, 10, tzinfo=UTC), "2026-01-18T10:00:00+00:00"),
    (date(2026, 1, 18), "2026-01-18"),
    (UUID(int=5), str(UUID(int=5))),
    ({"a": (1, {"b": Decimal("1.50")}), 5: None}, {"a": [1, {"b": Decimal("1.50")}], "5": None}),
    (remembering({"a": 1}, Raw('{"a": 1.0}')), {"a": Decimal("1.0")}),
    (remembering(1e23, Raw("1e+23")), Decimal("1e+23")),
    (remembering(float("inf"), Raw("Infinity")), "Infinity"),
    (Raw("NaN"), "NaN"),
    (Raw("[1.10]"), [Decimal("1.10")]),
    (None, None),
]


@pytest.mark.parametrize(("value", "expected"), FOREIGN)
def test_values_that_a_python_step_left(value: Any, expected: Any):
    """As NDJSON writes them."""
    row = RowJson(UNKNOWN_COLUMNS, "json").of({"x": value})

    assert row == {"x": expected}
    assert row == exactly(Ndjson(exact=False).encode([{"x": value}]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (remembering(1e23, "1e+23"), Decimal("1e+23")),
        (remembering(float("inf"), "Infinity"), "Infinity"),
        (remembering({"a": 1}, '{"a": 1.0}'), {"a": Decimal("1.0")}),
    ],
)
def test_values_that_a_python_step_left_on_the_way_to_csv(value: Any, expected: Any):
    """Unchanged ones were carried as text."""
    assert RowJson(UNKNOWN_COLUMNS, "text").of({"x": value}) == {"x": expected}


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("kind", list(NATURAL))
@given(data=st.data())
def test_text_of_carried_values(kind: Kind, carry: str, data: st.DataObject):
    """Where a value is carried, its text is the one that `kinds.text_of` gives."""
    carried = form_of(kind, carry).carried(data.draw(NATURAL[kind]))

    assert text_of_any(carried) == text_of(carried)


def test_the_row_is_not_touched():
    """Nor is anything that could be changed shared with it."""
    document = {"a": [1]}
    row = {"x": document, "y": 1}

    json_row = RowJson(UNKNOWN_COLUMNS, "json").of(row)
    json_row["x"]["a"].append(2)
    json_row["y"] = 2

    assert row == {"x": {"a": [1]}, "y": 1}
