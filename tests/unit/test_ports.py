"""Values that cross ports."""

from hypothesis import given
from hypothesis import strategies as st

from tests.memory.delivery import lines_of


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
