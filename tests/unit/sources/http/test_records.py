"""Records of an API checked against their columns, and carried."""

# ruff: noqa: E501 - tables of samples

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.kinds import form_of, text_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import loads
from pipeline_processing.sources.http.options import ColumnSchema
from pipeline_processing.sources.http.records import RecordReader


def carried(kind: str, value: Any, carry: str = "json") -> Any:
    """One value of a column of that kind."""
    [one] = RecordReader({"c": ColumnSchema(kind=Kind(kind))}, carry=carry).read({"c": value}, 1)
    return one


VALUES: list[tuple[str, Any, str, str]] = [
    # kind, value as parsed, carried for JSON, carried as text
    ("text", "é\n\0😀", "é\n\0😀", "é\n\0😀"),
    ("text", "", "", ""),
    ("integer", 0, "0", "0"),
    ("integer", -(2**63), str(-(2**63)), str(-(2**63))),
    ("integer", Decimal("5.0"), "5", "5"),
    ("integer", Decimal("1E2"), "100", "100"),
    ("integer", Decimal("-0"), "0", "0"),
    ("number", Decimal("0.10"), "0.10", "0.10"),
    ("number", Decimal("1E5"), "100000", "100000"),
    ("number", Decimal("1E400"), "1" + "0" * 400, "1" + "0" * 400),
    ("number", Decimal("-1.5E-7"), "-0.00000015", "-0.00000015"),
    ("number", 5, "5", "5"),
    ("number", 10**40, "1" + "0" * 40, "1" + "0" * 40),
    ("float", Decimal("0.10"), "0.10", "0.10"),
    ("float", Decimal("1E400"), "1e+400", "1e+400"),
    ("float", Decimal("1.7976931348623157E308"), "1.7976931348623157e+308", "1.7976931348623157e+308"),
    ("float", 10**40, "1" + "0" * 40, "1" + "0" * 40),
    ("boolean", True, "true", "t"),
    ("boolean", False, "false", "f"),
    ("date", "0001-01-01", "0001-01-01", "0001-01-01"),
    ("date", "2024-02-29", "2024-02-29", "2024-02-29"),
    ("timestamp", "2026-01-18T10:00:00", "2026-01-18T10:00:00", "2026-01-18 10:00:00"),
    ("timestamp", "2026-01-18 10:00:00.500", "2026-01-18T10:00:00.5", "2026-01-18 10:00:00.5"),
    ("timestamptz", "2026-01-18T10:00:00Z", "2026-01-18T10:00:00+00:00", "2026-01-18 10:00:00+00"),
    ("timestamptz", "2026-01-18t12:30:00.25+02:30", "2026-01-18T10:00:00.25+00:00", "2026-01-18 10:00:00.25+00"),
    ("timestamptz", "2026-01-18T23:00:00.123456789-05:00", "2026-01-19T04:00:00.123456789+00:00", "2026-01-19 04:00:00.123456789+00"),
    ("timestamptz", "0999-01-01T00:00:00.000z", "0999-01-01T00:00:00+00:00", "0999-01-01 00:00:00+00"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", {"a": [Decimal("0.10"), 10**40, None]}, '{"a":[0.10,' + "1" + "0" * 40 + ",null]}", '{"a": [0.10, ' + "1" + "0" * 40 + ", null]}"),
    ("json", "x\ud83d", '"x\\ud83d"', '"x\\ud83d"'),
    ("json", [], "[]", "[]"),
    ("json", False, "false", "false"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "as_json", "as_text"), VALUES)
def test_values_of_every_kind(kind: str, value: Any, as_json: str, as_text: str):
    """Each kind takes its values exactly, in the form that the format prints."""
    in_json, in_text = carried(kind, value), carried(kind, value, "text")

    assert text_of(in_json) == as_json
    assert in_text == as_text
    natural = form_of(Kind(kind), "json").natural
    assert type(in_json) is {"number": Raw, "float": Raw, "json": Raw, "integer": int}.get(kind, type(value))
    assert natural is None or natural(in_json) is not None, "steps can read it"


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("carry", ["json", "text"])
def test_null(kind: Kind, carry: str):
    """Null, or no such key, is null in every kind, unless it is required."""
    reader = RecordReader({"a": ColumnSchema(kind=kind), "b": ColumnSchema(kind=kind)}, carry=carry)
    assert reader.read({"a": None}, 1) == (None, None)

    reader = RecordReader({"a": ColumnSchema(kind=kind, required=True)}, carry=carry)
    for record in ({}, {"a": None}):
        with pytest.raises(SourceDataInvalid, match="Record 1,234 has no value, or null, for column 'a'"):
            reader.read(record, 1234)


