"""CSV, as `COPY … (FORMAT csv)` writes it with the same options."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import DataError, StepFailed
from pipeline_processing.formats.compression import compressor
from pipeline_processing.model import Compression, CsvOptions
from pipeline_processing.ports import Packer, Row, RowMaker, Template
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.json_values import decimal_text, dumps, float_text
from pipeline_processing.rows.projection import Projection
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.rows.values import time_text

AS_COPY_DOES = CsvOptions()
"""`COPY … (FORMAT csv, HEADER)`."""

_NONE = type(None)
_CARRIED = frozenset((str, _NONE))
"""The types of carried values."""
_QUOTE, _QUOTES = '"', '""'
_LINE_ENDS = {"lf": "\n", "crlf": "\r\n"}
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"

_rows = re.compile(rb'(?:[^"\n]|"[^"]*")*+\n').finditer


class Csv:
    """
    Writes one line per row. As in COPY, text that equals the null marker (empty, unless `options` set another) is
    quoted.

    `header` names the columns. Unless `fixed`, it is used only if there are no rows: user code sets each row's columns,
    the first row's become the header, and later rows may lack some of them (null) but not add any.
    """

    carry = "text"
    weight = 1

    def __init__(self, header: Sequence[str] = (), *, fixed: bool, options: CsvOptions = AS_COPY_DOES) -> None:
        self._fixed = fixed
        self._options = options
        self._header = tuple(header)
        self._is_first = True

    def head(self) -> bytes:
        header = _lines([self._header], self._options) if self._options.header else ""
        return _encoded(_BOM + header if self._options.bom else header, self._options)

    def row_maker(self, projection: Projection) -> RowMaker:
        """Return a maker of sequences of fields, without names."""
        if constants := projection.constants:
            return lambda records: [(*record, *constants) for record in projection.values(records)]
        return lambda records: list(projection.values(records))

    def template(self, projection: Projection, *, whole: bool) -> Template | None:
        options = self._options
        if not whole or options.quote == "all" or options.encoding != "utf-8":
            return None  # sources write UTF-8, with quotes where they are needed
        columns = ((index, options.delimiter.encode() if at else b"") for at, index in enumerate(projection.indexes))
        behind_null = _lines([(None, *projection.constants)], options).removeprefix(options.null)
        return Template(tuple(columns), _encoded(behind_null, options), options)

    def encode(self, batch: list[Any]) -> bytes:
        if type(batch[0]) is str:
            return "".join(batch).encode()
        rows: Sequence[Iterable[Any]] = batch
        if isinstance(batch[0], Mapping):
            if self._is_first and not self._fixed:
                self._header = tuple(batch[0])
            rows = [row.values() if self._fixed else self._fields(row) for row in batch]
        self._is_first = False
        return _encoded(_lines(rows, self._options), self._options)

    def longest_row(self, encoded: bytes) -> int:
        return max((len(row[0]) for row in _rows(encoded)), default=0)

    def packer(self, compression: Compression, *, most_held: int) -> Packer:
        return compressor(compression)

    def _fields(self, row: Row) -> Iterable[Any]:
        header = self._header
        if tuple(row) == header:
            return row.values()
        if extra := [name for name in row if name not in header]:
            raise StepFailed(
                f"A row has the column {', '.join(map(repr, extra))}, which the first row lacks, but a CSV file has "
                "one header. Make the `python` step return the same columns for every row, or use ndjson."
            )
        return [row.get(name) for name in header]


def _encoded(lines: str, options: CsvOptions) -> bytes:
    try:
        return lines.encode(options.encoding, "strict" if options.unencodable == "fail" else "replace")
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        if "\ud800" <= character <= "\udfff":
            raise StepFailed(
                f"A step returned text with a lone surrogate, {character!a}, which no encoding has. Make the step "
                "replace it."
            ) from None
        raise DataError(
            f"A value has the character {character!a}, which {options.encoding} can't encode. Set `csv.unencodable` "
            "to `replace`, which writes `?`, or choose another `csv.encoding`."
        ) from None


def _lines(rows: Sequence[Iterable[Any]], options: CsvOptions) -> str:
    """Write rows of fields: text, null, or values of user code. All rows have as many."""
    # Column by column, because what a few searches say of all its text would take as many of each field.
    columns = list(zip(*rows, strict=True))
    line_end = _LINE_ENDS[options.line_end]
    if not columns:
        return line_end * len(rows)
    alone = len(columns) == 1
    fields = [_column(column, options, alone=alone) for column in columns]
    return line_end.join(map(options.delimiter.join, zip(*fields, strict=True))) + line_end


def _column(values: Sequence[Any], options: CsvOptions, *, alone: bool) -> Sequence[str]:
    """Return the fields of a column, quoted where they have to be. `alone` says that it is the only one."""
    delimiter, null = options.delimiter, options.null
    kinds = set(map(type, values))
    if not kinds <= _CARRIED:
        values = [value if value is None or type(value) is str else _text(value) for value in values]
    texts = [text for text in values if text is not None] if _NONE in kinds else values
    # Alone on a line, `\.` ends the data for older versions of COPY.
    taken = (null, "\\.") if alone else (null,)
    together = "".join(texts)
    if options.quote == "all":
        texts = [f'"{text.replace(_QUOTE, _QUOTES)}"' for text in texts]
    elif any(each in together for each in (delimiter, '"', "\n", "\r")) or any(text in texts for text in taken):
        texts = [
            f'"{text.replace(_QUOTE, _QUOTES)}"'
            if _QUOTE in text or delimiter in text or "\n" in text or "\r" in text or text in taken
            else text
            for text in texts
        ]
    if _NONE not in kinds:
        return texts
    remaining = iter(texts)
    return [null if value is None else next(remaining) for value in values]


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


def new(*, header: Sequence[str], fixed: bool, columns: Columns, numbers: Sequence[str] | None, csv: CsvOptions) -> Csv:
    """See `formats.new_format`."""
    return Csv(header, fixed=fixed, options=csv)
