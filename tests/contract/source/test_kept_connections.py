"""Runs share the source's connections: none finds what another left, or what a query was like before."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from msgspec import Raw

from pipeline_processing.errors import QueryFailed
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.reading import config, postgres_source, read, reading, until
from tests.unit.stepped_clock import SteppedClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

PID = "SELECT pg_backend_pid() AS pid"

both_forms = pytest.mark.parametrize("carry", ["json", "text"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def functions(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE FUNCTION executed(command text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE command; RETURN 'done'; END $$;
    """)


async def rows(source: PostgresSource, query: str, **options: Any) -> list[Mapping[str, Any]]:
    return [row for batch in await read(source, query, **options) for row in batch]


async def session_of(source: PostgresSource) -> int:
    [row] = await rows(source, PID)
    return int(row["pid"])


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: bytes(value).decode() if isinstance(value, Raw) else value for name, value in row.items()}


# -- sessions ------------------------------------------------------------------------------------


async def test_runs_one_after_the_other_share_a_session(dsn: str):
    """Whatever form their rows have, and however many datasets they read."""
    async with postgres_source(dsn) as source:
        first = await session_of(source)
        for carry in ("json", "text", "text", "json"):
            [row] = await rows(source, "SELECT 1.50 AS n, true AS b, ARRAY[1.50] AS l", carry=carry)
            expected = (
                {"n": "1.50", "b": True, "l": "[1.50]"} if carry == "json" else {"n": "1.50", "b": "t", "l": "{1.50}"}
            )
            assert plain(row) == expected
        async with source.snapshot({"a": config("SELECT 1 AS a"), "b": config("SELECT 2 AS b")}) as snapshot:
            for name in "ab":
                async with snapshot.records(name, {}, carry="text") as batches:
                    assert len([batch async for batch in batches]) == 1

        assert await session_of(source) == first


@pytest.mark.parametrize(
    ("leaving", "finding", "found"),
    [
        ("set_config('search_path', 'elsewhere', false)", "current_setting('search_path')", '"$user", public'),
        ("set_config('my.agency', '7', false)", "nullif(current_setting('my.agency', true), '')", None),
        ("set_config('role', 'pg_monitor', false)", "current_setting('role')", "none"),
        ("executed('LISTEN news')", "(SELECT count(*) FROM pg_listening_channels())::text", "0"),
        (
            "executed('DECLARE c CURSOR WITH HOLD FOR SELECT 1')",
            "(SELECT count(*)::text FROM pg_cursors WHERE name = 'c')",
            "0",
        ),
        ("executed('SET statement_timeout = 1')", "current_setting('statement_timeout')", "0"),
        (
            "pg_advisory_lock(1)::text || pg_advisory_lock_shared(2, 3)::text",
            "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')::text",
            "0",
        ),
    ],
)
async def test_a_run_finds_nothing_of_the_one_before(
    leaving: str, finding: str, found: str | None, source: PostgresSource
):
    """Neither settings nor locks nor anything else, though both use one session."""
    await read(source, f"SELECT {leaving} AS done")

    assert await rows(source, f"SELECT {finding} AS found") == [{"found": found}]


async def test_a_lock_ends_with_the_run_that_took_it(source: PostgresSource, connection: asyncpg.Connection):
    """Not only when the next one begins."""
    await read(source, "SELECT pg_advisory_lock(77)::text AS taken")

    assert await connection.fetchval("SELECT pg_try_advisory_lock(77)")
    await connection.execute("SELECT pg_advisory_unlock(77)")


async def test_a_session_with_statements_of_a_query_is_closed(dsn: str):
    """Statements prepared in SQL outlive a rollback: the same query would fail when it prepares them again."""
    async with postgres_source(dsn) as source:
        first = await session_of(source)
        for _ in range(2):
            await read(source, "SELECT executed('PREPARE mine AS SELECT 1') AS done")

        assert await session_of(source) != first


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("EXTENSION dblink", ""),
        ("LANGUAGE mine", "HANDLER plpgsql_call_handler"),
        ("FUNCTION f()", "RETURNS text LANGUAGE sql AS $$ SELECT set_config ('my.agency', '7', true) $$"),
        ("FUNCTION f()", "RETURNS text LANGUAGE sql AS $$ SELECT set_config(relname, 'x', true) FROM pg_class $$"),
        ("FUNCTION f()", "RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET LOCAL my.agency TO 7; END $$"),
    ],
)
async def test_a_session_is_closed_if_it_may_keep_what_no_rollback_undoes(
    kind: str, how: str, dsn: str, connection: asyncpg.Connection
):
    """As connections of dblink, global variables of other languages, and custom settings: no run finds them."""
    async with postgres_source(dsn) as source:
        await connection.execute(f"CREATE {kind} {how}")
        try:
            first = await session_of(source)
            if "dblink" in kind:
                for _ in range(2):
                    await read(source, "SELECT dblink_connect('mine', $1) AS done", args=["x"], arguments={"x": dsn})
            assert await session_of(source) != first
        finally:
            await connection.execute(f"DROP {kind}")


async def test_a_session_is_kept_with_functions_that_change_settings_of_postgres(
    dsn: str, connection: asyncpg.Connection
):
    """A rollback undoes it."""
    await connection.execute("""
        CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN SET LOCAL work_mem TO '1MB'; RETURN set_config('search_path', 'a.b', true); END $$
    """)
    try:
        async with postgres_source(dsn) as source:
            first = await session_of(source)
            await read(source, "SELECT g() AS g")
            assert await session_of(source) == first
    finally:
        await connection.execute("DROP FUNCTION g")


