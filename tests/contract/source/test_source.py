"""The Postgres source: one snapshot for all datasets, and batches that fit."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.errors import QueryFailed, QueryInvalid, RowTooLarge
from pipeline_processing.rows.columns import Kind
from pipeline_processing.sources.postgres.batches import MAX_BATCH_ROWS
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from pipeline_processing.sources.postgres.source import PostgresSource
from pipeline_processing.usage import Usage, use
from tests.contract.source.reading import config, postgres_source, read, reading, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLEEPING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"

both_forms = pytest.mark.parametrize("carry", ["json", "text"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def tables(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
        INSERT INTO accounts SELECT g, 100 FROM generate_series(1, 3000) g;
    """)


@both_forms
async def test_a_table_without_sql(carry: str, source: PostgresSource, connection: asyncpg.Connection):
    """One agency's rows that changed in the window, in the order of the key, whatever the names and types are."""
    await connection.execute("""
        DROP SCHEMA IF EXISTS "Sales data" CASCADE; CREATE SCHEMA "Sales data";
        CREATE TABLE "Sales data"."Order" (id int, line int, "agency""Id" text, changed timestamp, secret text);
        INSERT INTO "Sales data"."Order" VALUES (2, 1, '7', '2026-01-01', 'x'), (1, 2, '7', '2026-01-02', 'x'),
            (1, 1, '7', '2026-01-01 00:00:01', 'x'), (3, 1, '8', '2026-01-01', 'x'), (4, 1, '7', '2026-01-03', 'x');
    """)
    options = PostgresSourceConfig.model_validate(
        {
            "table": "Sales data.Order",
            "columns": ["line", "id"],
            "agency_column": 'agency"Id',
            "key": ["id", "line"],
            "updated_column": "changed",
        }
    )
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)

    async def rows(arguments: Mapping[str, Any]) -> list[tuple[int, int]]:
        async with (
            source.snapshot({"orders": options}) as snapshot,
            snapshot.records("orders", arguments, carry=carry) as batches,
        ):
            assert batches.columns.names == ("line", "id")
            return [(int(line), int(key)) async for batch in batches for line, key in batch]

    assert await rows({"agency_id": 7, "since": since, "until": until}) == [(1, 1), (2, 1), (1, 2)]
    everything = {"agency_id": 7, "since": "-infinity", "until": "infinity"}
    assert await rows(everything) == [(1, 1), (2, 1), (1, 2), (1, 4)]


# -- the snapshot --------------------------------------------------------------------------------


@both_forms
async def test_all_datasets_see_one_moment(carry: str, source: PostgresSource, connection: asyncpg.Connection):
    """What others commit after the snapshot was opened is seen by none of its datasets."""
    first = config("SELECT sum(balance)::int AS total FROM accounts")
    second = config("SELECT balance FROM accounts")
    before = await connection.fetchval("SELECT sum(balance) FROM accounts")

    async with source.snapshot({"first": first, "second": second}) as snapshot:
        await connection.execute("UPDATE accounts SET balance = balance + 1")
        async with snapshot.records("first", {}, carry=carry) as batches:
            [[row]] = [batch async for batch in batches]
        async with snapshot.records("second", {}, carry=carry) as batches:
            seen = 0
            async for batch in batches:
                await connection.execute("UPDATE accounts SET balance = balance + 1; DELETE FROM accounts WHERE id = 1")
                seen += sum(int(balance) for (balance,) in batch)
        assert await connection.fetchval("SELECT now() - $1 BETWEEN '0' AND '1 minute'", snapshot.taken_at)

    assert int(row[0]) == seen == before


async def test_queries_are_planned_before_any_is_read(source: PostgresSource):
    """A wrong query of the last dataset is found before the first row of the first is read."""
    datasets = {"first": config("SELECT 1 AS a"), "second": config("SELECT * FROM nonsense")}

    with pytest.raises(QueryInvalid, match=r"^Dataset 'second': .*nonsense"):
        async with source.snapshot(datasets):
            pytest.fail("the snapshot was opened")


