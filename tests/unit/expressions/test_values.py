"""Values go from what rows carry to what expressions work with and back, and nothing of them is lost."""

# ruff: noqa: E501 - tables of samples

from itertools import pairwise
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.expressions.types import TYPE_OF_KIND
from pipeline_processing.expressions.values import key_of_carried, ordering, reading, writing
from pipeline_processing.kinds import form_of, text_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.values import same

# As Postgres orders them.
CARRIED: dict[Kind, list[str]] = {
    Kind.TEXT: ["", "A", "a", "é", "🦉"],
    Kind.INTEGER: ["-9223372036854775808", "-1", "0", "9223372036854775807"],
    Kind.NUMBER: ["-Infinity", "-1234567890123456789012345678901234567890.5", "-0.1", "0.00", "1e-30", "1.50", "Infinity", "NaN"],
    Kind.FLOAT: ["-Infinity", "-1e+300", "-0", "5e-324", "0.1", "1e+15", "9.999999999999999e+22", "Infinity", "NaN"],
    Kind.BOOLEAN: ["f", "t"],
    Kind.DATE: ["-infinity", "0044-03-15 BC", "0001-01-01", "2026-01-18", "12026-01-18", "infinity"],
    Kind.TIMESTAMP: ["-infinity", "0044-03-15 10:00:00.5 BC", "2026-01-18 10:00:00", "2026-01-18 10:00:00.25", "infinity"],
    Kind.TIMESTAMPTZ: ["-infinity", "0044-03-15 10:00:00+00 BC", "2026-01-18 10:00:00+00", "2026-01-18 10:00:00.25+00", "infinity"],
    Kind.UUID: ["00000000-0000-0000-0000-000000000001", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    Kind.JSON: ['{"a":  1.0}', "null"],
}  # fmt: skip


def carried(kind: Kind, carry: str) -> list[Any]:
    if carry == "text":
        return list(CARRIED[kind])
    as_json = {
        Kind.INTEGER: int,
        Kind.BOOLEAN: lambda text: text == "t",
        Kind.TIMESTAMP: lambda text: text.replace(" ", "T", 1) if ":" in text else text,
        Kind.TIMESTAMPTZ: lambda text: text.replace(" ", "T", 1).replace("+00", "+00:00") if ":" in text else text,
        **dict.fromkeys((Kind.NUMBER, Kind.FLOAT, Kind.JSON), Raw),
    }
    return [as_json.get(kind, same)(text) for text in CARRIED[kind]]


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("kind", Kind)
def test_there_and_back(kind: Kind, carry: str):
    """All digits, all years, and for both forms the same value in between."""
    type_ = TYPE_OF_KIND[kind]
    read, write = reading(type_, carry) or same, writing(type_, carry) or same
    values = [read(value) for value in carried(kind, carry)]

    back = [write(value) for value in values]

    expected = [text.replace("1e-30", "0." + "0" * 29 + "1") for text in map(text_of, carried(kind, carry))]
    assert [text_of(value) for value in back] == expected
    assert [type(value) for value in back] == [type(value) for value in carried(kind, carry)]
    assert [repr(value) for value in values] == [repr((reading(type_, "text") or same)(text)) for text in CARRIED[kind]]


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.JSON])
def test_keys_order_as_postgres_does(kind: Kind, carry: str):
    """Made of the value or at once of what is carried, they are the same."""
    type_ = TYPE_OF_KIND[kind]
    read, order, at_once = reading(type_, carry) or same, ordering(type_) or same, key_of_carried(type_, carry) or same
    keys = [at_once(value) for value in carried(kind, carry)]

    assert all(a < b and not b < a and a != b for a, b in pairwise(keys))
    assert keys == [order(read(value)) for value in carried(kind, carry)]


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN, Kind.UUID])
@pytest.mark.parametrize("carry", ["json", "text"])
def test_what_is_made_is_carried_as_by_any_other_step(kind: Kind, carry: str):
    """Where a value here is Python's own, `kinds` carries it."""
    type_ = TYPE_OF_KIND[kind]
    write, form = writing(type_, carry) or same, form_of(kind, carry)
    for value in map(reading(type_, carry) or same, carried(kind, carry)):
        assert write(value) == form.carried(value)
