"""Keys meet where they are equal. tests/contract/steps holds it against Postgres; here is what JSON adds."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import InvalidStep
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Kind
from pipeline_processing.rows.json_values import dumps, loads
from pipeline_processing.steps import lookup_keys

both_forms = pytest.mark.parametrize("carry", ["json", "text"])
UNTYPED = Column("of", typed=False)

NATURAL = {
    Kind.TEXT: st.text(),
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMBER: st.decimals(allow_nan=False, allow_infinity=False),
    Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates(),
    Kind.TIMESTAMP: st.datetimes(),
    Kind.TIMESTAMPTZ: st.datetimes(timezones=st.just(UTC)),
    Kind.UUID: st.uuids().map(str),
}


@both_forms
@pytest.mark.parametrize("kind", NATURAL)
@given(data=st.data())
def test_an_api_that_repeats_what_it_was_asked_gives_the_key(carry, kind, data):
    """Asked for as text, answered as text or in JSON's own type: it is the row's key, from both forms alike."""
    matching = lookup_keys.of_json(column_of_kind("of", kind, carry), step="s")
    natural = data.draw(NATURAL[kind])
    carried = form_of(kind, carry).carried(natural)
    key = matching.of_row(carried)
    asked = matching.asked(carried, key)

    assert isinstance(asked, str)
    assert matching.of_record(asked) == key
    in_json = bytes(form_of(kind, "json").carried(natural)) if kind in (Kind.NUMBER, Kind.FLOAT) else dumps(natural)
    if kind not in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        assert matching.of_record(loads(in_json)) == key
    other = lookup_keys.of_json(column_of_kind("of", kind, "json"), step="s")
    carried_json = form_of(kind, "json").carried(natural)
    assert other.asked(carried_json, other.of_row(carried_json)) == asked


@pytest.mark.parametrize(
    ("kind", "natural", "answered"),
    [
        (Kind.TEXT, "5", 5),
        (Kind.TEXT, "1.50", Decimal("1.50")),
        (Kind.TEXT, "true", True),
        (Kind.INTEGER, 5, "5"),
        (Kind.INTEGER, 5, Decimal("5.0")),
        (Kind.NUMBER, Decimal("5.00"), 5),
        (Kind.BOOLEAN, True, "true"),
        (Kind.UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11"),
        (Kind.TIMESTAMPTZ, datetime(2026, 1, 18, 10, tzinfo=UTC), "2026-01-18T12:00:00.000+02:00"),
        (Kind.TIMESTAMPTZ, datetime(2026, 1, 18, 10, tzinfo=UTC), "2026-01-18T10:00:00Z"),
        (Kind.DATE, date(2026, 1, 18), "2026-01-18"),
    ],
)
@both_forms
def test_spellings_of_one_key(kind, natural, answered, carry):
    """An API may spell a key in another way than it was asked: what counts is the column's type."""
    matching = lookup_keys.of_json(column_of_kind("of", kind, carry), step="s")

    assert matching.of_record(answered) == matching.of_row(form_of(kind, carry).carried(natural))


@pytest.mark.parametrize(
    ("kind", "answered"),
    [
        (Kind.INTEGER, "five"),
        (Kind.INTEGER, True),
        (Kind.NUMBER, Decimal("1e999999999")),
        (Kind.TEXT, Decimal("1e999999999")),
        (Kind.TEXT, [1]),
        (Kind.UUID, "5"),
        (Kind.DATE, 20260118),
        (Kind.TIMESTAMPTZ, "yesterday"),
        (Kind.INTEGER, 10**2000),
    ],
)
def test_what_can_be_no_key(kind, answered):
    """It is told apart, and nothing is written out that would take gigabytes."""
    with pytest.raises(ValueError, match=r"."):
        lookup_keys.of_json(column_of_kind("of", kind, "json"), step="s").of_record(answered)


