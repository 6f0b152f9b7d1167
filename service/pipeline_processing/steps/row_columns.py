"""Checks the columns of rows after user code, where they aren't known in advance."""

from collections.abc import Sequence

from pipeline_processing.errors import UnknownColumn
from pipeline_processing.ports import Rows


def require_in_rows(names: Sequence[str], rows: Rows, *, step: str) -> None:
    """Raises UnknownColumn if a row lacks one of these columns."""
    for row in rows:
        for name in names:
            if name not in row:
                raise UnknownColumn(name, step=step, available=tuple(map(str, row)))
