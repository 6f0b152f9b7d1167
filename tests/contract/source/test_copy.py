"""What is special about reading by COPY: literals in place of parameters, falling back, and the server's silence."""

# ruff: noqa: E501 - tables of samples

import asyncio
import re
import sys
import tracemalloc
from itertools import chain
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from pipeline_processing.errors import QueryFailed, QueryInvalid, RowTooLarge, SourceUnavailable
from pipeline_processing.ports import Template
from pipeline_processing.postgres.query_text import Placeholder
from pipeline_processing.sources.postgres import copy_statement
from pipeline_processing.sources.postgres.batches import CursorBatches
from pipeline_processing.sources.postgres.copy_batches import CopyBatches
from pipeline_processing.sources.postgres.copy_reader import chosen_reader
from pipeline_processing.sources.postgres.copy_stream import TYPES
from pipeline_processing.sources.postgres.source import PostgresSource
from pipeline_processing.sources.postgres.types import _KINDS
from tests.acceptance.fault_proxy import FaultProxy
from tests.contract.source.reading import READERS, config, postgres_source, read, reading, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDE = "SELECT g AS id, repeat('x', 9000) AS t FROM generate_series(1, 3000) g"
"""More than the buffers between here and the server hold."""


@pytest.fixture(scope="module")
def way() -> tuple[str, str]:
    return "copy", "direct"


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def types(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE TYPE mood AS ENUM ('so-so', 'it''s \\ fine');
        CREATE DOMAIN short AS character(3);
        CREATE DOMAIN small AS int CHECK (VALUE < 10);
        CREATE TABLE accounts (id int PRIMARY KEY, text text);
        INSERT INTO accounts SELECT g, md5(g::text) FROM generate_series(1, 2000) g;
        ANALYZE accounts;
        CREATE FUNCTION known(agency int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF agency = 7 THEN RETURN 7; END IF; RAISE EXCEPTION 'no agency %', agency; END $$;
        CREATE FUNCTION found(account int) RETURNS int STABLE LANGUAGE plpgsql AS
        $$ DECLARE i int; BEGIN SELECT id INTO STRICT i FROM accounts WHERE id = account; RETURN i; END $$;
        CREATE FUNCTION read_from(name text) RETURNS int STABLE LANGUAGE plpgsql AS
        $$ DECLARE i int; BEGIN EXECUTE format('SELECT min(id) FROM %I', name) INTO i; RETURN i; END $$;
    """)


async def reader_of(source: PostgresSource, query: str, *args: Any) -> type:
    names = [f"x{number}" for number in range(len(args))]
    async with (
        source.snapshot({"records": config(query, args=names)}) as snapshot,
        snapshot.records("records", dict(zip(names, args, strict=True)), carry="json") as batches,
    ):
        return type(batches)


# -- which queries ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("SELECT 1 AS a;", []),
        ("SELECT 1 AS a -- ;", []),
        ("TABLE accounts", []),
        ("VALUES (1, ARRAY['a'])", []),
        ("WITH x AS (SELECT $1::int AS i) SELECT i,$1+1,'$1' AS t FROM x", [5]),
        (
            "SELECT ARRAY[1, 2] @>$1 AS a, $1[1] AS b, ($1)[2] AS c, E'\\'$1' AS d, $$ $1 $$ AS e /* $9 /* $8 */ $7 */",
            [[1, 2]],
        ),
        ("SELECT a.* FROM accounts a WHERE id<=$1 ORDER BY $2::text, id LIMIT $1 OFFSET $3", [3, "x", 0]),
        (
            "SELECT count(*) FILTER (WHERE $1::date IS NULL OR now() > $1) AS n FROM accounts GROUP BY id % $2",
            [None, 3],
        ),
        ("SELECT $1 || 'x' AS a, U&'\\0024\\0031' AS b, \"$1\" FROM (SELECT 1 AS \"$1\") AS q", ["'; --"]),
    ],
)
async def test_what_copy_reads(query: str, args: list[Any], source: PostgresSource, dsn: str):
    """Placeholders wherever Postgres takes them, and nowhere else. The rows are those that a cursor returns."""
    names = [f"x{number}" for number in range(len(args))]
    arguments = dict(zip(names, args, strict=True))
    assert await reader_of(source, query, *args) is CopyBatches
    async with postgres_source(dsn, reader="cursor") as cursor:
        for carry in ("json", "text"):
            found, expected = [
                [
                    row
                    for batch in await read(each, query, args=names, arguments=arguments, carry=carry)
                    for row in batch
                ]
                for each in (source, cursor)
            ]
            assert found == expected


@pytest.mark.parametrize(
    ("query", "args", "reason"),
    [
        ("SHOW server_version", [], "syntax error"),
        ("EXPLAIN SELECT 1", [], "syntax error"),
        ("SELECT $1, id FROM accounts ORDER BY text", ["x"], r"column '\?column\?' depends on a parameter"),
    ],
)
async def test_what_a_cursor_reads(query: str, args: list[Any], reason: str, source: PostgresSource):
    """One line of the log says why, once for each query."""
    with capture_logs() as logs:
        for _ in range(2):
            assert await reader_of(source, query, *args) is CursorBatches

    [line] = [each for each in logs if each["event"] == "a dataset is read by a cursor"]
    assert line["dataset"] == "records"
    assert re.search(reason, line["reason"])


@pytest.mark.parametrize(
    ("query", "good", "bad"),
    [
        ("SELECT id FROM accounts WHERE known($1) = 7 AND id < 5", 7, None),
        ("SELECT id FROM accounts WHERE id = found($1)", 7, -1),
        ("SELECT id FROM accounts WHERE id = read_from($1)", "accounts", "nothing"),
        ("SELECT 1 / $1::int AS a", 1, 0),
        ("SELECT $1::small AS a", 9, 10),
    ],
)
async def test_values_with_which_a_query_cant_be_planned(query: str, good: Any, bad: Any, dsn: str):
    """Planning calls functions. A run fails as with a cursor, and other runs are read by COPY."""
    async with postgres_source(dsn) as source, postgres_source(dsn, reader="cursor") as cursor:
        messages = []
        for each in (source, cursor):
            with pytest.raises((QueryFailed, QueryInvalid)) as raised:
                await read(each, query, args=["x"], arguments={"x": bad})
            messages.append((type(raised.value), str(raised.value)))
        assert messages[0] == messages[1]
        assert await reader_of(source, query, good) is CopyBatches
        arguments = {"x": good}
        assert await read(source, query, args=["x"], arguments=arguments) == await read(
            cursor, query, args=["x"], arguments=arguments
        )


async def test_a_timeout_while_a_query_is_planned(source: PostgresSource, connection: asyncpg.Connection):
    """It is the dataset's, and no cursor takes the time again."""
    await connection.execute("""
        CREATE OR REPLACE FUNCTION slow(seconds float8) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(seconds); RETURN 1; END $$
    """)
    query = "SELECT 1 AS a WHERE slow($1) = 1"
    with capture_logs() as logs, pytest.raises(QueryFailed, match="57014"):
        await read(source, query, args=["x"], arguments={"x": 30.0}, statement_timeout="100ms")
    assert not [each for each in logs if "by a cursor" in each["event"]]


@pytest.mark.parametrize("inside", ["'a $1 b'", "$x$ $1 $x$", "E'\\' $1 '", '"$1"', "1 /* $1 */"])
async def test_a_place_that_postgres_doesnt_confirm(
    inside: str, source: PostgresSource, monkeypatch: pytest.MonkeyPatch
):
    """However wrong a tokeniser is, no value gets into text, a name or a comment."""
    query = f'SELECT $1::text AS a, {inside} AS b FROM (SELECT 1 AS "$1") AS q'

    def wrong(text: str) -> list[Placeholder]:
        places = [at for at in range(len(text)) if text.startswith("$1", at)]
        return [Placeholder(1, at, at + 2) for at in places][:2]

    monkeypatch.setattr(copy_statement, "placeholders_in", wrong)
    with capture_logs() as logs:
        assert await reader_of(source, query, "'; DROP TABLE accounts; --") is CursorBatches
    assert [each for each in logs if "by a cursor" in each["event"]]


async def test_the_decoder_knows_all_types_that_arrive():
    """Postgres renders all others as json or text."""
    assert frozenset(_KINDS) == TYPES


async def test_the_setting_decides(monkeypatch: pytest.MonkeyPatch):
    """And an installation without the decoder falls back; both are described."""
    assert chosen_reader("auto").decoder is not None
    by_setting = chosen_reader("cursor")
    monkeypatch.setitem(sys.modules, "pipeline_processing.sources.postgres.copy_stream", None)
    by_need = chosen_reader("auto")

    assert by_setting.decoder is by_need.decoder is None
    assert "as PIPELINE_SOURCE__READER says" in by_setting.description
    assert "decoder is not installed" in by_need.description


# -- literals -----------------------------------------------------------------------------------

VALUES = {
    "bpchar": "abc ", "char(2)": "abc", "varchar(2)": "abc", "mood": "it's \\ fine",
    "small": 5, "bool": True, "float8": 1e-300, "numeric": "12345678901234567890.50", "text[]": ["a'b", None, 'c"\\'],
    "timestamptz": "2026-01-18T10:00:00.5+02:00", "date": "2026-01-18", "jsonb": '{"a": "\'\\\\"}', "uuid": "a0eebc999c0b4ef8bb6d6bb9bd380a11",
    "int8": -(2**63), "name": "x" * 60, "bit varying(3)": None,
}  # fmt: skip


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_literals_are_what_is_bound(conforming: str, dsn: str):
    """For types with modifiers, domains, enums and arrays, with backslashes, however strings are read."""
    fields = ", ".join(f"${n}::{name} AS v{n}, pg_typeof(${n})::text AS t{n}" for n, name in enumerate(VALUES, 1))
    names = [f"x{n}" for n in range(len(VALUES))]
    arguments = dict(zip(names, VALUES.values(), strict=True))
    found = {}
    for reader in READERS:
        async with postgres_source(f"{dsn}?standard_conforming_strings={conforming}", reader=reader) as source:
            found[reader] = await read(source, f"SELECT {fields}", args=names, arguments=arguments, carry="text")
            if reader == "copy":
                async with (
                    source.snapshot({"records": config(f"SELECT {fields}", args=names)}) as snapshot,
                    snapshot.records("records", arguments, carry="text") as batches,
                ):
                    assert isinstance(batches, CopyBatches)

    assert found["copy"] == found["cursor"]


async def test_a_value_that_a_domain_refuses(dsn: str):
    """It fails alike."""
    messages = []
    for reader in READERS:
        async with postgres_source(dsn, reader=reader) as source:
            with pytest.raises((QueryFailed, QueryInvalid)) as raised:
                await read(source, "SELECT $1::small AS a", args=["x"], arguments={"x": 11})
            messages.append((type(raised.value), str(raised.value)))

    assert messages[0] == messages[1]


CHANGES = {
    "renamed": "ALTER TYPE kind RENAME TO sort",
    "moved": "ALTER TYPE kind SET SCHEMA elsewhere",
    "renamed, and a new one of its name": "ALTER TYPE kind RENAME TO sort; CREATE TYPE kind AS ENUM ('new')",
    "made anew": """
        ALTER TABLE kinds ALTER k TYPE text; DROP TYPE kind; CREATE TYPE kind AS ENUM ('a', 'b');
        ALTER TABLE kinds ALTER k TYPE kind USING k::kind
    """,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_parameters_type_changes(change: str, dsn: str, connection: asyncpg.Connection):
    """Between two runs of a kept connection, and of others."""
    await connection.execute("""
        DROP TABLE IF EXISTS kinds; DROP TYPE IF EXISTS kind, sort; DROP SCHEMA IF EXISTS elsewhere CASCADE;
        CREATE SCHEMA elsewhere; CREATE TYPE kind AS ENUM ('a', 'b');
        CREATE TABLE kinds AS SELECT 1 AS id, 'a'::kind AS k UNION ALL SELECT 2, 'b'
    """)
    query = "SELECT id FROM kinds WHERE k = $1"
    async with postgres_source(dsn) as source:
        assert await reader_of(source, query, "a") is CopyBatches
        await connection.execute(change)
        for kept in (True, True, False):
            if not kept:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'test'"
                )
                await source.pool._pool.expire_connections()
            assert await reader_of(source, query, "b") is CopyBatches
            assert await read(source, query, args=["x"], arguments={"x": "b"}) == [[{"id": 2}]]


# -- time ---------------------------------------------------------------------------------------


async def test_statement_timeout_is_about_silence(source: PostgresSource):
    """Not about the whole dataset, nor about a consumer that takes its time."""
    slow = "SELECT repeat('x', 9000) AS t, pg_sleep(0.1)::text AS s FROM generate_series(1, 16)"
    assert sum(map(len, await read(source, slow, statement_timeout="1s"))) == 16

    async with reading(source, WIDE, statement_timeout="1s") as batches:
        await anext(batches)
        await asyncio.sleep(1.2)
        assert sum([len(batch) async for batch in batches]) > 2000


@pytest.mark.parametrize("reader", READERS)
async def test_the_servers_own_statement_timeout(reader: str, dsn: str):
    """It holds for datasets that set none."""
    async with postgres_source(f"{dsn}?statement_timeout=400", reader=reader) as source:
        with pytest.raises(
            QueryFailed, match=r"'records', before its first row: .*57014.*The dataset sets no `statement_timeout`"
        ):
            await read(source, "SELECT pg_sleep(30)::text AS s")
        assert await read(source, "SELECT pg_sleep(0.6)::text AS s", statement_timeout="20s")


async def test_a_consumer_that_pauses(dsn: str, connection: asyncpg.Connection):
    """The server waits, and the session isn't idle."""
    async with (
        postgres_source(f"{dsn}?idle_in_transaction_session_timeout=1000") as source,
        reading(source, WIDE) as batches,
    ):
        await anext(batches)
        await until(
            connection,
            "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'test' AND wait_event = 'ClientWrite')",
        )
        await asyncio.sleep(1.3)
        assert sum([len(batch) async for batch in batches]) > 2000


# -- memory -------------------------------------------------------------------------------------

MIB = 1024 * 1024


@pytest.mark.parametrize("outputs", [None, Template(((0, b'{"a":'),), b"}\n")], ids=["values", "lines"])
async def test_numerics_that_are_far_larger_than_what_is_sent(outputs: Template | None, source: PostgresSource):
    """Thousands of rows arrive at once, and are decoded batch by batch; the rest is discarded at the end."""
    query = "SELECT 1e100000::numeric AS a FROM generate_series(1, 20000)"
    tracemalloc.start()
    try:
        async with source.snapshot({"records": config(query)}) as snapshot:
            async with snapshot.records("records", {}, carry="json") as batches:
                assert isinstance(batches, CopyBatches)
                if outputs is not None:
                    batches.deliver(outputs)
                for _ in range(20):
                    batch = await anext(batches)
                    assert len(batch) <= 12
            del batch
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


async def test_all_of_them_arrive(dsn: str):
    """A small batch makes many of few rows."""
    query = "SELECT (CASE WHEN g % 3 = 0 THEN 1e20000 ELSE g END)::numeric AS a FROM generate_series(1, 2000) AS g"
    async with postgres_source(dsn, batch_bytes=10_000) as source:
        copied = await read(source, query, carry="text")
    async with postgres_source(dsn, reader="cursor") as source:
        expected = await read(source, query, carry="text")

    assert len(copied) > 600
    assert list(chain.from_iterable(copied)) == list(chain.from_iterable(expected))


@pytest.mark.parametrize("reader", READERS)
async def test_a_row_of_numerics_that_is_too_large(reader: str, dsn: str):
    """It has 12 kB on its way, and 20 MB with all its digits."""
    fields = ", ".join(f"1e{100_000 + at} AS c{at}" for at in range(200))
    async with postgres_source(dsn, reader=reader) as source:
        with pytest.raises(RowTooLarge):
            await read(source, f"SELECT {fields}")


# -- faults -------------------------------------------------------------------------------------


async def test_a_connection_that_is_lost_within_a_row(dsn: str, connection: asyncpg.Connection):
    """All rows that are delivered are whole, and the error says how many."""
    port = await connection.fetchval("SHOW port")
    rows = 0

    async def read_on(source: PostgresSource, proxy: FaultProxy) -> None:
        nonlocal rows
        query = "SELECT repeat('x', 300000) AS t FROM generate_series(1, 1000)"
        async with reading(source, query) as batches:
            async for batch in batches:
                assert {len(row["t"]) for row in batch} == {300_000}
                rows += len(batch)
                if rows > 20:
                    with proxy.cut_off():
                        await asyncio.sleep(0)

    with FaultProxy(int(port)) as proxy:
        async with postgres_source(dsn.replace(f":{port}/", f":{proxy.port}/")) as source:
            with pytest.raises(SourceUnavailable) as raised:
                await read_on(source, proxy)
    assert f"after row {rows:,}: " in str(raised.value)
    assert rows < 1000
