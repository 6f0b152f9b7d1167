"""Postgres behind PgBouncer, where sessions of the server are used in turns, and by others too."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from msgspec import Raw

from pipeline_processing.errors import AccessDenied, DatabaseMisconfigured, PipelineError, SourceBusy, SourceUnavailable
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.lookup import PostgresLookup
from pipeline_processing.sources.postgres.source import SESSION_SETTINGS
from tests.contract.source.reading import READERS, postgres_source, read, until
from tests.pgbouncer import NewPool, PgBouncer

OTHERS = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "lc_monetary": "C.UTF-8",
    "search_path": "elsewhere",
    "default_transaction_isolation": "serializable",
}
"""Settings of somebody else, every one of which would change what is read or how it is written."""

VALUES = r"""
    SELECT code, ARRAY['2026-01-18 10:00:00+00'::timestamptz] AS "at", interval '1 day 2 hours' AS long,
           '\x00ff'::bytea AS bytes, ARRAY[1::float8 / 3] AS ratio, current_setting('lc_monetary') AS money
    FROM names WHERE code = ANY ($1)
"""
NDJSON = {
    "code": "here",
    "at": '["2026-01-18T10:00:00+00:00"]',
    "long": '"1 day 02:00:00"',
    "bytes": r'"\\x00ff"',
    "ratio": "[0.3333333333333333]",
    "money": "C",
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1) ORDER BY name"


@pytest.fixture(params=["transaction", "session"])
def pool(request: pytest.FixtureRequest, pooled: NewPool) -> PgBouncer:
    """With one session of the server for all, one after the other."""
    return pooled(request.param, pool_size=1)


@asynccontextmanager
async def somebody(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Another client of the pool, which uses it as it should be used: without names for statements."""
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def used(pool: PgBouncer, database: str, connection: asyncpg.Connection) -> str:
    """The DSN of a pool whose session has been used by somebody with other settings."""
    await connection.execute(
        "CREATE SCHEMA IF NOT EXISTS elsewhere; DROP TABLE IF EXISTS names, elsewhere.names;"
        "CREATE TABLE names AS SELECT 'here' AS code; CREATE TABLE elsewhere.names AS SELECT 'elsewhere' AS code"
    )
    dsn = pool.dsn(database)
    async with somebody(dsn) as client:
        await client.execute("; ".join(f"SET {name} = '{value}'" for name, value in OTHERS.items()))
    return dsn


@pytest.mark.parametrize("reader", READERS)
async def test_a_source_has_its_own_settings(used: str, reader: str) -> None:
    """Whatever the session was set to before, for values that are decoded here or rendered there."""
    async with postgres_source(used, reader=reader) as source:
        (batch,) = await read(source, VALUES.replace("ANY ($1)", "'here'"))

    assert [carried(row) for row in batch] == [NDJSON]


async def test_a_lookup_has_its_own_settings(used: str) -> None:
    """In each of its transactions: others use the session between them."""
    async with (
        lookup_database(used) as database,
        PostgresLookup(database=database, query=VALUES, carry="json") as table,
    ):
        for _ in range(2):
            assert [carried(row) for row in await table.find(["here", "elsewhere"])] == [NDJSON]


async def test_a_lookup_notices_that_its_table_was_altered(used: str, connection: asyncpg.Connection) -> None:
    """It has no prepared statement that Postgres would refuse then, and would take values for what they aren't."""
    lookup = "SELECT code, at FROM names WHERE code = ANY ($1)"
    await connection.execute("ALTER TABLE names ADD at timestamptz DEFAULT '2026-01-18 10:00Z'")
    async with (
        lookup_database(used) as database,
        PostgresLookup(database=database, query=lookup, carry="json") as table,
    ):
        await table.find(["here"])
        await connection.execute("ALTER TABLE names ALTER at TYPE timestamp")
        with pytest.raises(SourceBusy, match="altered"):
            await table.find(["here"])


