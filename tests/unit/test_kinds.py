"""Values of each kind, carried in each form: nothing is lost, they order as values do, and formats print them alike."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.formats.csv import Csv
from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.kinds import FORMS, Form, column_of_kind, form_of, text_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import loads
from pipeline_processing.rows.untouched import carried_form

CARRIES = ("json", "text")
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40, places=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | DECIMALS | TEXT
OBJECTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
).filter(lambda document: isinstance(document, dict | list))
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: TEXT,
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMBER: st.one_of(DECIMALS, st.sampled_from([Decimal("Infinity"), Decimal("-Infinity"), Decimal("1E+30")])),
    Kind.FLOAT: st.floats(allow_nan=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates(),
    Kind.TIMESTAMP: st.datetimes(),
    # Within a day of the ends there is no such instant in UTC.
    Kind.TIMESTAMPTZ: st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES),  # noqa: DTZ001 ZONES adds one
    Kind.UUID: st.uuids(),
    Kind.JSON: OBJECTS,
}
ORDERED = [kind for kind in Kind if kind is not Kind.JSON]


def natural(form: Form, carried: Any) -> Any:
    return carried if form.natural is None else form.natural(carried)


def key(form: Form, value: Any) -> Any:
    assert form.comparison is not None
    return form.comparison.key(form.carried(value))


def test_every_kind_has_a_form():
    """In each way of carrying values."""
    assert {carry: set(forms) for carry, forms in FORMS.items()} == {carry: set(Kind) for carry in CARRIES}


# -- nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data())
def test_a_value_comes_back(kind: Kind, carry: str, data: st.DataObject):
    """What a step makes is what the next one sees."""
    form, value = form_of(kind, carry), data.draw(VALUES[kind])
    expected = str(value) if kind is Kind.UUID else value

    came_back = natural(form, form.carried(value))

    assert came_back == expected
    assert isinstance(came_back, type(expected))


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data())
def test_a_carried_value_has_its_forms_type(kind: Kind, carry: str, data: st.DataObject):
    """In "text" all are text; in "json" those that msgspec writes as they are, or a fragment of JSON."""
    carried = form_of(kind, carry).carried(data.draw(VALUES[kind]))
    fragments = (Kind.NUMBER, Kind.FLOAT, Kind.JSON)
    plain = {Kind.INTEGER: int, Kind.BOOLEAN: bool}.get(kind, str)

    assert type(carried) is (str if carry == "text" else msgspec.Raw if kind in fragments else plain)


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize(("kind", "nan"), [(Kind.NUMBER, Decimal("NaN")), (Kind.FLOAT, math.nan)])
def test_what_is_not_a_number(kind: Kind, nan: Any, carry: str):
    """It comes back, and is written as Postgres writes it."""
    form = form_of(kind, carry)

    assert text_of(form.carried(nan)) == "NaN"
    assert math.isnan(natural(form, form.carried(nan)))


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.DATE, "infinity"),
        (Kind.DATE, "0044-03-15 BC"),
        (Kind.TIMESTAMP, "-infinity"),
        (Kind.TIMESTAMP, "294276-12-31T23:59:59.999999"),
        (Kind.TIMESTAMPTZ, "infinity"),
        (Kind.TIMESTAMPTZ, "0044-03-15T00:00:00+00:00 BC"),
    ],
)
def test_times_that_python_does_not_reach(kind: Kind, text: str, carry: str):
    """They stay text, both ways."""
    form = form_of(kind, carry)

    assert natural(form, form.carried(text)) == form.carried(text) == text


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_integers_of_more_than_64_bits(value: int, carry: str):
    """Postgres has none, and the message says what to make of them."""
    with pytest.raises(ValueError, match="64 bits at most: make it a number"):
        form_of(Kind.INTEGER, carry).carried(value)


@pytest.mark.parametrize(
    ("kind", "value", "json_text", "text"),
    [
        (Kind.NUMBER, Decimal("1E+20"), "100000000000000000000", "100000000000000000000"),
        (Kind.NUMBER, Decimal("1.50"), "1.50", "1.50"),
        (Kind.FLOAT, 1.0, "1", "1"),
        (Kind.FLOAT, -0.0, "-0", "-0"),
        (Kind.FLOAT, 1e300, "1e+300", "1e+300"),
        (Kind.FLOAT, math.inf, "Infinity", "Infinity"),
        (Kind.BOOLEAN, True, "true", "t"),
        (Kind.BOOLEAN, False, "false", "f"),
        (Kind.TIMESTAMP, datetime(2026, 1, 18, 10, 0, 0, 500000), "2026-01-18T10:00:00.5", "2026-01-18 10:00:00.5"),  # noqa: DTZ001 this kind has no zone
        (Kind.TIMESTAMPTZ, datetime(2026, 1, 2, 10, tzinfo=UTC), "2026-01-02T10:00:00+00:00", "2026-01-02 10:00:00+00"),
        (
            Kind.TIMESTAMPTZ,
            datetime(2026, 1, 18, 1, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-17T23:00:00+00:00",
            "2026-01-17 23:00:00+00",
        ),
        (Kind.UUID, UUID(int=5), "00000000-0000-0000-0000-000000000005", "00000000-0000-0000-0000-000000000005"),
        (Kind.JSON, {"a": [1, None]}, '{"a":[1,null]}', '{"a": [1, null]}'),
    ],
)
def test_how_values_are_written(kind: Kind, value: Any, json_text: str, text: str):
    """As Postgres writes them: in row_to_json, and in COPY."""
    assert text_of(form_of(kind, "json").carried(value)) == json_text
    assert text_of(form_of(kind, "text").carried(value)) == text


@given(value=st.floats())
def test_a_float_that_no_step_changes_is_written_as_it_came(value: float):
    """Postgres's digits aren't always Python's."""
    for carry in CARRIES:
        form = form_of(Kind.FLOAT, carry)
        carried = form.carried(value)
        assert carried_form(natural(form, carried)) is carried


