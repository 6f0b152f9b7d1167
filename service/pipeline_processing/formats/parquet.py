"""Parquet, by pyarrow, which the extra `parquet` installs."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline_processing.errors import DataError, JobConfigError
from pipeline_processing.formats.csv import Csv
from pipeline_processing.model import Compression, CsvOptions
from pipeline_processing.ports import Packer
from pipeline_processing.rows.columns import Column, Columns, Kind

_MOST_DIGITS = 38
"""Of a decimal that all readers of Parquet support: 128 bits."""
_LINES = CsvOptions(header=False)


class Parquet(Csv):
    """
    Encodes rows as lines of CSV, which sources write fastest, and lets pyarrow make columns of them.

    A column of unknown kind is text, as in CSV. So is a number without precision and scale, which no type of Parquet
    could hold exactly.
    """

    weight = 4  # pyarrow copies a value for a page, for statistics and for a dictionary

    def __init__(self, header: Sequence[str], *, fixed: bool, columns: Columns) -> None:
        super().__init__(header, fixed=fixed, options=_LINES)
        self._columns = columns

    def packer(self, compression: Compression, *, most_held: int) -> Packer:
        return _File(self._types, compression, most_held)

    def _types(self) -> dict[str, Any]:
        """Return the type of each column. They are known once rows have been encoded, or if there are none."""
        if not self._header:
            raise DataError("The rows have no columns, but Parquet needs some. Select some.")
        return {name: _type_of(self._columns.find(name)) for name in self._header}


class _File(io.RawIOBase):
    """One file of Parquet, whose bytes it gives away as pyarrow writes them."""

    def __init__(self, types: Callable[[], dict[str, Any]], compression: Compression, most_held: int) -> None:
        self._types = types
        self._compression = compression
        self._most_held = most_held
        self._tables: list[Any] = []
        """The next row group."""
        self._pieces: list[bytes] = []
        self._writer: Any = None
        self.held = 0

    def compress(self, lines: bytes, /) -> bytes:
        if lines:
            table = _parsed(lines, self._types())
            if self.held + table.nbytes > self._most_held:
                self._write_row_group()
            self._tables.append(table)
            self.held += table.nbytes
            if self.held >= self._most_held:
                self._write_row_group()
        return self._taken()

    def flush(self) -> bytes:  # type: ignore[override]  # of a file it would return None, and pyarrow doesn't call it
        self._write_row_group()
        self._writer.close()
        return self._taken()

    def _write_row_group(self) -> None:
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        if self._writer is None:
            # Without the schema of Arrow, because Parquet's says everything.
            schema = pyarrow.schema(self._types())
            # Its gzip is zlib, which is several times faster at level 1, as in `compression.py`.
            self._writer = ParquetWriter(
                self,
                schema,
                compression=self._compression.value,
                compression_level=1 if self._compression is Compression.GZIP else None,
                store_schema=False,
            )
        if self._tables:
            table = pyarrow.concat_tables(self._tables)
            self._tables.clear()
            self.held = 0
            self._writer.write_table(table, row_group_size=len(table))

    def _taken(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken

    # -- the file that pyarrow writes to ---------------------------------------------------------

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)


def _type_of(column: Column | None) -> Any:
    """Return a column's type in Arrow."""
    import pyarrow

    kind = column.kind if column is not None and column.typed else None
    match kind:
        case Kind.INTEGER:
            return pyarrow.int64()
        case Kind.FLOAT:
            return pyarrow.float64()
        case Kind.BOOLEAN:
            return pyarrow.bool_()
        case Kind.DATE:
            return pyarrow.date32()
        case Kind.TIMESTAMP:
            return pyarrow.timestamp("us")
        case Kind.TIMESTAMPTZ:
            return pyarrow.timestamp("us", "UTC")
        case Kind.NUMBER if column is not None and column.digits is not None:
            precision, scale = column.digits
            if 0 <= scale <= precision <= _MOST_DIGITS:
                return pyarrow.decimal128(precision, scale)
    return pyarrow.string()


def _parsed(lines: bytes, types: dict[str, Any]) -> Any:
    """Return lines as a table of Arrow. Raises DataError for a value that the type of its column can't hold."""
    import pyarrow
    from pyarrow import csv

    try:
        return csv.read_csv(
            pyarrow.BufferReader(lines),
            read_options=csv.ReadOptions(column_names=list(types), block_size=len(lines) + 1, use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                check_utf8=False,
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except pyarrow.ArrowInvalid as error:
        # The message contains the value.
        found = re.match(r"In CSV column #(\d+): ", str(error))
        if found is None:
            raise
        name, of_parquet = list(types.items())[int(found[1])]
        raise DataError(
            f"The column {name!r} has a value that its type in Parquet, {of_parquet}, can't hold: NaN, an infinity, or "
            f"a year before Christ or after 9999. Export the column as text, by a step `cast: {{{name}: text}}`, or "
            "change the value in the query."
        ) from None


CARRY = Parquet.carry


def new(
    *, header: Sequence[str], fixed: bool, columns: Columns, numbers: Sequence[str] | None, csv: CsvOptions
) -> Parquet:
    """See `formats.new_format`. Raises JobConfigError without pyarrow."""
    try:
        import pyarrow  # noqa: F401 - only whether it is there
    except ImportError:
        raise JobConfigError(
            "The format parquet needs the package pyarrow: pip install 'pipeline-processing[parquet]'."
        ) from None
    return Parquet(header, fixed=fixed, columns=columns)
