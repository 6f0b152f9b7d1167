"""CSV, as `COPY … (FORMAT csv)` writes it with the same options."""

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import StepFailed
from pipeline_processing.model import CsvOptions
from pipeline_processing.ports import Row, RowMaker, Template
from pipeline_processing.rows.json_values import decimal_text, dumps, float_text
from pipeline_processing.rows.projection import Projection
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.rows.values import time_text

AS_COPY_DOES = CsvOptions()
"""`COPY … (FORMAT csv, HEADER)`."""

_rows = re.compile(rb'(?:[^"\n]|"[^"]*")*+\n').finditer


class Csv:
    """
    Writes one line per row. As in COPY, text that equals the null marker (empty, unless `options` set another) is
    quoted.

    `header` names the columns. Unless `fixed`, it is used only if there are no rows: user code sets each row's columns,
    the first row's become the header, and later rows may lack some of them (null) but not add any.
    """

    carry = "text"

    def __init__(self, header: Sequence[str] = (), *, fixed: bool, options: CsvOptions = AS_COPY_DOES) -> None:
        self._fixed = fixed
        self._options = options
        self._line = _line_writer(delimiter=options.delimiter, null=options.null)
        self._header = tuple(header)
        self._is_first = True

    def head(self) -> bytes:
        return _encoded(self._line(list(self._header))) if self._options.header else b""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Return a maker of lists of fields, without names."""
        constants = projection.constants
        return lambda records: [[*record, *constants] for record in projection.values(records)]

    def template(self, projection: Projection, *, whole: bool) -> Template | None:
        if not whole:
            return None
        options = self._options
        columns = ((index, options.delimiter.encode() if at else b"") for at, index in enumerate(projection.indexes))
        behind_null = self._line([None, *projection.constants]).removeprefix(options.null)
        return Template(tuple(columns), _encoded(behind_null), options)

    def encode(self, batch: list[Any]) -> bytes:
        if self._is_first and not self._fixed:
            self._header = tuple(batch[0])
        self._is_first = False
        line, fields = self._line, self._fields
        return _encoded("".join([line(fields(row)) for row in batch]))

    def longest_row(self, encoded: bytes) -> int:
        return max((len(row[0]) for row in _rows(encoded)), default=0)

    def _fields(self, row: Row | list[Any]) -> list[Any]:
        if isinstance(row, list):
            return row
        if self._fixed:
            return list(row.values())
        if extra := [name for name in row if name not in self._header]:
            raise StepFailed(
                f"A row has the column {', '.join(map(repr, extra))}, which the first row lacks, but a CSV file has "
                "one header. Make the `python` step return the same columns for every row, or use ndjson."
            )
        return [row.get(name) for name in self._header]


def _encoded(lines: str) -> bytes:
    try:
        return lines.encode()
    except UnicodeEncodeError as error:
        raise StepFailed(
            f"A step returned text with a lone surrogate, {error.object[error.start]!a}, which UTF-8 can't encode. "
            "Make the step replace it."
        ) from None


def _line_writer(*, delimiter: str, null: str) -> Callable[[list[Any]], str]:
    """Return a function from a row's fields (text, null, or values of user code) to a line."""
    must_quote = re.compile(f'[{re.escape(delimiter)}"\r\n]').search
    must_quote_beside_delimiters = re.compile(r'["\r\n]').search

    def line(fields: list[Any]) -> str:
        try:
            joined = delimiter.join(fields)
        except TypeError:  # a null, or a value of user code
            fields = [field if field is None or type(field) is str else _text(field) for field in fields]
            joined = delimiter.join([null if field is None else field for field in fields])
        # Usually no field needs quotes, which one search over the whole line can show.
        delimiters = len(fields) - 1
        if (
            joined.count(delimiter) == delimiters
            and not must_quote_beside_delimiters(joined)
            and null not in fields
            and delimiters > 0
        ):
            return joined + "\n"
        if fields == ["\\."]:  # alone on a line, it ends the data for older versions of COPY
            return '"\\."\n'
        return delimiter.join(map(field_of, fields)) + "\n"

    def field_of(text: str | None) -> str:
        if text is None:
            return null
        if text == null or must_quote(text):
            return '"' + text.replace('"', '""') + '"'
        return text

    return line


def _text(value: Any) -> str:
    """Return a value of user code as Postgres would print it."""
    if isinstance(value, str):
        return value
    if (carried := carried_form(value)) is not None:
        return str(carried)
    match value:
        case bool():
            return "t" if value else "f"
        case float():
            return float_text(value)
        case Decimal():
            return decimal_text(value)
        case datetime():
            text = time_text(value, " ")
            return text.removesuffix(":00") if value.tzinfo else text
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray():
            return "\\x" + value.hex()
        case dict() | list() | tuple():
            return dumps(value, separators=(", ", ": "))
        case _:
            return str(value)


CARRY = Csv.carry


def new(*, header: Sequence[str], fixed: bool, csv: CsvOptions) -> Csv:
    """See `formats.new_format`."""
    return Csv(header, fixed=fixed, options=csv)