@pytest.mark.parametrize("carry", CARRIES)
def test_a_document_that_no_step_changes_is_written_as_it_came(carry: str):
    """With repeated keys and all its spaces; one that was changed isn't."""
    text = '{"a": 1,  "a": 2.50}'
    carried = text if carry == "text" else msgspec.Raw(text.encode())
    document = natural(form_of(Kind.JSON, carry), carried)

    assert document == {"a": Decimal("2.5")}
    assert carried_form(document) is carried
    document["b"] = 1
    assert carried_form(document) is None


def test_plain_documents_in_text():
    """They stay text, which tells null from the word and a number from a quoted one."""
    form = form_of(Kind.JSON, "text")

    assert [natural(form, text) for text in ("null", '"1"', "1")] == ["null", '"1"', "1"]


# -- they order as values do ---------------------------------------------------------------------


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", ORDERED)
@given(data=st.data())
def test_keys_order_as_values_do(kind: Kind, carry: str, data: st.DataObject):
    """And are equal where values are."""
    form, one, other = form_of(kind, carry), data.draw(VALUES[kind]), data.draw(VALUES[kind])

    assert (key(form, one) < key(form, other)) == (one < other)
    assert (key(form, one) == key(form, other)) == (one == other)


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", ORDERED)
@given(data=st.data())
def test_a_literal_finds_its_value(kind: Kind, carry: str, data: st.DataObject):
    """What a condition of SQL names has the key of what is carried, so `=` means the same in both forms."""
    form, value = form_of(kind, carry), data.draw(VALUES[kind])
    literals: dict[Kind, Callable[[Any], Any]] = {
        Kind.FLOAT: lambda number: repr(number).replace("inf", "Infinity"),
        Kind.DATE: date.isoformat,
        Kind.TIMESTAMP: datetime.isoformat,
        Kind.TIMESTAMPTZ: datetime.isoformat,
        Kind.UUID: lambda uuid: str(uuid).upper(),
    }
    assert form.comparison is not None

    assert form.comparison.literal(literals.get(kind, lambda same: same)(value)) == key(form, value)


