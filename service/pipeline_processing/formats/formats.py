"""From a format's name to a new instance of it."""

from collections.abc import Sequence

from pipeline_processing.formats.csv import AS_COPY_DOES, Csv
from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.ports import Format

CARRY = {FormatName.NDJSON: Ndjson.carry, FormatName.CSV: Csv.carry}
"""The form in which each format takes carried values."""


def new_format(name: FormatName, *, header: Sequence[str] = (), fixed: bool, csv: CsvOptions = AS_COPY_DOES) -> Format:
    """
    The format of one dataset.

    `header` names the columns, as far as they are known before the first row. `fixed`: they are final, and all values
    are carried. `csv` are the options of that format.
    """
    match name:
        case FormatName.NDJSON:
            return Ndjson(exact=fixed)
        case FormatName.CSV:
            return Csv(header, fixed=fixed, options=csv)
