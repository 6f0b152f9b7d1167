"""How many rows go through the steps at a time: steps may make rows much larger than they were read."""

from collections.abc import Iterator
from typing import Any

_FIRST_ROWS = 4
"""Few, as nothing is known yet of what the steps make of them."""
_MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024


class Sizing:
    """Cuts batches so that what comes out of the steps stays near 2 MiB, as far as the rows before tell."""

    def __init__(self) -> None:
        self._rows = _FIRST_ROWS

    def pieces(self, rows: list[Any]) -> Iterator[list[Any]]:
        """The rows, cut anew before each piece."""
        at = 0
        while at < len(rows):
            piece = rows[at : at + self._rows]
            at += len(piece)
            yield piece

    def learn(self, rows: int, size: int) -> None:
        """Bytes that so many rows have become: it grows slowly, and shrinks at once."""
        fitting = _TARGET_BYTES * rows // size if size else _MOST_ROWS
        self._rows = max(1, min(_MOST_ROWS, self._rows * 4, fitting))
