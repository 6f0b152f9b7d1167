"""The pool of connections: what leaves it are this service's errors, and it recovers."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline_processing.embedded.ports import free_ports
from pipeline_processing.errors import (
    DatabaseMisconfigured,
    HistoryUnavailable,
    PipelineError,
    QueryFailed,
    QueryInvalid,
    SourceBusy,
    SourceUnavailable,
)
from pipeline_processing.history.postgres.store import postgres_run_store
from pipeline_processing.postgres.client import DatabaseClient
from tests.contract.run_store.conftest import PostgresBackend

PASSWORD = "hush-hush"
REASON = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
"""The fields of what a server sends before it closes a connection."""


def client(dsn: str, **options: Any) -> DatabaseClient:
    defaults: dict[str, Any] = {"unavailable": SourceUnavailable, "application_name": "tests", "max_size": 2}
    return DatabaseClient(dsn=dsn, **{**defaults, **options})


@pytest.fixture
async def opened(database: str) -> AsyncIterator[DatabaseClient]:
    async with client(database) as opened:
        yield opened


async def test_settings_last_as_long_as_the_session(database: str) -> None:
    """They are there again when a connection comes back from the pool, whatever was set in between."""
    settings = {"TimeZone": "Asia/Tokyo", "statement_timeout": "12345ms"}
    async with client(database, max_size=1, search_path="a b", server_settings=settings) as opened:
        for _ in range(2):
            async with opened.connection() as connection:
                assert await connection.fetchval("SHOW TimeZone") == "Asia/Tokyo"
                assert await connection.fetchval("SHOW statement_timeout") == "12345ms"
                assert await connection.fetchval("SHOW search_path") == '"a b"'
                assert await connection.fetchval("SHOW application_name") == "tests"
                await connection.execute("SET TimeZone = 'UTC'; SET search_path = public; SET statement_timeout = 0")


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT nonsense", QueryInvalid),
        ("SELECT * FROM nowhere", QueryInvalid),
        ("SELECT 1 / 0", QueryFailed),
        ("SET statement_timeout = 10; SELECT pg_sleep(10)", QueryFailed),
        ("DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'ZZ123'; END $$", QueryFailed),
        ("DO $$ BEGIN RAISE 'full' USING ERRCODE = '53100'; END $$", SourceBusy),
    ],
)
async def test_an_error_of_a_query_is_told_in_our_words(
    opened: DatabaseClient, sql: str, error: type[PipelineError]
) -> None:
    """And the connection is of use afterwards."""
    with pytest.raises(error, match="SQLSTATE"):
        async with opened.connection() as connection:
            await connection.execute(sql)
    async with opened.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_server_that_is_down_is_unavailable() -> None:
    """With its address, and without the password; opening the client itself needs no server."""
    [port] = free_ports(1)
    async with client(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db") as opened:
        with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port}/db") as refused:
            async with opened.connection():
                pass
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """After the time limit for connecting."""
    server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client(f"postgresql://me@127.0.0.1:{port}/db", connect_seconds=0.2) as opened:
        with pytest.raises(SourceUnavailable, match="no answer in time"):
            async with opened.connection():
                pass
    server.close()


async def test_a_missing_database_is_a_matter_of_settings(postgres: Any) -> None:
    """Trying again would not help."""
    async with client(postgres.dsn("runstore_missing")) as opened:
        with pytest.raises(DatabaseMisconfigured, match=r"does not exist.*Create it") as refused:
            async with opened.connection():
                pass
    assert (refused.value.exit_code, refused.value.retryable) == (78, False)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://me:{PASSWORD}/slash@127.0.0.1/db",
        f"postgresql://me:1{PASSWORD}/slash",
        f"postgresql://me@127.0.0.1:{PASSWORD}/db",
        f"{PASSWORD}://127.0.0.1/db",
        f"postgresql://me@127.0.0.1/db?sslmode={PASSWORD}",
    ],
)
async def test_an_unusable_dsn_is_not_repeated(dsn: str) -> None:
    """Not even in the errors behind the error."""
    with pytest.raises(DatabaseMisconfigured, match="percent-encoded") as refused:
        async with client(dsn) as opened, opened.connection():
            pass
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__cause__ is None


async def test_a_connection_that_breaks_off_is_replaced(opened: DatabaseClient) -> None:
    """Whoever used it is told so, and the next one gets a new connection."""
    async with opened.connection() as killer:
        with pytest.raises(SourceUnavailable):
            await _killed(opened, killer)
        async with opened.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def _killed(opened: DatabaseClient, killer: Any) -> None:
    async with opened.connection() as connection:
        await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        await connection.execute("SELECT pg_sleep(10)")


async def test_a_connection_whose_end_is_half_seen_is_not_used_again(database: str) -> None:
    """asyncpg reads the server's reason before the end of the stream; until then, the connection looks usable."""

    async def copy() -> None:
        async with opened.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM copied") == 0
            connection._protocol.data_received(b"E" + (len(REASON) + 4).to_bytes(4, "big") + REASON)
            await connection.copy_to_table("copied", source=memoryview(b"1\n"), format="csv")

    async with client(database, max_size=1) as opened:
        async with opened.connection() as connection:
            await connection.execute("CREATE TABLE copied (id int)")
        with pytest.raises(SourceUnavailable):
            await copy()
        async with opened.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM copied") == 0
            await connection.execute("DROP TABLE copied")


