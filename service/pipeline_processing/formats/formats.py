"""From a format's name to a new instance of it."""

from pipeline_processing.formats.csv import AS_COPY_DOES, Csv
from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.ports import Format

CARRY = {FormatName.NDJSON: Ndjson.carry, FormatName.CSV: Csv.carry}
"""The form in which each format takes carried values."""


def new_format(name: FormatName, *, fixed: bool, csv: CsvOptions = AS_COPY_DOES) -> Format:
    """
    The format of one dataset. `fixed`: no step puts values or columns of its own into the rows. `csv` are the options
    of that format, and don't matter to another.
    """
    match name:
        case FormatName.NDJSON:
            return Ndjson(exact=fixed)
        case FormatName.CSV:
            return Csv(fixed=fixed, options=csv)