async def test_a_wrong_table_is_told_as_a_table(source: PostgresSource):
    """Its dataset has no query to correct."""
    table = PostgresSourceConfig(table="accounts", agency_column="tenant_id")

    with pytest.raises(QueryInvalid, match="can't read table 'accounts': column \"tenant_id\" does not exist"):
        async with source.snapshot({"accounts": table}):
            pytest.fail("the snapshot was opened")


@pytest.mark.parametrize(("carry", "other"), [("json", "text"), ("text", "json"), ("json", "json")])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, '{}'::int[] AS l FROM accounts",
        "SELECT g AS id, pg_sleep(CASE WHEN g < 1002 THEN 0 ELSE 60 END)::text AS t FROM generate_series(1, 2000) g",
        "SELECT g AS id, repeat('x', 900000) AS t FROM generate_series(1, 20) g",
    ],
)
async def test_leaving_early(
    query: str, carry: str, other: str, source: PostgresSource, connection: asyncpg.Connection
):
    """A dataset that isn't read to its end doesn't keep the next one of the snapshot from being read."""
    first, second = config(query), config("SELECT 5 AS n, ARRAY[1.50] AS l")

    async with source.snapshot({"first": first, "second": second}) as snapshot:
        for _ in range(3):
            async with snapshot.records("first", {}, carry=carry) as batches:
                await anext(batches)
                if "pg_sleep" in query:  # a cancellation that arrives before its query would be lost
                    await until(connection, f"EXISTS ({SLEEPING})")
            async with snapshot.records("second", {}, carry=other) as batches:
                [[row]] = [batch async for batch in batches]
            assert str(row[0]) == "5"


@both_forms
async def test_columns_can_be_told_before_any_row_is_read(carry: str, source: PostgresSource):
    """Their names, kinds and origins, the same that the rows then have."""
    query = "SELECT id AS \"Id\", 'x' AS t, 1.5 AS n, '{}'::jsonb AS j, ARRAY[id] AS l FROM accounts"

    async with source.snapshot({"records": config(query)}) as snapshot:
        columns = snapshot.columns("records", carry=carry)
        async with snapshot.records("records", {}, carry=carry) as batches:
            assert batches.columns == columns

    assert columns.complete
    assert columns.names == ("Id", "t", "n", "j", "l")
    assert [column.kind for column in columns] == [Kind.INTEGER, Kind.TEXT, Kind.NUMBER, Kind.JSON, None]
    assert all(column.typed and column.unchanged and column.origins == {column.name} for column in columns)


@both_forms
async def test_what_a_run_reads_is_billed(carry: str, source: PostgresSource):
    """Bytes as Postgres sends them, and the time that the run waits for it, but not that of its own work."""
    use(usage := Usage())
    began, worked = time.perf_counter(), 0.0
    datasets = {
        "slow": config("SELECT pg_sleep(0.2)::text AS t"),
        "large": config("SELECT repeat('x', 1000) AS t FROM generate_series(1, 5000)"),
    }
    async with source.snapshot(datasets) as snapshot:
        for name in datasets:
            async with snapshot.records(name, {}, carry=carry) as batches:
                async for _ in batches:
                    time.sleep(0.05)  # noqa: ASYNC251 - stands for a step's work, which isn't to count as waiting for the database
                    worked += 0.05

    assert usage.bytes_read == pytest.approx(5_000_000, rel=0.05)
    assert 0.2 <= usage.database_seconds <= time.perf_counter() - began - worked


async def test_a_slow_query_is_given_up_at_once(source: PostgresSource, connection: asyncpg.Connection):
    """Cancelling the run cancels its query on the server, and leaves no session behind."""
    reader = asyncio.create_task(read(source, "SELECT pg_sleep(60)"))
    await until(connection, f"EXISTS ({SLEEPING})")

    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await reader

    await until(connection, f"NOT EXISTS ({SLEEPING})")


