"""Step `select`: keep some columns."""

from collections.abc import Sequence

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.ports import Batch, Columns
from pipeline_processing.steps.columns import require


class Select:
    """Keeps the named columns, in the order named."""

    name = "select"
    filtered = 0

    def __init__(self, names: Sequence[str], columns: Columns | None) -> None:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidStep(f"Step 'select' names {', '.join(map(repr, twice))} twice. Name every column once.")
        self.names = tuple(names)
        self.columns = None if columns is None else tuple(require(name, columns, step=self.name) for name in names)

    async def __call__(self, batch: Batch) -> Batch:
        names = self.names
        try:
            return [{name: row[name] for name in names} for row in batch]
        except KeyError as missing:
            available = next(tuple(row) for row in batch if missing.args[0] not in row)
            raise UnknownColumn(missing.args[0], step=self.name, available=available) from None
