"""CSV, as `COPY … (FORMAT csv, HEADER)` writes it."""

import math
import re
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import StepFailed
from pipeline_processing.formats.json_values import dumps, non_finite
from pipeline_processing.formats.untouched import carried_form
from pipeline_processing.ports import Columns, Row, RowMaker
from pipeline_processing.projection import Projection
from pipeline_processing.values import time_text

_rows = re.compile(rb'(?:[^"\n]|"[^"]*")*+\n').finditer
_must_quote = re.compile(r'[",\r\n]').search


class Csv:
    """
    Writes one line a row. Null is an empty field and the empty string a quoted one, as in COPY.

    With `fixed` False, steps decide the columns row by row: the first row's are the header, and a later row may
    lack some (null) but not add any.
    """

    carry = "text"

    def __init__(self, *, fixed: bool) -> None:
        self._fixed = fixed
        self._header: tuple[str, ...] = ()
        self._begun = False
        self.rows = 0

    def begin(self, columns: Columns) -> bytes:
        self._header = tuple(column.name for column in columns)
        return self._head() if self._fixed else b""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Lists of fields: no line needs a name."""
        constants = projection.constants
        return lambda records: [[*record, *constants] for record in projection.values(records)]

    def encode(self, batch: list[Any]) -> bytes:
        head = b""
        if not self._begun:
            self._header = tuple(batch[0])
            head = self._head()
        lines = [_line(self._fields(row)) for row in batch]
        self.rows += len(lines)
        return head + _encoded("".join(lines))

    def end(self) -> bytes:
        return b"" if self._begun else self._head()

    def longest_row(self, encoded: bytes) -> int:
        return max((len(row[0]) for row in _rows(encoded)), default=0)

    def _head(self) -> bytes:
        self._begun = True
        return _line(list(self._header)).encode()

    def _fields(self, row: Row | list[Any]) -> list[Any]:
        if isinstance(row, list):
            return row
        if self._fixed:
            return list(row.values())
        if extra := [name for name in row if name not in self._header]:
            raise StepFailed(
                f"A row has the column {', '.join(map(repr, extra))}, which the first row didn't have: a CSV file "
                "has one header. Make the `python` step return the same columns for every row, or use ndjson."
            )
        return [row.get(name) for name in self._header]


def _encoded(lines: str) -> bytes:
    try:
        return lines.encode()
    except UnicodeEncodeError as error:
        raise StepFailed(
            f"A step returned text with half of a surrogate pair, {error.object[error.start]!a}, which no UTF-8 file "
            "can hold. Make the step replace it."
        ) from None


def _line(fields: list[Any]) -> str:
    try:
        line = ",".join(fields)
    except TypeError:  # a null, or a step's own value
        fields = [None if field is None else _text(field) for field in fields]
    else:
        # One search over the whole line finds whether any field needs quotes, by far the most often none.
        if line.count(",") == len(fields) - 1 and not _quoted_anywhere(line) and "" not in fields and len(fields) > 1:
            return line + "\n"
    return ",".join(map(_field, fields)) + "\n"


_quoted_anywhere = re.compile(r'["\r\n]').search


def _field(text: str | None) -> str:
    if text is None:
        return ""
    # `\.` alone on a line used to end the data of COPY, so it is quoted.
    if text in ("", "\\.") or _must_quote(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _text(value: Any) -> str:
    """A value that a step has had in its hands, as Postgres would print it."""
    if isinstance(value, str):
        return value
    if (carried := carried_form(value)) is not None:
        return str(carried)
    match value:
        case bool():
            return "t" if value else "f"
        case float() if not math.isfinite(value):
            return non_finite(value)
        case float():
            return repr(value).removesuffix(".0")
        case Decimal():
            return format(value, "f") if value.is_finite() else non_finite(value)
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
