"""NDJSON: a JSON object a line. tests/contract/source holds all of Postgres's types."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from msgspec import Raw

from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.rows.projection import Projection
from pipeline_processing.rows.untouched import remembering


def encoded(*rows: dict[str, Any], exact: bool = False, numbers: tuple[str, ...] | None = None) -> list[str]:
    lines = Ndjson(exact=exact, numbers=numbers).encode(list(rows)).decode()
    assert lines.endswith("\n")
    return lines[:-1].split("\n")


def test_carried_values_are_written_as_they_are():
    """Fragments of JSON keep every digit."""
    row = {"a": Raw(b"1.50"), "b": "x\n", "c": None, "d": True, "e": 2**63 - 1, "f": Raw(b'{"a": 1, "a": 2}')}

    assert encoded(row, exact=True) == [
        '{"a":1.50,"b":"x\\n","c":null,"d":true,"e":9223372036854775807,"f":{"a": 1, "a": 2}}'
    ]


@pytest.mark.parametrize("numbers", [None, ("a", "b"), ("b", "d")])
@pytest.mark.parametrize("exact", [True, False])
def test_carried_numbers_that_json_does_not_have(exact: bool, numbers: tuple[str, ...] | None):
    """NaN and infinities become strings wherever they stand; text that looks like them stays."""
    rows = [
        {"a": Raw(b"NaN"), "b": Raw(b"-Infinity"), "c": "x:NaN"},
        {"a": Raw(b"1"), "b": Raw(b"Infinity"), "c": ":Infinity"},
        {"a": Raw(b"1"), "b": None, "c": '":-Infinity'},
    ]

    assert [json.loads(line, parse_constant=pytest.fail) for line in encoded(*rows, exact=exact, numbers=numbers)] == [
        {"a": "NaN", "b": "-Infinity", "c": "x:NaN"},
        {"a": 1, "b": "Infinity", "c": ":Infinity"},
        {"a": 1, "b": None, "c": '":-Infinity'},
    ]


@dataclass
class Point:
    x: float
    y: Any


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+20"), "100000000000000000000"),
        (Decimal("NaN"), '"NaN"'),
        (float("inf"), '"Infinity"'),
        (float("nan"), '"NaN"'),
        (1.5, "1.5"),
        (2**100, str(2**100)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (datetime(2026, 1, 18, 10, 0, 0, 120000, tzinfo=UTC), '"2026-01-18T10:00:00.12+00:00"'),
        (date(2026, 1, 18), '"2026-01-18"'),
        (time(10, 0), '"10:00:00"'),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        ({"a": Decimal("1.10"), "b": [float("nan")]}, '{"a":1.10,"b":["NaN"]}'),
        ((1, Decimal("2.0")), "[1,2.0]"),
        ([], "[]"),
        ({}, "{}"),
        ("\ud800", '"\\ud800"'),
        (Point(1.5, remembering(2.5, Raw(b"2.50"))), '{"x":1.5,"y":2.5}'),
        (timedelta(hours=1), '"PT3600S"'),
    ],
)
def test_values_of_steps(value: Any, document: str):
    """What a step returned is JSON with all digits, one line for each row."""
    assert encoded({"x": value}, {"x": value}) == [f'{{"x":{document}}}'] * 2


def test_untouched_values_are_written_as_they_came():
    """A value that remembers its carried form is written in it, until it is changed, however deep inside."""
    document, floating = Raw(b'{"a": 1.0, "a": [2.50]}'), Raw(b"1e+23")
    read = remembering({"a": [Decimal("2.50")]}, document)

    assert encoded({"x": read, "y": remembering(1e23, floating)}) == ['{"x":{"a": 1.0, "a": [2.50]},"y":1e+23}']
    read["a"][0] = Decimal("2.5")
    assert encoded({"x": read}) == ['{"x":{"a":[2.5]}}']


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (Decimal("1.0"), Decimal("1.00")), (0, False)])
def test_changes_that_python_calls_equal(before: Any, after: Any):
    """True isn't 1: to replace one by the other is a change."""
    read = remembering([before], Raw(b"[carried]"))
    read[0] = after

    assert encoded({"x": read}) != ['{"x":[carried]}']


NAMES = [("a", "b"), ('a"b', "\\"), ("a\nb", "class"), ("ключ 🦉", " "), ("x", "__init__"), ("rename", "self")]


@pytest.mark.parametrize("names", NAMES)
def test_rows_made_for_it_are_written_like_dicts(names: tuple[str, str]):
    """Whatever the columns are called, both kinds of rows give the same bytes, constants included."""
    projection = Projection((*names, "more"), (1, 0), (5,))
    records = [(Raw(b"1.50"), "x"), (None, "\n"), (Raw(b"NaN"), "y")]
    rows_format = Ndjson(exact=True, numbers=names)

    made = rows_format.encode(rows_format.row_maker(projection)(records))

    assert made == Ndjson(exact=True).encode(projection.rows(records))
    assert [list(json.loads(line)) for line in made.splitlines()] == [[*names, "more"]] * 3
