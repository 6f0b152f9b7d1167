"""How many rows go through the steps at a time, and how much memory they are taken to need."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.agency_data_job.sizing import Sizing, largest_of, parts, size_of

MIB = 1024 * 1024
MB = 1_000_000


def pieces(sizing: Sizing, records: Sequence[Any], become: Callable[[Any], int]) -> list[Sequence[Any]]:
    """The pieces of a batch each of whose rows becomes so many bytes."""
    cut: list[Sequence[Any]] = []
    start = 0
    while start < len(records):
        piece = sizing.piece(records, start)
        start += len(piece)
        sizing.learn(len(piece), sum(map(become, piece)))
        cut.append(piece)
    return cut


def sizes(rows: int, *, each: int, **options: Any) -> list[int]:
    """Lengths of the pieces of a batch whose rows become `each` bytes."""
    return [len(piece) for piece in pieces(Sizing(**options), [(1,)] * rows, lambda record: each)]


def test_it_grows_slowly() -> None:
    """Four times at most, up to a thousand, while rows stay small."""
    assert sizes(3000, each=100) == [4, 16, 64, 256, 1000, 1000, 660]


def test_rows_that_became_large_go_by_fewer() -> None:
    """About 2 MiB at a time, and one row where a single one is larger."""
    assert sizes(20, each=MIB // 2) == [4, 4, 4, 4, 4]
    assert sizes(7, each=3 * MIB) == [4, 1, 1, 1]


def test_rows_that_all_were_dropped_say_nothing() -> None:
    """Then it only grows."""
    assert sizes(84, each=0) == [4, 16, 64]


@given(rows=st.lists(st.tuples(st.integers()), max_size=200), each=st.integers(0, 5 * MIB))
def test_no_row_is_lost_or_moved(rows: list[tuple[int]], each: int) -> None:
    """The pieces, one after the other, are the batch."""
    assert [row for piece in pieces(Sizing(), rows, lambda record: each) for row in piece] == rows


def test_user_code_gets_fewer() -> None:
    """However small its rows are."""
    assert sizes(1000, each=1, most_rows=256) == [4, 16, 64, 256, 256, 256, 148]


def test_of_records_that_suddenly_grow_few_go_at_first() -> None:
    """Steps that make little of small rows may make much of large ones: a few of them show it."""
    records = [("x" * 100,)] * 1500 + [("x" * 10_000,)] * 100
    cut = pieces(Sizing(), records, lambda record: len(record[0]) * (60 if len(record[0]) > 100 else 1))

    large = [[record for record in piece if len(record[0]) > 100] for piece in cut]
    assert sum(map(len, large)) == 100
    assert max(map(len, large)) == 4


def test_where_no_step_sees_rows_sizes_are_not_watched() -> None:
    """Nothing can become much larger then."""
    assert sizes(2000, each=1, watches=False) == sizes(2000, each=1)
    cut = pieces(Sizing(watches=False), [("x",)] * 1340 + [("x" * MB,)] * 660, lambda record: 1)
    assert len(cut[-1]) == 660


def test_parts_are_cut_by_bytes() -> None:
    """Rows leave the steps 2 MiB at a time, one row at least."""
    assert [len(part) for part in parts([0] * 10, 10 * MIB)] == [2, 2, 2, 2, 2]
    assert [len(part) for part in parts([0] * 3, 30 * MIB)] == [1, 1, 1]
    assert [len(part) for part in parts([0] * 3, 0)] == [3]
    assert list(parts([], 0)) == []


# -- how much memory rows take --------------------------------------------------------------------


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
    assert largest_of([*[("x",)] * 999, ("x" * MB,)]) > MB
