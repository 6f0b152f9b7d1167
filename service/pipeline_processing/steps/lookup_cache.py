"""Caches the results of lookups, including missing records, in bounded memory."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from msgspec import Raw

Found = tuple[Any, ...]
"""The values of the added columns, in order."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A record whose values can't be used. `why` never contains the values."""

    why: str


Outcome = Found | Misfit | None
"""The result for a key; None if there is no record."""

MAX_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 200
"""Estimated overhead of an entry, including its key."""


class LookupCache:
    """
    An LRU cache of results by key, including missing records.

    Holds at most `max_rows` keys and about `max_bytes`.
    """

    def __init__(self, *, max_rows: int, max_bytes: int = MAX_BYTES) -> None:
        self.bytes = 0
        """Estimated size of all entries."""
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Outcome, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def known(self, keys: Iterable[Hashable]) -> dict[Hashable, Outcome]:
        """Return the cached results for these keys."""
        entries, known = self._entries, dict[Hashable, Outcome]()
        for key in keys:
            if (entry := entries.get(key)) is not None:
                entries.move_to_end(key)
                known[key] = entry[0]
        return known

    def remember(self, key: Hashable, outcome: Outcome) -> None:
        """Cache a result, and evict the least recently used ones if the cache is full."""
        if (old := self._entries.pop(key, None)) is not None:
            self.bytes -= old[1]
        values = outcome if isinstance(outcome, tuple) else ()
        size = _ENTRY_BYTES + sum(map(_size_of, values))
        self._entries[key] = (outcome, size)
        self.bytes += size
        while len(self._entries) > self._max_rows or self.bytes > self._max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]


def _size_of(carried: Any) -> int:
    return len(bytes(carried)) + _ENTRY_BYTES // 2 if isinstance(carried, Raw) else getsizeof(carried)
