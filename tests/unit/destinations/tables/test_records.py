"""Bytes are cut where records end, however they arrive."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.destinations.tables.records import Records, csv_fields
from pipeline_processing.model import FormatName

texts = st.text(st.sampled_from('ab",;\n\r é🦉\\'), max_size=8)
tables = st.lists(st.lists(texts, min_size=1, max_size=3), max_size=8)


def encoded(rows: list[list[str]]) -> bytes:
    return "".join(",".join(map(field, row)) + "\n" for row in rows).encode()


def field(text: str) -> str:
    """In quotes where it has to be."""
    return '"' + text.replace('"', '""') + '"' if not text or set(text) & set(',"\r\n') else text


def parsed(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@given(tables, st.data())
def test_csv_is_cut_between_records(rows: list[list[str]], data: st.DataObject) -> None:
    """Every piece parses by itself, and all together are the whole, whatever the quotes hold."""
    body, records, taken = encoded(rows), Records(FormatName.CSV), []
    while body:
        size = data.draw(st.integers(1, len(body)))
        records.feed(body[:size])
        body = body[size:]
        taken.append(records.take())
    assert len(records) == 0
    assert b"".join(taken) == encoded(rows)
    assert [row for piece in taken for row in parsed(piece)] == rows


@given(tables, st.data())
def test_nothing_is_held_back(rows: list[list[str]], data: st.DataObject) -> None:
    """After whole records and a part of the next one, all of the whole ones are given out."""
    whole = encoded(rows)
    rest = encoded([data.draw(st.lists(texts, min_size=1, max_size=3))])[:-1]
    records = Records(FormatName.CSV)
    records.feed(whole + rest)
    assert len(records.take()) >= len(whole)
    taken_twice = records.take()
    assert taken_twice == b""


@given(tables)
def test_the_first_record_is_taken_alone(rows: list[list[str]]) -> None:
    """The header, whatever the columns are called."""
    records = Records(FormatName.CSV)
    records.feed(encoded(rows))
    assert records.take_first() == encoded(rows[:1])
    assert records.take_rest() == encoded(rows[1:])


@given(st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b'"')), max_size=6), st.data())
def test_ndjson_is_cut_at_line_ends(lines: list[bytes], data: st.DataObject) -> None:
    """Quotes mean nothing there."""
    body = b"".join(line + b"\n" for line in lines)
    cut = data.draw(st.integers(0, len(body)))
    records = Records(FormatName.NDJSON)
    records.feed(body[:cut])
    first = records.take()
    assert first == body[: body.rfind(b"\n", 0, cut) + 1]
    records.feed(body[cut:])
    assert first + records.take() == body


def test_a_last_record_needs_no_end() -> None:
    """It is there when the rest is asked for."""
    records = Records(FormatName.CSV)
    records.feed(b'1\n2,"x')
    assert (records.take(), records.take(), records.take_rest()) == (b"1\n", b"", b'2,"x')
    assert len(records) == 0


@pytest.mark.parametrize(
    ("record", "delimiter", "fields"),
    [
        (b"id,name\n", ",", ["id", "name"]),
        (b'"a ""b""","x\ny"\n', ",", ['a "b"', "x\ny"]),
        (b"a,b;c\n", ";", ["a,b", "c"]),
        ("ключ\t🦉\n".encode(), "\t", ["ключ", "🦉"]),
        (b"\n", ",", []),
    ],
)
def test_fields_of_a_record(record: bytes, delimiter: str, fields: list[str]) -> None:
    """As the service itself writes them."""
    assert csv_fields(record, delimiter=delimiter) == fields