WRONG: dict[str, list[Any]] = {
    "text": [5, True, Decimal("0.5"), [], {}, "\ud83d", "x\ude00y"],
    "integer": ["5", True, Decimal("5.5"), Decimal("1E-2"), Decimal("1E20"), 2**63, 10**40, [5]],
    "number": ["5", "0.5", True, [], {}],
    "float": ["5", "NaN", False],
    "boolean": [0, 1, "true", "t"],
    "date": ["2026-1-18", "20260118", "2026-02-30", "2026-01-18T00:00:00Z", "2026-W03-7", "٢٠٢٦-01-18", "0000-01-01", 5, " 2026-01-18"],
    "timestamp": ["2026-01-18T10:00:00Z", "2026-01-18", "2026-01-18T24:00:00", "2026-01-18T10:00", "2026-01-18T10:00:60", 1768730400],
    "timestamptz": ["2026-01-18T10:00:00", "2026-01-18T10:00:00+25:00", "2026-01-18T10:00:00.+00:00", "0001-01-01T00:00:00+01:00", "2026-13-18T10:00:00Z"],
    "uuid": ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "", 5],
}  # fmt: skip


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in WRONG.items() for value in values])
def test_values_of_another_type(kind: str, value: Any, carry: str):
    """Nothing is converted by guess; the message tells record, column and what is expected."""
    reader = RecordReader({"amount": ColumnSchema(kind=Kind(kind))}, carry=carry)
    with pytest.raises(SourceDataInvalid, match=r"Record 17 has .* for column 'amount', but must have") as raised:
        reader.read({"amount": value}, 17)

    assert raised.value.exit_code == 1
    assert not raised.value.retryable


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.TEXT, Kind.JSON)])
def test_no_message_repeats_a_value(kind: Kind):
    """Rows hold personal data, and messages are stored and sent."""
    with pytest.raises(SourceDataInvalid) as raised:
        RecordReader({"a": ColumnSchema(kind=kind)}, carry="json").read({"a": "jane@doe.example"}, 1)

    assert "jane" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_document_that_is_nested_too_deeply():
    """It is an error of this record, like any other."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SourceDataInvalid, match="nested too deeply"):
        carried("json", deep)


@pytest.mark.parametrize("record", [None, 5, "row 1", [], True, Decimal("0.5")])
def test_what_is_no_record(record: Any):
    """Everything in the list must be an object."""
    with pytest.raises(SourceDataInvalid, match=r"Record 3 is .*must be an object") as raised:
        RecordReader({"a": ColumnSchema(kind=Kind.TEXT)}, carry="json").read(record, 3)

    assert "row" not in str(raised.value)


def test_paths():
    """A value may stand deeper; null on the way is null; a key with a point is found by its own name only."""
    reader = RecordReader(
        {"x": ColumnSchema(kind=Kind.TEXT, path="a.b.c"), "a.b": ColumnSchema(kind=Kind.TEXT)}, carry="json"
    )

    assert reader.read({"a": {"b": {"c": "deep"}}, "a.b": "flat"}, 1) == ("deep", "flat")
    assert reader.read({"a": {"b": None}}, 1) == (None, None)
    assert reader.read({"more": 1}, 1) == (None, None)
    with pytest.raises(SourceDataInvalid, match=r"Record 5 has text on the way to column 'x'.*before 'c'"):
        reader.read({"a": {"b": "secret"}}, 5)


def test_order_and_other_keys():
    """Values come in the order of the columns, whatever else the record has."""
    columns = {name: ColumnSchema(kind=Kind.INTEGER) for name in ("c", "a", "b")}

    assert RecordReader(columns, carry="json").read({"a": 1, "z": 0, "b": 2, "c": 3}, 1) == (3, 1, 2)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,50})(\.[0-9]{1,50})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_numbers_keep_their_value(digits: str):
    """However a number is written, what is carried has the same value, in both forms and both kinds."""
    for kind in ("number", "float"):
        for carry in ("json", "text"):
            assert Decimal(text_of(carried(kind, loads(digits), carry))) == Decimal(digits)
