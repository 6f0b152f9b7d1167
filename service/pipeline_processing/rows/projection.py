"""Maps a source's records to rows: which values, under which names."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from pipeline_processing.rows import loops


@dataclass(frozen=True, slots=True)
class Projection:
    """A row has a record's values at `indexes`, then `constants`; `names` are the names of all of them."""

    names: tuple[str, ...]
    indexes: tuple[int, ...]
    constants: tuple[Any, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> "Projection":
        """Return the projection that keeps all columns."""
        return cls(names=tuple(names), indexes=tuple(range(len(names))))

    @property
    def places(self) -> dict[str, int]:
        """The index in a record of each column that isn't constant."""
        return dict(zip(self.names, self.indexes, strict=False))

    def renamed(self, names: Mapping[str, str]) -> "Projection":
        """Rename columns, old → new."""
        return replace(self, names=tuple(names.get(name, name) for name in self.names))

    def plus(self, constants: Mapping[str, Any]) -> "Projection":
        """Append constants."""
        return Projection((*self.names, *constants), self.indexes, (*self.constants, *constants.values()))

    def only(self, names: Sequence[str]) -> "Projection | None":
        """
        Keep the columns of these names, in this order. None if that isn't a projection, which must have at least one
        value of the record, and its constants last.
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

    def runs(self, touched: Collection[str]) -> list["Projection"]:
        """Split the values of the record into runs of untouched neighbours, and single touched ones."""
        runs: list[Projection] = []
        joins = False
        for name, index in zip(self.names, self.indexes, strict=False):
            if joins and name not in touched:
                run = runs.pop()
                runs.append(Projection((*run.names, name), (*run.indexes, index)))
            else:
                runs.append(Projection((name,), (index,)))
            joins = name not in touched
        return runs

    def values(self, records: Sequence[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Return the chosen values of each record, without the constants."""
        if self.indexes == tuple(range(len(records[0]))):
            return records
        if len(self.indexes) == 1:
            index = self.indexes[0]
            return ((record[index],) for record in records)
        return map(itemgetter(*self.indexes), records)

    def rows(self, records: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the records as dicts."""
        names, constants = self.names, self.constants
        if loops.COMPILED:
            return loops.rows_of(names, self.values(records), constants)
        if not constants:
            return [dict(zip(names, record, strict=False)) for record in self.values(records)]
        return [dict(zip(names, (*record, *constants), strict=False)) for record in self.values(records)]
