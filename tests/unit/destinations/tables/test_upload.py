"""A CSV header names the columns of the rows."""

from __future__ import annotations

import pytest

from pipeline_processing.destinations.tables.upload import header_of


@pytest.mark.parametrize(
    ("record", "delimiter", "fields"),
    [
        (b"id,name\n", ",", ["id", "name"]),
        (b'"a ""b""","x\ny"\n', ",", ['a "b"', "x\ny"]),
        (b"a,b;c\n", ";", ["a,b", "c"]),
        ("ключ\t🦉\n".encode(), "\t", ["ключ", "🦉"]),
        (b"\n", ",", []),
        (b'"a\nb",c\n1,2\n', ",", ["a\nb", "c"]),
    ],
)
def test_the_header_names_the_columns(record: bytes, delimiter: str, fields: list[str]) -> None:
    """As the service itself writes it: the first record, whatever follows."""
    assert header_of(record, delimiter=delimiter) == fields
