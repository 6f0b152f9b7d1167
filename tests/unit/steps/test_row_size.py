"""How much memory rows are taken to need."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.steps.row_size import largest_of, size_of

MB = 1_000_000


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("x" * MB, MB, 1.1 * MB),
        ("x" * MB + "\U0001f600", 4 * MB, 4.1 * MB),
        (b"x" * MB, MB, 1.1 * MB),
        (Raw(b"1" * MB), MB, 1.1 * MB),
        ({"a": {"b": ["x" * 1000] * 1000}}, MB, 1.2 * MB),
        ([{"n": 1, "text": "x" * 50}] * 10_000, 3 * MB, 5 * MB),
        (7, 0, 1000),
        (None, 0, 1000),
    ],
    ids=["text", "wide text", "bytes", "fragment", "document", "list of objects", "number", "null"],
)
def test_values(value: Any, least: float, most: float) -> None:
    """Text by the width of its characters, and documents with what stands in them."""
    assert least <= size_of([{"id": 1, "value": value}]) <= most
    assert 100 * least <= size_of([{"id": 1, "value": value}] * 100) <= 100 * most


def test_no_rows() -> None:
    """They take nothing."""
    assert size_of([]) == largest_of([]) == 0


def test_the_last_row_is_looked_at() -> None:
    """Where rows have begun to grow at the end of a batch, it shows."""
    assert largest_of([*[{"value": "x"}] * 999, {"value": "x" * MB}]) > MB
