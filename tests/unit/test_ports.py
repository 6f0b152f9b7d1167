"""Values that cross ports."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.ports import Lines


def lines_of(rows: list[bytes]) -> Lines:
    """Encoded rows."""
    ends = array("Q")
    for row in rows:
        ends.append((ends[-1] if ends else 0) + len(row))
    return Lines(b"".join(rows), memoryview(ends))


@given(
    st.lists(st.binary(max_size=5), max_size=8), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3)
)
def test_slices_of_lines_have_the_bytes_of_their_rows(rows: list[bytes], cuts: list[tuple[int, int]]):
    """Slices of slices, too, and empty ones."""
    lines = lines_of(rows)

    for start, end in cuts:
        lines, rows = lines[start:end], rows[start:end]

    assert (bytes(lines), len(lines)) == (b"".join(rows), len(rows))


def test_all_lines_are_not_copied():
    lines = lines_of([b"a\n", b"b\n"])

    assert bytes(lines[:]) is lines.data
