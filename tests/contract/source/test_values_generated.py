"""Generated values: whatever Postgres takes in comes out as Postgres prints it. test_values.py has the known traps."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.helpers import (
    copied_csv,
    copied_text,
    dataset,
    export_all,
    parsed_csv,
    parsed_ndjson,
    reimported,
    rows_to_json,
)
from tests.contract.source.reading import READERS, postgres, postgres_source
from tests.properties import examples

SETUP = """
CREATE TYPE inner_type AS (n numeric, t text);
CREATE TYPE outer_type AS ("a b" inner_type, "c,d" inner_type[], f float8);
CREATE TABLE generated (
    id int, t text, c char(7), n numeric, f float8, g float4, ts timestamptz, plain timestamp, d date, i interval,
    b bytea, j json, jb jsonb, texts text[], numbers numeric[], grid float8[], nested outer_type, span tstzrange
);
"""
QUERY = "SELECT * FROM generated ORDER BY id"
COLUMNS = [
    "t",
    "c",
    "n",
    "f",
    "g",
    "ts",
    "plain",
    "d",
    "i",
    "b",
    "j",
    "jb",
    "texts",
    "numbers",
    "grid",
    "nested",
    "span",
]
STEPS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "stepped": [{"select": ["id", *COLUMNS]}, {"filter": "id >= 0"}, {"python": "tests.contract.source.hooks:copies"}],
}


@dataclass(frozen=True, slots=True)
class Database:
    runner: asyncio.Runner = field(repr=False)
    connection: asyncpg.Connection = field(repr=False)
    by_reader: Mapping[str, PostgresSource] = field(repr=False)


@pytest.fixture(scope="module")
def database(dsn: str) -> Iterator[Database]:
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        connection = runner.run(opened.enter_async_context(postgres(dsn)))
        by_reader = {
            reader: runner.run(opened.enter_async_context(postgres_source(dsn, reader=reader))) for reader in READERS
        }
        runner.run(connection.execute(SETUP))
        yield Database(runner, connection, by_reader)
        runner.run(opened.aclose())


# -- values, as text that Postgres reads ----------------------------------------------------------

NASTY = st.sampled_from("\",\\\n\r\t{}()[]'/:% .") | st.characters(codec="utf-8", exclude_characters="\0")
TEXTS = st.text(NASTY, max_size=12)
# Text in json may also hold what a column of text can't.
JSON_TEXTS = st.text(NASTY | st.characters(codec="utf-8"), max_size=8)
NUMERICS = st.one_of(
    st.decimals(places=None, allow_nan=False, allow_infinity=False).map(
        lambda number: f"{number:.60f}" if abs(number.adjusted()) > 100 else str(number)
    ),
    st.builds("{}.{}".format, st.integers(-(10**45), 10**45), st.text("0123456789", min_size=1, max_size=40)),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0.000", "-0"]),
)
FLOATS = st.floats().map(repr)
SMALL_FLOATS = st.floats(width=32).map(repr)
# Postgres's whole range, which is much wider than Python's, in microseconds around 2000.
INSTANTS = st.one_of(
    st.datetimes().map(str),
    st.builds(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06} {}".format,
        st.integers(1, 4712),
        st.integers(1, 12),
        st.integers(1, 28),
        st.integers(0, 23),
        st.integers(0, 59),
        st.integers(0, 59),
        st.integers(0, 999999),
        st.just("BC"),
    ),
    st.builds(
        "{}-{:02}-{:02} {:02}:00:00.{:03}".format,
        st.integers(10000, 294275),
        st.integers(1, 12),
        st.integers(1, 28),
        st.integers(0, 23),
        st.integers(0, 999),
    ),
    st.sampled_from(["infinity", "-infinity", "epoch"]),
)
YEARS_WITH_NEIGHBOURS = (datetime(2, 1, 1), datetime(9998, 1, 1))  # noqa: DTZ001 - their zone is text
ZONED = st.one_of(
    INSTANTS,
    st.builds(
        lambda moment, minutes: f"{moment}{minutes // 60:+03}:{minutes % 60:02}",
        st.datetimes(*YEARS_WITH_NEIGHBOURS),
        st.integers(-840, 840),
    ),
)
DAYS = st.one_of(
    st.dates().map(date.isoformat),
    st.builds("{:04}-01-{:02} BC".format, st.integers(1, 4712), st.integers(1, 31)),
    st.builds("{}-12-31".format, st.integers(10000, 5874896)),
)
INTERVALS = st.builds(
    "{} months {} days {} microseconds".format,
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**15), 10**15),
)
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | JSON_TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXTS, inner, max_size=4),
    max_leaves=8,
)
JSONS = st.builds(
    lambda document, indent, ascii_only: json.dumps(document, indent=indent, ensure_ascii=ascii_only),
    DOCUMENTS,
    st.sampled_from([None, 0, "\t", " \r\n"]),
    st.booleans(),
)
JSONBS = DOCUMENTS.map(lambda document: json.dumps(document).replace("\\u0000", "\\u2400"))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(items: st.SearchStrategy[str], *, least: int = 0) -> st.SearchStrategy[str]:
    return st.lists(st.none() | items, min_size=least, max_size=4).map(
        lambda values: "{" + ",".join("NULL" if value is None else _quoted(value) for value in values) + "}"
    )


def _grid(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    rows = st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(items, min_size=width, max_size=width), min_size=1, max_size=3)
    )
    bounds = st.integers(-3, 3)
    return st.builds(
        lambda grid, low: f"[{low}:{low + len(grid) - 1}][{low}:{low + len(grid[0]) - 1}]="
        + "{" + ",".join("{" + ",".join(map(_quoted, row)) + "}" for row in grid) + "}",
        rows,
        bounds,
    )  # fmt: skip


def _composite(*fields: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*(st.none() | each for each in fields)).map(
        lambda values: "(" + ",".join("" if value is None else _quoted(value) for value in values) + ")"
    )


INNER = _composite(NUMERICS, TEXTS)
VALUES = {
    "t": TEXTS,
    "c": st.text(st.sampled_from("ab \\\",'🦉"), max_size=7),
    "n": NUMERICS,
    "f": FLOATS,
    "g": SMALL_FLOATS,
    "ts": ZONED,
    "plain": INSTANTS,
    "d": DAYS,
    "i": INTERVALS,
    "b": st.binary(max_size=20).map(lambda data: "\\x" + data.hex()),
    "j": JSONS,
    "jb": JSONBS,
    "texts": _array(TEXTS),
    "numbers": _array(NUMERICS),
    "grid": _grid(FLOATS),
    "nested": _composite(INNER, _array(INNER), FLOATS),
    "span": st.datetimes().map(
        lambda moment: f'["{moment}","{moment + timedelta(hours=1) if moment.year < 9999 else moment}")'
    ),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), min_size=1, max_size=12
)


@examples(40)
@given(rows=ROWS)
def test_generated_values(database: Database, rows: list[dict[str, str | None]]):
    """Both formats equal what Postgres prints, with and without steps, and the CSV can be imported again."""
    database.runner.run(_check(database, rows))


async def _check(database: Database, rows: list[dict[str, str | None]]) -> None:
    connection = database.connection
    casts = ", ".join(f"{name}::text::{kind}" for name, kind in await _types(connection))
    await connection.execute("TRUNCATE generated")
    await connection.execute(
        f"INSERT INTO generated SELECT id, {casts} FROM jsonb_to_recordset($1::text::jsonb) "
        f"AS given (id int, {', '.join(f'{name} text' for name in COLUMNS)})",
        json.dumps([{"id": number, **row} for number, row in enumerate(rows)]),
    )
    by_reader = {
        reader: {
            form: await export_all(
                source, [dataset(QUERY, name=name, format=form, steps=steps) for name, steps in STEPS.items()]
            )
            for form in ("ndjson", "csv")
        }
        for reader, source in database.by_reader.items()
    }
    exported = by_reader["copy"]
    assert by_reader["cursor"] == exported

    expected = await rows_to_json(connection, QUERY)
    copied = parsed_csv(await copied_csv(connection, QUERY))
    for name in STEPS:
        assert parsed_ndjson(exported["ndjson"][name]) == expected
        assert parsed_csv(exported["csv"][name]) == copied
        assert sorted(str(await reimported(connection, "generated", exported["csv"][name])).splitlines()) == sorted(
            str(await copied_text(connection, "generated")).splitlines()
        )


async def _types(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'generated'::regclass AND attname = ANY ($1::text[]) ORDER BY attnum",
        COLUMNS,
    )
    return [(row[0], row[1]) for row in rows]
