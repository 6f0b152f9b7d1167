"""
Formats by name.

Each is a module of this package with the format's name. It defines `CARRY`, the form of the carried values that it
takes, and `new`, which makes an instance.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.ports import Format
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns


def carry_of(name: FormatName) -> str:
    """Return the form of the carried values that a format takes: "json" or "text"."""
    carry: str = _module(name).CARRY
    return carry


def new_format(
    name: FormatName,
    *,
    header: Sequence[str] = (),
    fixed: bool,
    columns: Columns = UNKNOWN_COLUMNS,
    numbers: Sequence[str] | None = None,
    csv: CsvOptions | None = None,
) -> Format:
    """
    Make the format of one dataset.

    `header` lists the column names known before the first row. `fixed` says that they are final and all values are
    carried. `columns` are the columns as far as they are known. `numbers` are the columns that may hold fractional
    numbers; None if they are unknown. `csv` are the options of the CSV format.
    """
    made: Format = _module(name).new(
        header=header, fixed=fixed, columns=columns, numbers=numbers, csv=csv or CsvOptions()
    )
    return made


def _module(name: FormatName) -> Any:
    return import_module(f"{__package__}.{name}")
