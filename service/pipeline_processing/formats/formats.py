"""
Formats by name.

Each is a module of this folder, named like the format. It has `CARRY`, the form in which it takes carried values, and
`new`, which makes an instance.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.ports import Format


def carry_of(name: FormatName) -> str:
    """The form in which a format takes carried values: "json" or "text"."""
    carry: str = _module(name).CARRY
    return carry


def new_format(name: FormatName, *, header: Sequence[str] = (), fixed: bool, csv: CsvOptions | None = None) -> Format:
    """
    The format of one dataset.

    `header` names the columns, as far as they are known before the first row. `fixed`: they are final, and all values
    are carried. `csv` are options of the format of that name.
    """
    made: Format = _module(name).new(header=header, fixed=fixed, csv=csv or CsvOptions())
    return made


def _module(name: FormatName) -> Any:
    return import_module(f"{__package__}.{name}")
