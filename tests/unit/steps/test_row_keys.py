"""Keys of rows are the same where SQL calls their values equal, and only there."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.values import PADDED_TEXT
from pipeline_processing.steps.row_keys import RowKey


def key(*values: Any, columns: Columns = UNKNOWN_COLUMNS) -> bytes:
    names = columns.names or tuple(str(place) for place in range(len(values)))
    return RowKey(names, columns, step="dedupe").of(dict(zip(names, values, strict=True)))


def of_kind(kind: Kind, carry: str) -> Columns:
    return Columns((column_of_kind("x", kind, carry),))


NUMBERS = [
    "0",
    "-0",
    "0.0",
    "-0.00",
    "0e5",
    "1",
    "1.0",
    "1e0",
    "10",
    "1e1",
    "1.5",
    "1.50",
    "1e400",
    "1e-400",
    "-1",
    "100",
]
TEXT_NUMBERS = [*NUMBERS, "NaN", "Infinity", "-Infinity", "1" + "0" * 400]


@pytest.mark.parametrize("carry", ["json", "text"])
@given(one=st.sampled_from(TEXT_NUMBERS), other=st.sampled_from(TEXT_NUMBERS))
def test_numbers_are_equal_by_value(one: str, other: str, carry: str):
    """However they are written; NaN equals itself."""
    a, b = (Raw(text) if carry == "json" else text for text in (one, other))
    columns = of_kind(Kind.NUMBER, carry)

    equal = one == other if "NaN" in (one, other) else Decimal(one) == Decimal(other)
    assert (key(a, columns=columns) == key(b, columns=columns)) is equal


@given(one=st.decimals(allow_nan=False), other=st.decimals(allow_nan=False))
def test_decimals_are_equal_by_value(one: Decimal, other: Decimal):
    """Of any size, and of any number of digits."""
    assert (key(one) == key(other)) is (one == other)
    assert key(one) == key(one.normalize() if one.normalize() == one else one)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (5, Decimal("5.00"), True),
        (5, 5.0, True),
        (10**30, Decimal("1e30"), True),
        (Decimal("1e999999999"), Decimal("10e999999998"), True),
        (Decimal("1e999999999"), Decimal("1e999999998"), False),
        (0.1, Decimal("0.1"), True),
        (float("nan"), Decimal("NaN"), True),
        (float("inf"), Decimal("Infinity"), True),
        (1, True, False),
        ("1", 1, False),
        ("a", "A", False),
        ("n5", 5, False),
        ("\ud800", "\udfff", False),
        (UUID(int=5), str(UUID(int=5)), False),
        (date(2026, 1, 18), datetime.fromisoformat("2026-01-18"), False),
        (datetime(2026, 1, 18, 10, tzinfo=UTC), datetime(2026, 1, 18, 12, tzinfo=timezone(timedelta(hours=2))), True),
        (datetime(2026, 1, 18, 10, tzinfo=UTC), datetime.fromisoformat("2026-01-18T10:00"), False),
        (b"a", "a", False),
        (Raw("1"), Raw("1"), True),
        (None, None, True),
        (None, "", False),
        (None, "-", False),
    ],
)
def test_values_that_a_python_step_left(one: Any, other: Any, equal: bool):
    """They are equal if they are of one kind and equal."""
    assert (key(one) == key(other)) is equal


def test_integers_of_any_length():
    """Also one that Python refuses to print."""
    assert key(10**5000) == key(Decimal("1e5000")) != key(10**5000 + 1)


@given(
    one=st.tuples(st.text(max_size=3) | st.none(), st.text(max_size=3) | st.none()),
    other=st.tuples(st.text(max_size=3) | st.none(), st.text(max_size=3) | st.none()),
)
def test_several_columns_never_run_together(one: tuple[str | None, str | None], other: tuple[str | None, str | None]):
    """('a', 'bc') isn't ('ab', 'c'), and null isn't any text."""
    assert (key(*one) == key(*other)) is (one == other)


@pytest.mark.parametrize(
    "texts", [("ab", "c", "a", "bc"), ("1:a", "", "", "1:a"), ("-", "-", "--", ""), ("3:a", "", "", "3:a")]
)
def test_text_that_looks_like_what_stands_between(texts: tuple[str, str, str, str]):
    """Lengths keep columns apart."""
    assert key(*texts[:2]) != key(*texts[2:])


@pytest.mark.parametrize(
    ("kind", "carry", "one", "other", "equal"),
    [
        (Kind.INTEGER, "json", 5, 5, True),
        (Kind.INTEGER, "text", "5", "5", True),
        (Kind.FLOAT, "json", Raw("1e+23"), Raw("9.999999999999999e+22"), True),
        (Kind.FLOAT, "json", Raw("-0"), Raw("0"), True),
        (Kind.FLOAT, "text", "NaN", "NaN", True),
        (Kind.BOOLEAN, "json", True, False, False),
        (Kind.BOOLEAN, "text", "t", "t", True),
        (Kind.TIMESTAMPTZ, "json", "2026-01-18T10:00:00+00:00", "2026-01-18T10:00:00.5+00:00", False),
        (Kind.TIMESTAMPTZ, "text", "infinity", "infinity", True),
        (Kind.TIMESTAMPTZ, "text", "infinity", "-infinity", False),
        (Kind.DATE, "text", "0044-03-15", "0044-03-15 BC", False),
        (Kind.TEXT, "json", "a", "a ", False),
        (Kind.UUID, "json", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", True),
    ],
)
def test_columns_of_every_kind(kind: Kind, carry: str, one: Any, other: Any, equal: bool):
    """As Postgres compares the type, in both forms."""
    columns = of_kind(kind, carry)

    assert (key(one, columns=columns) == key(other, columns=columns)) is equal


def test_padding_of_a_char_column_means_nothing():
    """The column's own comparison decides."""
    columns = Columns((Column("x", comparison=PADDED_TEXT),))

    assert key("a  ", columns=columns) == key("a", columns=columns)


def test_a_column_without_equality_is_refused():
    """Postgres has none for json, and that of arrays isn't known here."""
    with pytest.raises(InvalidStep, match="can't compare the values of column 'x'"):
        key(Raw("{}"), columns=of_kind(Kind.JSON, "json"))


@pytest.mark.parametrize("value", [{"a": 1}, [1], object()])
def test_values_without_equality_are_refused(value: Any):
    """Found when they come; the message names column and type, and not the value."""
    with pytest.raises(StepFailed, match=f"'0': a {type(value).__name__} has no known equality"):
        key(value)


def test_unknown_columns_are_refused():
    """Before the first row."""
    with pytest.raises(UnknownColumn, match="'y'"):
        RowKey(["y"], of_kind(Kind.TEXT, "json"), step="dedupe")
