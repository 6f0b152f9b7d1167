"""Which columns a row has, where only the rows tell: behind a step of the user's."""

from collections.abc import Sequence

from pipeline_processing.errors import UnknownColumn
from pipeline_processing.ports import Rows


def require_in_rows(names: Sequence[str], rows: Rows, *, step: str) -> None:
    """Raises UnknownColumn at the first row that lacks one of these columns."""
    for row in rows:
        for name in names:
            if name not in row:
                raise UnknownColumn(name, step=step, available=tuple(map(str, row)))
