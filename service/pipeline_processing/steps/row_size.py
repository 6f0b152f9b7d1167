"""How much memory rows take, cheaply."""

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec import Raw

_SAMPLE = 8
_DEEPEST = 8


def size_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """About how many bytes rows take in memory, judged by a few of them."""
    sample = rows[:: len(rows) // _SAMPLE + 1]
    return sum(map(_size_of, sample)) * len(rows) // len(sample) if sample else 0


def largest_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """Of a few of the rows, the last one among them, how many bytes the largest takes."""
    return max(map(_size_of, [*rows[:: len(rows) // _SAMPLE + 1], *rows[-1:]]), default=0)


def _size_of(value: Any, depth: int = 0) -> int:
    if isinstance(value, Raw):
        return 64 + memoryview(value).nbytes
    size = sys.getsizeof(value, 64)
    if depth < _DEEPEST and isinstance(value, dict | list | tuple | set | frozenset) and value:
        # All columns of a row; of what stands in a value only a few.
        few = len(value) if depth == 0 else _SAMPLE
        items = value.values() if isinstance(value, dict) else value
        found = [_size_of(item, depth + 1) for item in islice(items, few)]
        size += sum(found) * len(value) // len(found)
    return size