async def test_sessions_can_be_used_again_and_again(source: PostgresSource, connection: asyncpg.Connection):
    """Runs in both forms, successful and not, leave no session or transaction open."""
    for carry in ("json", "text", "json"):
        await read(source, "SELECT 1 AS a, now() AS b, '{}'::json AS c", carry=carry)
        with pytest.raises(QueryFailed):
            await read(source, "SELECT 1 / (id - id) AS a FROM accounts", carry=carry)

    in_transactions = "application_name = 'test' AND state LIKE 'idle in transaction%'"
    await until(connection, f"NOT EXISTS (SELECT FROM pg_stat_activity WHERE {in_transactions})")


# -- batches -------------------------------------------------------------------------------------


@both_forms
async def test_batches_are_bounded_in_rows(carry: str, source: PostgresSource):
    """However small rows are, a batch has at most a thousand; none is empty, and none is lost."""
    sizes = [len(batch) for batch in await read(source, "SELECT g AS id FROM generate_series(1, 20000) g", carry=carry)]

    assert sum(sizes) == 20000
    assert max(sizes) == MAX_BATCH_ROWS == 1000
    assert min(sizes) > 0


@both_forms
@pytest.mark.parametrize("column", ["t", "to_jsonb(t) AS t", "ARRAY[t] AS t", "t::bytea AS t"])
async def test_wide_rows_make_small_batches(column: str, carry: str, source: PostgresSource):
    """Of rows of a megabyte, only a few are in memory at a time, from the first batch on."""
    async with reading(
        source,
        f"SELECT {column} FROM (SELECT repeat(chr(64 + g), 1000000) AS t FROM generate_series(1, 20) g) q",
        carry=carry,
    ) as batches:
        sizes = [len(batch) async for batch in batches]

    assert sum(sizes) == 20
    assert max(sizes) <= 4
    assert sizes[2:] == [1] * len(sizes[2:])


@both_forms
async def test_rows_that_suddenly_grow(carry: str, source: PostgresSource):
    """A fetch of a thousand rows ends early where they grow: no batch holds much more than it should."""
    size = "CASE WHEN g > 3000 AND g % 1000 < 100 THEN 300000 ELSE 1 END"
    query = f"SELECT g AS id, repeat('x', {size}) AS t FROM generate_series(1, 6000) g ORDER BY g"
    number = 0
    async with reading(source, query, carry=carry) as batches:
        async for batch in batches:
            assert sum(len(row["t"]) for row in batch) <= 2 * 1024 * 1024 + 300_000
            for row in batch:
                number += 1
                wide = number > 3000 and number % 1000 < 100
                assert (int(row["id"]), len(row["t"])) == (number, 300_000 if wide else 1)

    assert number == 6000


async def test_an_error_behind_rows_that_grow(source: PostgresSource):
    """It is told as Postgres told it first, however many fetches were under way."""
    query = "SELECT repeat('x', 900000 / (20 - g)) AS t FROM generate_series(1, 100) g"
    with pytest.raises(QueryFailed, match="division by zero"):
        await read(source, query)


@both_forms
@pytest.mark.parametrize("column", ["t", "to_jsonb(t)", "ARRAY[t]"])
async def test_a_row_that_is_too_large(column: str, carry: str, dsn: str, reader: str):
    """It is refused by the size that Postgres announces, also where only later rows are so large."""
    query = f"SELECT {column} AS t FROM (SELECT repeat('x', g * g * g) AS t FROM generate_series(1, 500) g) q"
    async with postgres_source(dsn, reader=reader, max_row_bytes=4_000_000) as source:
        with pytest.raises(RowTooLarge, match=r"^Dataset 'records', after row 15\d.*more than the 4,000,000"):
            await read(source, query, carry=carry)


@both_forms
async def test_batches_shrink_and_grow_with_the_rows(carry: str, source: PostgresSource):
    """After wide rows come narrow ones: batches grow again, by and by."""
    query = (
        "SELECT repeat('x', CASE WHEN g <= 10 THEN 1000000 ELSE 10 END) AS t FROM generate_series(1, 5000) g ORDER BY g"
    )
    sizes = [len(batch) for batch in await read(source, query, carry=carry)]

    assert sum(sizes) == 5000
    first = sizes[0]
    assert first <= 3
    assert sizes[1 : 10 - first] == [1] * (9 - first)
    assert max(sizes) == 1000
