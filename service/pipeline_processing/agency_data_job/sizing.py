"""Chooses how many rows go through the steps at a time, because steps may make rows much larger."""

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
"""Few, because the steps' effect on the size of rows isn't known yet."""
MOST_ROWS = 1000
_TARGET_BYTES = 2 * 1024 * 1024
_SUDDENLY = 4
_SAMPLE = 8
_DEEPEST = 8


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
    return sum(_size_of(row.values()) for row in sample) * len(rows) // len(sample) if sample else 0


def largest_of(records: Records) -> int:
    """Return the size in bytes of the largest record in a sample, which includes the last one."""
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
