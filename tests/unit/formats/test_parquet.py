"""Parquet, read back by DuckDB."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline_processing.errors import DataError, JobConfigError
from pipeline_processing.formats.formats import new_format
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.ports import Format
from pipeline_processing.rows.columns import Column, Columns, Kind

MIB = 1024 * 1024
KINDS = {
    "i": Kind.INTEGER,
    "n": Kind.NUMBER,
    "f": Kind.FLOAT,
    "b": Kind.BOOLEAN,
    "d": Kind.DATE,
    "t": Kind.TIMESTAMP,
    "z": Kind.TIMESTAMPTZ,
    "s": Kind.TEXT,
    "u": Kind.UUID,
    "j": Kind.JSON,
}
LISTED = tuple(column_of_kind(name, kind, "text") for name, kind in KINDS.items())
ALL = (*LISTED, Column("money", kind=Kind.NUMBER, digits=(38, 2)), Column("array"))


def parquet(*columns: Column, fixed: bool = True) -> Format:
    known = Columns(columns, complete=fixed)
    return new_format(FormatName.PARQUET, header=known.names, fixed=fixed, columns=known)


def written(
    made: Format, *batches: list[Any], compression: Compression = Compression.NONE, most_held: int = MIB
) -> list[bytes]:
    """What each call gave."""
    packer = made.packer(compression, most_held=most_held)
    given = [packer.compress(made.head()), *(packer.compress(made.encode(batch)) for batch in batches)]
    return [*given, packer.flush()]


def read(folder: Path, pieces: list[bytes], query: str = "FROM '{}'") -> tuple[list[str], list[tuple[Any, ...]]]:
    """Types and rows, as DuckDB has them."""
    path = folder / "rows.parquet"
    path.write_bytes(b"".join(pieces))
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        found = database.execute(query.format(path))
        return [str(each[1]) for each in found.description or ()], found.fetchall()


def test_every_kind_has_its_type(tmp_path: Path) -> None:
    """What no type of Parquet holds exactly is text, as is JSON."""
    texts = [
        "-9223372036854775808", "1e-9", "-Infinity", "t", "1500-02-28", "0001-01-01 00:00:00.000001",
        "2026-01-18 10:00:00.123456+00", 'a\r\n"b",', "123e4567-e89b-12d3-a456-426614174000", '{"a": [1]}',
        "123456789012345678901234567890123456.78", '{1,"x y"}',
    ]  # fmt: skip

    types, rows = read(tmp_path, written(parquet(*ALL), [texts, [None] * len(texts)]))

    assert types == [
        "BIGINT", "VARCHAR", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "VARCHAR", "VARCHAR",
        "VARCHAR", "DECIMAL(38,2)", "VARCHAR",
    ]  # fmt: skip
    assert rows[0] == (
        -(2**63), "1e-9", float("-inf"), True, date(1500, 2, 28), datetime(1, 1, 1, microsecond=1),  # noqa: DTZ001
        datetime(2026, 1, 18, 10, 0, 0, 123456, UTC), 'a\r\n"b",', "123e4567-e89b-12d3-a456-426614174000", '{"a": [1]}',
        Decimal("123456789012345678901234567890123456.78"), '{1,"x y"}',
    )  # fmt: skip
    assert rows[1] == (None,) * len(texts)


def test_null_and_the_empty_string(tmp_path: Path) -> None:
    """Also alone in a row, where a null is an empty line."""
    rows = [[None], [""], ["x"], ["NULL"], ["\\."]]
    assert read(tmp_path, written(parquet(column_of_kind("s", Kind.TEXT, "text")), rows))[1] == list(map(tuple, rows))


@pytest.mark.parametrize("digits", [(39, 0), (1000, 2), (3, -2), (2, 5)])
def test_numbers_that_parquet_does_not_hold_are_text(tmp_path: Path, digits: tuple[int, int]) -> None:
    """Readers support 38 digits, all of them behind the point or before it."""
    column = Column("n", kind=Kind.NUMBER, digits=digits)
    assert read(tmp_path, written(parquet(column), [["1200"]])) == (["VARCHAR"], [("1200",)])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (Column("x", kind=Kind.NUMBER, digits=(12, 2)), "NaN"),
        (column_of_kind("x", Kind.DATE, "text"), "infinity"),
        (column_of_kind("x", Kind.TIMESTAMP, "text"), "0044-03-15 00:00:00 BC"),
        (column_of_kind("x", Kind.TIMESTAMPTZ, "text"), "10000-01-01 00:00:00+00"),
    ],
)
def test_values_that_a_type_can_not_hold_fail_the_run(column: Column, text: str) -> None:
    """Nothing is changed silently. The error names the column, not the value."""
    with pytest.raises(DataError, match=r"column 'x' has a value .* `cast: \{x: text\}`") as raised:
        written(parquet(column_of_kind("id", Kind.INTEGER, "text"), column), [["1", text]])
    assert "CSV" not in str(raised.value)  # the message of pyarrow has the value


def test_columns_of_user_code_are_text(tmp_path: Path) -> None:
    """Those of the first row, unless a later step gives them a type. Later rows may lack some."""
    made = parquet(Column("id", typed=False), column_of_kind("n", Kind.INTEGER, "text"), fixed=False)
    types, rows = read(tmp_path, written(made, [{"id": 1, "n": "2", "x": True}], [{"id": None, "n": None}]))
    assert (types, rows) == (["VARCHAR", "BIGINT", "VARCHAR"], [("1", 2, "t"), (None, None, None)])


def test_no_rows_are_a_file_with_columns(tmp_path: Path) -> None:
    """Readers see the same schema as in files with rows."""
    assert read(tmp_path, written(parquet(*LISTED[:1]))) == (["BIGINT"], [])
    with pytest.raises(DataError, match="have no columns"):
        written(parquet())


@pytest.mark.parametrize("compression", Compression)
def test_row_groups(tmp_path: Path, compression: Compression) -> None:
    """One is written whenever enough rows are held, so that memory stays flat."""
    made = parquet(column_of_kind("s", Kind.TEXT, "text"))
    batches = [[[f"{batch} {number:050}"] for number in range(1000)] for batch in range(10)]

    pieces = written(made, *batches, compression=compression, most_held=120_000)

    assert [bool(piece) for piece in pieces[1:]] == [False, False, *[True, False] * 4, True]
    query = "SELECT row_group_num_rows, compression FROM parquet_metadata('{}')"
    codec = {"none": "UNCOMPRESSED", "gzip": "GZIP", "zstd": "ZSTD"}[compression]
    assert read(tmp_path, pieces, query)[1] == [(2000, codec)] * 5
    assert read(tmp_path, pieces)[1] == [tuple(row) for batch in batches for row in batch]


def test_a_large_row_is_not_held() -> None:
    """Nor together with earlier rows."""
    made = parquet(column_of_kind("s", Kind.TEXT, "text"))
    packer = made.packer(Compression.NONE, most_held=100_000)
    packer.compress(made.encode([["x" * 60_000]]))
    packer.compress(made.encode([["y" * 60_000]]))
    assert packer.held < 100_000
    packer.compress(made.encode([["z" * 200_000]]))
    assert packer.held == 0


def test_what_is_held_is_told() -> None:
    """So that an artifact can end before it grows too large."""
    made = parquet(column_of_kind("s", Kind.TEXT, "text"))
    packer = made.packer(Compression.NONE, most_held=100_000)
    assert packer.held == 0
    packer.compress(made.encode([["x" * 1000]] * 50))
    assert 50_000 <= packer.held < 60_000


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other formats work; this one says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(JobConfigError, match=r"pip install 'pipeline-processing\[parquet\]'"):
        parquet(*LISTED)