@pytest.mark.parametrize("same", [[5, "5", Decimal("5.0"), 5.0, Raw(b"5")], [True, "true"], ["a", Raw(b"a")]])
def test_keys_of_no_known_type_meet_as_text(same):
    """Behind a python step nobody knows whether 5 is a number."""
    matching = lookup_keys.of_json(UNTYPED, step="s")

    assert len({matching.of_row(value) for value in same}) == 1
    assert {matching.asked(value, matching.of_row(value)) for value in same} == {matching.of_row(same[0])}


@pytest.mark.parametrize(
    ("kind", "value", "asked"),
    [
        (Kind.INTEGER, "5", "5"),
        (Kind.NUMBER, 0.1, Decimal("0.1")),
        (Kind.NUMBER, Decimal("NaN"), None),
        (Kind.UUID, UUID(int=5), str(UUID(int=5))),
        (Kind.DATE, date(2026, 1, 18), "2026-01-18"),
        (Kind.TIMESTAMPTZ, datetime(2026, 1, 18, tzinfo=UTC), "2026-01-18T00:00:00+00:00"),
    ],
)
@both_forms
def test_keys_of_no_known_type_are_literals_to_a_query(kind, value, asked, carry):
    """They are read as Postgres would read them beside a column of that type."""
    key = column_of_kind("key", kind, carry)
    matching = lookup_keys.of_columns(UNTYPED, key, step="s")
    found = matching.asked(value, matching.of_row(value))

    assert key.comparison is not None
    assert matching.of_row(value) == key.comparison.literal(value if kind is Kind.NUMBER and asked is None else asked)
    assert found.is_nan() if asked is None else str(found) == str(asked)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("0.1", "0.1000000000000000055511151231257827", True),
        ("0.1", "0.10000000000001", False),
        ("Infinity", "1e400", False),
        ("0", "1e-400", False),
        ("NaN", "NaN", True),
        ("-0", "0", True),
    ],
)
@both_forms
def test_a_float_meets_every_number_that_it_is_nearest_to(one, other, equal, carry):
    """As `float8 = numeric` has it; a number that Postgres would refuse to make a float of meets none."""
    raw = Raw if carry == "json" else str
    floats, numbers = (column_of_kind("x", kind, carry) for kind in (Kind.FLOAT, Kind.NUMBER))
    for on, key, of_row, of_record in ((floats, numbers, one, other), (numbers, floats, other, one)):
        matching = lookup_keys.of_columns(on, key, step="s")
        assert (matching.of_row(raw(of_row)) == matching.of_record(raw(of_record))) is equal


def test_families_are_checked():
    """Values of different types are never equal; where that can be told, it is told before the first row."""
    text, number = (column_of_kind("x", kind, "json") for kind in (Kind.TEXT, Kind.INTEGER))
    document = column_of_kind("j", Kind.JSON, "json")

    with pytest.raises(InvalidStep, match="a text, in 'x', a number"):
        lookup_keys.of_columns(text, number, step="s")
    for on, key in ((text, document), (document, text), (UNTYPED, document)):
        with pytest.raises(InvalidStep, match="'j', a column of"):
            lookup_keys.of_columns(on, key, step="s")
    with pytest.raises(InvalidStep, match="'j', a column of the rows"):
        lookup_keys.of_json(document, step="s")
    label = Column("m", comparison=values.ENUM)
    assert lookup_keys.of_columns(text, label, step="s").of_row("zen") == "zen"


@pytest.mark.parametrize(("number", "fits"), [("9e131071", True), ("1e131072", False), ("1e-16383", True)])
def test_a_number_is_a_key_if_postgres_has_it(number, fits):
    """Numeric has up to 131,072 digits before the point. A larger number is refused here, not by the query."""
    of_row = lookup_keys.of_json(UNTYPED, step="s").of_row
    if fits:
        of_row(Decimal(number))
    else:
        with pytest.raises(ValueError, match="exponent"):
            of_row(Decimal(number))
