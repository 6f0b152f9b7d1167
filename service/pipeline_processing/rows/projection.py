"""Which values of a source's records make a row, and under which names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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

    def renamed(self, names: Mapping[str, str]) -> "Projection":
        """The same values under other names, old → new."""
        return replace(self, names=tuple(names.get(name, name) for name in self.names))

    def plus(self, constants: Mapping[str, Any]) -> "Projection":
        """With more constants at the end."""
        return Projection((*self.names, *constants), self.indexes, (*self.constants, *constants.values()))

    def only(self, names: Sequence[str]) -> "Projection | None":
        """
        The columns of these names, in this order. None if no projection gives them: it has at least one value of the
        record, and its constants come last.
        """
        places = [self.names.index(name) for name in names]
        read = len(self.indexes)
        varying = [place for place in places if place < read]
        constant = [place for place in places if place >= read]
        if not varying or [*varying, *constant] != places:
            return None
        return Projection(
            tuple(names),
            tuple(self.indexes[place] for place in varying),
            tuple(self.constants[place - read] for place in constant),
        )

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