async def test_nothing_is_left_in_a_session(pooled: NewPool, database: str) -> None:
    """Neither settings nor prepared statements, which the next client would stumble over."""
    dsn = pooled("transaction", pool_size=1).dsn(database)
    async with somebody(dsn) as client:
        await client.execute("SET TimeZone = 'Asia/Tokyo'")
        before = await client.fetch(SETTINGS, [*SESSION_SETTINGS, "search_path"])
        async with postgres_source(dsn) as source, lookup_database(dsn) as looked_up:
            await read(source, "SELECT g, ARRAY[g] AS list FROM generate_series(1, 5000) AS g")
            lookup = PostgresLookup(database=looked_up, query="SELECT 'a' AS k WHERE 'a' = ANY ($1)", carry="text")
            async with lookup as table:
                await table.find(["a"])

        assert await client.fetch(SETTINGS, [*SESSION_SETTINGS, "search_path"]) == before
        assert await client.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_a_query_that_is_given_up_is_cancelled_behind_the_pool(
    pool: PgBouncer, database: str, connection: asyncpg.Connection
) -> None:
    """Otherwise it would go on, and keep a connection of the pool."""
    asleep = "(SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50%' AND pid <> pg_backend_pid())"
    async with postgres_source(pool.dsn(database)) as source:
        reading = asyncio.create_task(read(source, "SELECT pg_sleep(50)::text AS pause"))
        await until(connection, f"{asleep} = 1")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(connection, f"{asleep.replace('WHERE', 'WHERE state = $$active$$ AND')} = 0")


async def test_the_query_of_a_killed_process_ends(
    dsn: str, pooled: NewPool, database: str, connection: asyncpg.Connection
) -> None:
    """With and without a pooler, although it sends nothing that would show Postgres the loss."""
    asleep = "(SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(70%')"
    dsns = [dsn, *[pooled(mode, pool_size=1).dsn(database) for mode in ("transaction", "session")]]
    async with AsyncExitStack() as stack:
        killed, queries = [], []
        for each in dsns:
            client = await stack.enter_async_context(DatabaseClient(dsn=each, unavailable=SourceUnavailable))
            killed.append(await stack.enter_async_context(client.connection()))
            queries.append(asyncio.create_task(killed[-1].fetchval("SELECT pg_sleep(70)")))
        await until(connection, f"{asleep} = 3")

        for one in killed:
            one.terminate()  # closes the connection, and tells the server nothing

        await until(connection, f"{asleep} = 0")
        await asyncio.gather(*queries, return_exceptions=True)


@pytest.mark.parametrize(
    ("mode", "change", "error", "remedy"),
    [
        (
            "transaction",
            ("?", "?IntervalStyle=iso_8601&"),
            DatabaseMisconfigured,
            "unsupported startup.*Remove it from",
        ),
        ("transaction", ("?", "?options=-cgeqo%3Doff&"), DatabaseMisconfigured, "unsupported startup.*Remove it from"),
        ("transaction", ("pipeline@", "stranger@"), AccessDenied, "user and password"),
        ("transaction", ("?", "_missing?"), DatabaseMisconfigured, "does not exist.*correct the DSN"),
        ("statement", ("?", "?"), DatabaseMisconfigured, "pool_mode"),
    ],
)
async def test_what_a_pool_refuses_is_told_with_its_remedy(
    pooled: NewPool, database: str, mode: str, change: tuple[str, str], error: type[PipelineError], remedy: str
) -> None:
    """Trying again would not help, though PgBouncer calls all of it a connection failure."""
    dsn = f"{pooled(mode).dsn(database)}?".replace(*change).rstrip("?&")
    async with postgres_source(dsn) as source:
        with pytest.raises(error, match=remedy):
            await read(source, "SELECT 1 AS id")


def carried(row: Mapping[str, Any]) -> dict[str, str]:
    """What is written into NDJSON, but for the quotes of plain text."""
    return {name: bytes(value).decode() if isinstance(value, Raw) else value for name, value in row.items()}


def lookup_database(dsn: str) -> DatabaseClient:
    return DatabaseClient(
        dsn=dsn, unavailable=SourceUnavailable, application_name="test", max_size=1, server_settings=SESSION_SETTINGS
    )
