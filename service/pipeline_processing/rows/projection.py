"""Which values of a source's records make a row, and under which names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any


@dataclass(frozen=True, slots=True)
class Projection:
    """Values of a record by `indexes`, then `constants`, under `names`."""

    names: tuple[str, ...]
    indexes: tuple[int, ...]
    constants: tuple[Any, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> "Projection":
        """All columns, as they are."""
        return cls(names=tuple(names), indexes=tuple(range(len(names))))

    def values(self, records: Sequence[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """The chosen values of each record, without the constants."""
        if self.indexes == tuple(range(len(records[0]))):
            return records
        if len(self.indexes) == 1:
            index = self.indexes[0]
            return ((record[index],) for record in records)
        return map(itemgetter(*self.indexes), records)

    def rows(self, records: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Records as dicts."""
        names, constants = self.names, self.constants
        if not constants:
            return [dict(zip(names, record, strict=False)) for record in self.values(records)]
        return [dict(zip(names, (*record, *constants), strict=False)) for record in self.values(records)]
