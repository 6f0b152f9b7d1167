"""How many rows go through the steps at a time."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.agency_data_job.sizing import Sizing, parts

MIB = 1024 * 1024


def sizes(rows: int, *, each: int) -> list[int]:
    """Lengths of the pieces of a batch whose rows become `each` bytes."""
    sizing, lengths = Sizing(), []
    for piece in sizing.pieces(list(range(rows))):
        lengths.append(len(piece))
        sizing.learn(len(piece), len(piece) * each)
    return lengths


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


@given(rows=st.lists(st.integers(), max_size=200), each=st.integers(0, 5 * MIB))
def test_no_row_is_lost_or_moved(rows: list[int], each: int) -> None:
    """The pieces, one after the other, are the batch."""
    sizing, taken = Sizing(), []
    for piece in sizing.pieces(rows[:]):
        taken += piece
        sizing.learn(len(piece), len(piece) * each)
    assert taken == rows


def test_somebody_elses_code_gets_fewer() -> None:
    """However small its rows are."""
    sizing = Sizing(most_rows=256)
    lengths = []
    for piece in sizing.pieces(list(range(1000))):
        lengths.append(len(piece))
        sizing.learn(len(piece), len(piece))
    assert lengths == [4, 16, 64, 256, 256, 256, 148]


def test_of_rows_that_suddenly_grow_few_go_at_first() -> None:
    """Steps that make little of small rows may make much of large ones: that is found out by a few of them."""
    sizing, lengths = Sizing(), []
    rows = [100] * 1500 + [10_000] * 100
    for piece in sizing.pieces(rows[:], max):
        lengths.append([row for row in piece if row > 100])
        sizing.learn(len(piece), sum(row * 60 if row > 100 else row for row in piece))

    assert [row for large in lengths for row in large] == rows[1500:]
    assert max(map(len, lengths)) == 4


def test_parts_are_cut_by_bytes() -> None:
    """Rows leave the steps 2 MiB at a time, one row at least."""
    assert [len(part) for part in parts([0] * 10, 10 * MIB)] == [2, 2, 2, 2, 2]
    assert [len(part) for part in parts([0] * 3, 30 * MIB)] == [1, 1, 1]
    assert [len(part) for part in parts([0] * 3, 0)] == [3]
    assert list(parts([], 0)) == []
