"""How many rows go through the steps at a time: steps may make rows much larger than they were read."""

from collections.abc import Callable, Iterator
from typing import Any

_FIRST_ROWS = 4
"""Few, as nothing is known yet of what the steps make of them."""
MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024
_SUDDENLY = 4

LargestOf = Callable[[list[Any]], int]
"""How many bytes the largest of some rows takes, judged by a few of them."""


class Sizing:
    """
    Cuts batches so that rows stay near 2 MiB wherever they are between the steps, as far as the rows before tell.

    `most_rows` is how many go through at a time however small they are.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._rows = _FIRST_ROWS
        self._row_bytes = 0.0

    def pieces(self, rows: list[Any], largest_of: LargestOf | None = None) -> Iterator[list[Any]]:
        """
        The rows, cut anew before each piece. Of rows that are suddenly larger, as `largest_of` tells, only a few go at
        first: steps may make much more of them.

        Takes them out of `rows`, which would keep what steps have put into them.
        """
        while rows:
            piece = rows[: self._rows]
            if largest_of is not None:
                if largest_of(piece) > _SUDDENLY * self._row_bytes:
                    piece = piece[:_FIRST_ROWS]
                self._row_bytes = max(largest_of(piece), self._row_bytes / 2)
            del rows[: len(piece)]
            yield piece

    def learn(self, rows: int, size: int) -> None:
        """Bytes that so many rows have become where they were largest. Pieces grow slowly, and shrink at once."""
        fitting = _TARGET_BYTES * rows // size if size else self._most_rows
        self._rows = max(1, min(self._most_rows, self._rows * 4, fitting))


def parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Rows of about that many bytes, in parts of about 2 MiB."""
    length = max(1, len(rows) * _TARGET_BYTES // max(1, size))
    for at in range(0, len(rows), length):
        yield rows[at : at + length]
