"""How many rows go through the steps at a time: steps may make rows much larger than they were read."""

from collections.abc import Iterator
from typing import Any

_FIRST_ROWS = 4
"""Few, as nothing is known yet of what the steps make of them."""
MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024


class Sizing:
    """
    Cuts batches so that rows stay near 2 MiB wherever they are between the steps, as far as the rows before tell.

    `most_rows` is how many go through at a time however small they are.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._rows = _FIRST_ROWS
        self._growth = 1.0
        """Bytes that the steps lately made of one that was read."""

    def pieces(self, rows: list[Any], size: int = 0) -> Iterator[list[Any]]:
        """The rows, which are of about that many bytes, cut anew before each piece."""
        row_bytes = size / len(rows) if rows else 0.0
        at = 0
        while at < len(rows):
            fitting = int(_TARGET_BYTES / (row_bytes * self._growth)) if row_bytes else self._rows
            piece = rows[at : at + max(1, min(self._rows, fitting))]
            at += len(piece)
            yield piece

    def learn(self, rows: int, size: int, *, read: int = 0) -> None:
        """
        Bytes that so many rows have become where they were largest, and of how many that were read. Pieces grow slowly,
        and shrink at once.
        """
        fitting = _TARGET_BYTES * rows // size if size else self._most_rows
        self._rows = max(1, min(self._most_rows, self._rows * 4, fitting))
        self._growth = max(1.0, self._growth / 4, size / read if read else 1.0)


def parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Rows of about that many bytes, in parts of about 2 MiB."""
    length = max(1, len(rows) * _TARGET_BYTES // max(1, size))
    for at in range(0, len(rows), length):
        yield rows[at : at + length]
