"""Chooses how many rows go through the steps at a time, because steps may make rows much larger."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline_processing.ports import Records
from pipeline_processing.rows.loops import size_of_values

_FIRST_ROWS = 4
"""Few, because the steps' effect on the size of rows isn't known yet."""
MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024
_SUDDENLY = 4
_SAMPLE = 8


class Sizing:
    """
    Cuts batches to about 2 MiB at every step, estimated from earlier rows, and to at most `most_rows` rows.

    Set `watches` if steps see the rows: a piece whose records are suddenly larger than earlier ones is then shortened,
    because steps may make them larger still.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS, watches: bool = True) -> None:
        self._most_rows = most_rows
        self._watches = watches
        self._rows = _FIRST_ROWS
        self._record_bytes = 0.0

    def piece(self, records: Records, start: int) -> Records:
        """Return the next piece of the records, from `start` on."""
        piece = records[start : start + self._rows]
        if self._watches:
            largest = largest_of(piece)
            if largest > _SUDDENLY * self._record_bytes and len(piece) > _FIRST_ROWS:
                piece = piece[:_FIRST_ROWS]
                largest = largest_of(piece)
            self._record_bytes = max(largest, self._record_bytes / 2)
        return piece

    def learn(self, rows: int, size: int) -> None:
        """Adjust to the peak size in bytes of a piece of `rows` rows. Pieces grow slowly but shrink at once."""
        fitting = _TARGET_BYTES * rows // size if size else self._most_rows
        self._rows = max(1, min(self._most_rows, self._rows * 4, fitting))


def parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Split rows that take about `size` bytes into parts of about 2 MiB."""
    length = max(1, len(rows) * _TARGET_BYTES // max(1, size))
    for start in range(0, len(rows), length):
        yield rows[start : start + length]


# -- how much memory rows take, estimated from a sample ------------------------------------------


def size_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """Estimate how many bytes all the rows take."""
    sample = rows[:: len(rows) // _SAMPLE + 1]
    return sum(size_of_values(row.values()) for row in sample) * len(rows) // len(sample) if sample else 0


def largest_of(records: Records) -> int:
    """Return the size in bytes of the largest record in a sample, which includes the last one."""
    return max(map(size_of_values, [*records[:: len(records) // _SAMPLE + 1], *records[-1:]]), default=0)