@pytest.mark.parametrize("leaving", ["set_config('my.agency', '7', false)", "executed('SET LOCAL my.agency = 7')"])
async def test_a_custom_setting_is_undefined_for_the_next_run(leaving: str, dsn: str):
    """Not empty, as after a rollback."""
    async with postgres_source(dsn) as source:
        await read(source, f"SELECT {leaving} AS done")

        assert await rows(source, "SELECT current_setting('my.agency', true) AS found") == [{"found": None}]


async def test_sessions_are_not_kept_if_a_setting_says_so(dsn: str):
    async with postgres_source(dsn, keep_connections=False) as source:
        assert await session_of(source) != await session_of(source)


async def test_a_session_is_closed_after_a_failure(dsn: str, connection: asyncpg.Connection):
    """Of the query, of what its rows are for, or because the run is cancelled."""

    async def failing() -> None:
        async with reading(source, "SELECT 1 AS a"):
            raise RuntimeError("of the step")

    async with postgres_source(dsn) as source:
        sessions = [await session_of(source)]
        with pytest.raises(QueryFailed):
            await read(source, "SELECT 1 / (g - 1) AS a FROM generate_series(1, 2) g")
        sessions.append(await session_of(source))
        with pytest.raises(RuntimeError):
            await failing()
        sessions.append(await session_of(source))
        cancelled = asyncio.create_task(read(source, "SELECT pg_sleep(60)::text AS a"))
        await until(connection, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        sessions.append(await session_of(source))

    assert len(set(sessions)) == 4


async def test_a_session_that_the_server_closed_is_replaced(dsn: str, connection: asyncpg.Connection):
    """As by idle_session_timeout, or a restart."""
    async with postgres_source(dsn) as source:
        first = await session_of(source)
        await connection.execute("SELECT pg_terminate_backend($1, 5000)", first)
        async with asyncio.timeout(10):
            while source.pool._pool.get_idle_size():  # noqa: ASYNC110 - until the loop has read the end
                await asyncio.sleep(0.01)

        assert await session_of(source) != first


async def test_a_session_is_replaced_after_ten_minutes(dsn: str):
    """So a change of the server's address, or of the role's settings, takes effect."""
    clock = SteppedClock()
    async with postgres_source(dsn, clock=clock) as source:
        first = await session_of(source)
        clock.pass_(599)
        assert await session_of(source) == first
        clock.pass_(2)
        assert await session_of(source) == first

        assert await session_of(source) != first


# -- queries -------------------------------------------------------------------------------------

CHANGES = {
    "a column more": ("ALTER TABLE t ADD c int DEFAULT 7", {"c": ("7", "7")}),
    "a column less": ("ALTER TABLE t DROP b", {"b": None}),
    "another name": ("ALTER TABLE t RENAME b TO d", {"b": None, "d": ("x", "x")}),
    "another type": ("ALTER TABLE t ALTER a TYPE numeric USING 1.50", {"a": ("1.50", "1.50")}),
    "a type that Postgres renders": ("ALTER TABLE t ALTER b TYPE text[] USING ARRAY[b]", {"b": ('["x"]', "{x}")}),
    "another label": ("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'", {"m": ("glad", "glad")}),
    "an enum of the same name": (
        "ALTER TABLE t DROP m; DROP TYPE mood; CREATE TYPE mood AS ENUM ('new');ALTER TABLE t ADD m mood DEFAULT 'new'",
        {"m": ("new", "new")},
    ),
    "a composite of the same name": (
        "ALTER TABLE t DROP m; DROP TYPE mood; CREATE TYPE mood AS (x int); ALTER TABLE t ADD m mood DEFAULT row(5)",
        {"m": ('{"x":5}', "(5)")},
    ),
    "a cast to json": (
        "CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql AS $$ SELECT '[1]'::json $$;"
        "CREATE CAST (mood AS json) WITH FUNCTION as_json(mood)",
        {"m": ("[1]", "sad")},
    ),
    "another order": ("ALTER TABLE t DROP a; ALTER TABLE t ADD a int DEFAULT 1", {}),
}


@both_forms
@pytest.mark.parametrize("rendered", ["", ", ARRAY[1] AS l", ", int4range(1, 2) AS l"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_between_two_runs_is_noticed(
    change: tuple[str, dict[str, Any]],
    rendered: str,
    carry: str,
    source: PostgresSource,
    connection: asyncpg.Connection,
):
    """The next run exports what the query returns then, whether or not Postgres renders a column of it."""
    await connection.execute("""
        DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS mood CASCADE; DROP FUNCTION IF EXISTS as_json;
        CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t AS SELECT 1 AS a, 'x' AS b, 'sad'::mood AS m
    """)
    query = f"SELECT t.*{rendered} FROM t"
    for _ in range(2):
        [before] = await rows(source, query, carry=carry)
    command, expected = change
    await connection.execute(command)

    [after] = await rows(source, query, carry=carry)

    values = {name: str(value) for name, value in plain(before).items()}
    for name, value in expected.items():
        values.pop(name, None)
        if value is not None:
            values[name] = value[carry == "text"]
    assert {name: str(value) for name, value in plain(after).items()} == values
    described = (await connection.prepare(query)).get_attributes()
    assert list(after) == [attribute.name for attribute in described]


async def test_a_known_query_may_become_invalid(source: PostgresSource, connection: asyncpg.Connection):
    """It is reported before a row is read, as if it had never been known."""
    await connection.execute("DROP TABLE IF EXISTS gone; CREATE TABLE gone AS SELECT 1 AS a, ARRAY[1] AS l")
    await read(source, "SELECT * FROM gone")
    await connection.execute("DROP TABLE gone")

    with pytest.raises(Exception, match=r"^Dataset 'records': .*gone"):
        await read(source, "SELECT * FROM gone")