async def test_an_error_of_other_work_in_the_block_stays_what_it_is(opened: DatabaseClient) -> None:
    """A long snapshot is open while files are written and time limits run: those errors aren't the database's."""
    for error in (OSError("disk full"), TimeoutError(), ValueError("x"), RuntimeError("y")):
        with pytest.raises(type(error)) as raised:
            async with opened.connection():
                raise error
        assert raised.value is error


@pytest.mark.parametrize("error", [RuntimeError("mine"), asyncio.CancelledError()], ids=repr)
async def test_a_closed_connection_hides_no_error(opened: DatabaseClient, error: BaseException) -> None:
    """Leaving a transaction fails then too, and must not take the place of a cancellation."""

    async def fail() -> None:
        async with opened.connection() as connection, connection.transaction():
            connection.terminate()
            raise error

    with pytest.raises(type(error)) as raised:
        await fail()
    assert raised.value is error


async def test_a_command_that_takes_too_long_is_unavailable(database: str) -> None:
    """Where a limit is set, silence for that long means a dead connection."""
    async with client(database, command_seconds=0.1) as opened:
        with pytest.raises(SourceUnavailable, match="no answer in time"):
            async with opened.connection() as connection:
                await connection.execute("SELECT pg_sleep(10)")


async def test_a_client_must_be_opened(database: str) -> None:
    """Before and after its block it has no connections."""
    closed = client(database)
    async with closed:
        pass
    with pytest.raises(RuntimeError, match="async with"):
        async with closed.connection():
            pass


async def test_leaving_the_block_ends_connections_in_use(database: str) -> None:
    """They are cut off after a short while, so that a stuck query can't keep the process."""
    async with client(database) as opened:
        stuck = asyncio.create_task(_use(opened))
        await asyncio.sleep(0.05)
        stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck


async def _use(opened: DatabaseClient) -> None:
    async with opened.connection() as connection:
        await connection.execute("SELECT pg_sleep(30)")


async def test_a_history_that_is_busy_or_read_only_is_unavailable(on_postgres: PostgresBackend) -> None:
    """Whoever writes to the history knows one error to wait for."""
    runs = on_postgres.runs
    await on_postgres.execute("ALTER TABLE installation RENAME TO renamed")
    for sqlstate in ("53300", "57014", "25006", "40P01"):
        await on_postgres.execute(
            f"CREATE OR REPLACE FUNCTION fails() RETURNS boolean LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE 'simulated' USING ERRCODE = '{sqlstate}'; END $$;"
            "CREATE OR REPLACE VIEW installation AS SELECT installation_id FROM renamed WHERE fails()"
        )
        with pytest.raises(HistoryUnavailable, match="simulated"):
            await runs.history.installation_id()


async def test_the_run_store_needs_its_schema_as_the_search_path(database: str) -> None:
    """Otherwise it would work on somebody else's tables."""
    with pytest.raises(ValueError, match="search path"):
        postgres_run_store(client(database), schema="pipeline")


async def test_a_session_without_a_pooler_is_set_up_once(database: str) -> None:
    """A statement is then a transaction of its own, and stays prepared; every other form still has the settings."""
    async with (
        client(database, max_size=1, server_settings={"transaction_read_only": "on"}) as opened,
        opened.connection() as connection,
    ):
        sent: list[str] = []
        connection.add_query_logger(lambda record: sent.append(record.query))
        for _ in range(2):
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
        async with connection.transaction():
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql") > 0
        await asyncio.sleep(0)  # for the logger

    assert sum(query.startswith("BEGIN") for query in sent) == 1
    assert sum(query.startswith("SET ") for query in sent) == 1
