"""Finding columns by name, with one clear error where there is none."""

from pipeline_processing.errors import UnknownColumn
from pipeline_processing.ports import Column, Columns


def require(name: str, columns: Columns, *, step: str) -> Column:
    """The column of that name. Raises UnknownColumn."""
    for column in columns:
        if column.name == name:
            return column
    raise UnknownColumn(name, step=step, available=[column.name for column in columns])