@pytest.mark.parametrize(("kind", "separator", "zone"), [(Kind.TIMESTAMP, "", ""), (Kind.TIMESTAMPTZ, "+00:00", "+00")])
def test_times_order_beyond_pythons_years(kind: Kind, separator: str, zone: str):
    """The same in both forms."""
    texts = ["0044-03-15T00:00:00{} BC", "0001-01-01T00:00:00{}", "9999-12-31T23:59:59{}", "10000-01-01T00:00:00{}"]
    carried = {
        "json": ["-infinity", *(text.format(separator) for text in texts), "infinity"],
        "text": ["-infinity", *(text.format(zone).replace("T", " ") for text in texts), "infinity"],
    }
    for carry, values in carried.items():
        comparison = form_of(kind, carry).comparison
        assert comparison is not None
        assert all(comparison.key(a) < comparison.key(b) for a, b in pairwise(values))


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", [Kind.NUMBER, Kind.FLOAT])
def test_nan_is_the_greatest(kind: Kind, carry: str):
    """As in Postgres, and equal to itself."""
    form = form_of(kind, carry)
    make: Any = Decimal if kind is Kind.NUMBER else float

    assert key(form, make("Infinity")) < key(form, make("NaN"))
    assert key(form, make("NaN")) == key(form, make("NaN"))


@pytest.mark.parametrize("carry", CARRIES)
def test_documents_do_not_compare(carry: str):
    """Postgres's type json has no order, and not even equality."""
    assert form_of(Kind.JSON, carry).comparison is None


# -- formats print them --------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """Lines of one column `v`, whose values are carried or a step's own."""

    carried: bytes
    own: bytes


def in_ndjson(carried: Any, own: Any) -> Printed:
    return Printed(Ndjson(exact=True).encode([{"v": carried}]), Ndjson(exact=False).encode([{"v": own}]))


def in_csv(carried: Any, own: Any) -> Printed:
    fixed, free = Csv(fixed=True), Csv(fixed=False)
    return Printed(fixed.encode([{"v": carried}]), free.encode([{"v": own}]))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TIMESTAMPTZ])
@given(data=st.data())
def test_json_means_what_a_steps_own_value_means(kind: Kind, data: st.DataObject):
    """A line with a value that a built-in step made says the same as one with the value of a `python` step."""
    value = data.draw(VALUES[kind])
    printed = in_ndjson(form_of(kind, "json").carried(value), value)

    assert loads(printed.carried) == loads(printed.own)
    json.loads(printed.carried, parse_constant=lambda word: pytest.fail(f"{word} isn't JSON"))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TIMESTAMPTZ])
@given(data=st.data())
def test_csv_is_what_a_steps_own_value_gives(kind: Kind, data: st.DataObject):
    """Byte by byte."""
    value = data.draw(VALUES[kind])
    printed = in_csv(form_of(kind, "text").carried(value), value)

    assert printed.carried == printed.own


# -- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("kind", list(Kind))
def test_a_column_of_a_kind(kind: Kind, carry: str):
    """It knows its type and what it was made of, and isn't as it was read."""
    column, form = column_of_kind("x", kind, carry, origins=["a", "b"]), form_of(kind, carry)

    assert (column.name, column.kind, column.typed) == ("x", kind, True)
    assert (column.natural, column.comparison) == (form.natural, form.comparison)
    assert (column.origins, column.unchanged) == ({"a", "b"}, False)


@pytest.mark.parametrize(
    ("carried", "text"),
    [("as it is", "as it is"), (msgspec.Raw(b'{"a": 1}'), '{"a": 1}'), (True, "true"), (False, "false"), (-5, "-5")],
)
def test_texts_of_carried_values(carried: Any, text: str):
    """Whatever the form, as the format would print them."""
    assert text_of(carried) == text
