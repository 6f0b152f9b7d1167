"""Step `rename`: give columns other names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.ports import Batch, Columns
from pipeline_processing.steps.columns import require


class Rename:
    """Renames columns in place: their order stays."""

    name = "rename"
    filtered = 0

    def __init__(self, names: Mapping[str, str], columns: Columns | None) -> None:
        self.names = dict(names)
        self.columns = None if columns is None else self._renamed(columns)

    def _renamed(self, columns: Columns) -> Columns:
        for old in self.names:
            require(old, columns, step=self.name)
        after = tuple(replace(column, name=self.names.get(column.name, column.name)) for column in columns)
        _check_different([column.name for column in after])
        return after

    async def __call__(self, batch: Batch) -> Batch:
        names = self.names
        if self.columns is None:
            for row in batch:
                for old in names:
                    if old not in row:
                        raise UnknownColumn(old, step=self.name, available=tuple(row))
                _check_different([names.get(name, name) for name in row])
        return [{names.get(name, name): value for name, value in row.items()} for row in batch]


def _check_different(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidStep(
            f"Step 'rename' would give two columns the name {', '.join(map(repr, twice))}. "
            "Choose another name, or leave one of them out with `select`."
        )
