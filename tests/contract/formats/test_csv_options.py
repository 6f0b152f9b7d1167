"""CSV with any options is what COPY reads and writes with the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.formats.csv import Csv
from pipeline_processing.model import CsvOptions
from tests.properties import examples

Rows = list[list[str | None]]

NASTY = st.sampled_from('",\\\n\r\t .;|^N') | st.characters(codec="utf-8", exclude_characters="\0")
DELIMITERS = [chr(code) for code in range(32, 127) if not chr(code).isalnum() and chr(code) not in '".'] + ["\t"]
NULLS = st.sampled_from(["", "NULL", "\\N", "-", " ", "null", "\\"]) | st.text(NASTY, max_size=3)


def told_apart(options: tuple[str, bool, str]) -> bool:
    delimiter, _, null = options
    return not any(character in null for character in (delimiter, '"', "\r", "\n"))


OPTIONS = (
    st.tuples(st.sampled_from(DELIMITERS), st.booleans(), NULLS)
    .filter(told_apart)
    .flatmap(
        lambda each: st.builds(
            CsvOptions,
            delimiter=st.just(each[0]),
            header=st.just(each[1]),
            null=st.just(each[2]),
            quote=st.sampled_from(["minimal", "all"]),
            line_end=st.sampled_from(["lf", "crlf"]),
        )
    )
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[CsvOptions, list[str], Rows]:
    """Options, the columns' names, and rows; the text for null and the delimiter are frequent in both."""
    options = draw(OPTIONS)
    pieces = st.sampled_from([options.null, options.delimiter, "", "\\."]) | st.text(NASTY, max_size=6)
    texts = st.lists(pieces, max_size=3).map("".join)
    names = draw(st.lists(texts.filter(_is_a_name), min_size=1, max_size=3, unique=True))
    row = st.lists(st.none() | texts, min_size=len(names), max_size=len(names))
    return options, names, draw(st.lists(row, max_size=8))


def _is_a_name(text: str) -> bool:
    return 0 < len(text.encode()) < 64


@dataclass(frozen=True, slots=True)
class Database:
    runner: asyncio.Runner = field(repr=False)
    connection: asyncpg.Connection = field(repr=False)

    def copied_in_and_out(self, csv: bytes, names: list[str], options: CsvOptions) -> tuple[Rows, bytes]:
        """The rows that COPY FROM makes of `csv`, and what COPY TO makes of them."""
        return self.runner.run(self._copied(csv, names, options))

    async def _copied(self, csv: bytes, names: list[str], options: CsvOptions) -> tuple[Rows, bytes]:
        chosen: dict[str, Any] = {
            "format": "csv",
            "delimiter": options.delimiter,
            "header": options.header,
            "null": options.null,
        }
        columns = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}" text' for name in names)
        written = bytearray()

        async def append(data: bytes) -> None:
            written.extend(data)

        async def chunks() -> AsyncIterator[bytes]:
            yield csv

        await self.connection.execute("DROP TABLE IF EXISTS pg_temp.copied")
        await self.connection.execute(f"CREATE TEMPORARY TABLE copied ({columns})")
        await self.connection.copy_to_table("copied", schema_name="pg_temp", source=chunks(), **chosen)
        await self.connection.copy_from_table(
            "copied", schema_name="pg_temp", output=append, force_quote=options.quote == "all" or None, **chosen
        )
        return [list(row) for row in await self.connection.fetch("SELECT * FROM pg_temp.copied")], bytes(written)


@pytest.fixture(scope="module")
def database(servers: EmbeddedServers) -> Iterator[Database]:
    servers.postgres.create_database("csv_options")
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(servers.postgres.dsn("csv_options")))
        yield Database(runner, connection)
        runner.run(connection.close())


def written(options: CsvOptions, names: list[str], rows: Rows) -> bytes:
    csv = Csv(names, fixed=True, options=options)
    return csv.head() + (csv.encode(rows) if rows else b"")


@given(table=tables())
@example(table=(CsvOptions(), ["a"], [["\\."], [None], [""]]))
@example(table=(CsvOptions(header=False), ["a", "b"], []))
@example(table=(CsvOptions(delimiter="\t", null="\\N"), ["a"], [[""], [None], ["\\N"]]))
@examples(400)
def test_copy_reads_and_writes_the_same(table: tuple[CsvOptions, list[str], Rows], database: Database) -> None:
    """
    Every row comes back as it was, null told from the text that stands for it, and byte for byte as COPY has it. COPY
    itself writes no CRLF here, and never quotes a whole header.
    """
    options, names, rows = table
    csv = written(options, names, rows)

    copied, copied_again = database.copied_in_and_out(csv, names, options)

    assert copied == rows
    if options.line_end == "lf" and not (options.header and options.quote == "all"):
        assert csv == copied_again
