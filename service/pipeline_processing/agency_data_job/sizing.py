"""How many rows go through the steps at a time: steps may make rows much larger than they were read."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID

from msgspec import Raw

from pipeline_processing.ports import Records

_FIRST_ROWS = 4
"""Few, because nothing is known yet of what the steps make of them."""
MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024
_SUDDENLY = 4
_SAMPLE = 8
_DEEPEST = 8


class Sizing:
    """
    Cuts batches so that rows stay near 2 MiB at every step, judged by the rows before them.

    At most `most_rows` go through at a time. Set `watches` where steps see the rows: then a piece is cut short where
    its records are suddenly larger than those before, because steps may make much more of them.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS, watches: bool = True) -> None:
        self._most_rows = most_rows
        self._watches = watches
        self._rows = _FIRST_ROWS
        self._record_bytes = 0.0

    def piece(self, records: Records, start: int) -> Records:
        """The next records, from `start` on."""
        piece = records[start : start + self._rows]
        if self._watches:
            largest = largest_of(piece)
            if largest > _SUDDENLY * self._record_bytes and len(piece) > _FIRST_ROWS:
                piece = piece[:_FIRST_ROWS]
                largest = largest_of(piece)
            self._record_bytes = max(largest, self._record_bytes / 2)
        return piece

    def learn(self, rows: int, size: int) -> None:
        """
        Note how many bytes so many rows took where they were largest. Pieces grow slowly, and shrink at once.
        """
        fitting = _TARGET_BYTES * rows // size if size else self._most_rows
        self._rows = max(1, min(self._most_rows, self._rows * 4, fitting))


def parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Rows that take about `size` bytes, in parts of about 2 MiB."""
    length = max(1, len(rows) * _TARGET_BYTES // max(1, size))
    for start in range(0, len(rows), length):
        yield rows[start : start + length]


# -- how much memory rows take, judged by a few of them ------------------------------------------


def size_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """About how many bytes all the rows take."""
    sample = rows[:: len(rows) // _SAMPLE + 1]
    return sum(_size_of(row.values()) for row in sample) * len(rows) // len(sample) if sample else 0


def largest_of(records: Records) -> int:
    """How many bytes the largest of a few records takes, the last one among them."""
    return max(map(_size_of, [*records[:: len(records) // _SAMPLE + 1], *records[-1:]]), default=0)


_ROW_BYTES = sys.getsizeof(dict.fromkeys(range(6)))
_FLAT = frozenset((str, int, float, bool, type(None), bytes, Decimal, date, datetime, UUID))
_sizeof = sys.getsizeof


def _size_of(values: Iterable[Any]) -> int:
    size = _ROW_BYTES
    for value in values:
        size += _sizeof(value) if type(value) in _FLAT else _size_of_any(value)
    return size


def _size_of_any(value: Any, depth: int = 1) -> int:
    if isinstance(value, Raw):
        return 64 + memoryview(value).nbytes
    size = _sizeof(value, 64)
    if depth < _DEEPEST and isinstance(value, dict | list | tuple | set | frozenset) and value:
        items = value.values() if isinstance(value, dict) else value
        found = [_size_of_any(item, depth + 1) for item in islice(items, _SAMPLE)]
        size += sum(found) * len(value) // len(found)
    return size
