"""What goes wrong with a query says in which dataset, how far it was, and what to do."""

import asyncio

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.errors import AccessDenied, PipelineError, QueryFailed, QueryInvalid, SourceUnavailable
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.reading import config, postgres_source, read, reading, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASLEEP = "datname = current_database() AND wait_event = 'PgSleep'"
SLEEPING = f"SELECT FROM pg_stat_activity WHERE {ASLEEP}"

both_forms = pytest.mark.parametrize("carry", ["json", "text"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def tables(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE TABLE accounts (id int PRIMARY KEY);
        INSERT INTO accounts SELECT g FROM generate_series(1, 3000) g;
        CREATE TABLE secrets (id int);
        CREATE ROLE reader LOGIN;
        CREATE SEQUENCE numbers;
    """)


@both_forms
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM nonsense", "nonsense"),
        ("SELECT nonsense FROM accounts", "nonsense"),
        ("SELECT idd FROM accounts", "hint: Perhaps.*accounts.id"),
        ("SELEC 1", "SELEC"),
        ("SELECT 1 +", "syntax"),
        ("SELECT nonsense(1)", "nonsense"),
        ("SELECT 'abc'::int", "abc"),
        ("SELECT 1::nonsense", "nonsense"),
        ("SELECT id FROM nowhere.accounts", "nowhere"),
    ],
)
async def test_queries_that_cannot_be_planned(query: str, message: str, carry: str, source: PostgresSource):
    """Unknown tables, columns, functions, types and broken syntax are the config's fault, told in Postgres's words."""
    with pytest.raises(QueryInvalid, match=f"^Dataset 'records': .*{message}"):
        await read(source, query, carry=carry)


@both_forms
async def test_failing_midway(carry: str, source: PostgresSource):
    """A query that fails after some rows is a reason in the data; the error says after how many."""
    seen = 0

    async def read_all() -> None:
        nonlocal seen
        async with reading(source, "SELECT 1 / (2900 - id) AS a FROM accounts ORDER BY id", carry=carry) as batches:
            async for batch in batches:
                seen += len(batch)

    with pytest.raises(QueryFailed, match="division by zero") as raised:
        await read_all()

    assert 1000 < seen < 2900
    assert str(raised.value).startswith(f"Dataset 'records', after row {seen:,}: ")
    assert raised.value.exit_code == 1
    assert not raised.value.retryable


@both_forms
async def test_failing_at_once(carry: str, source: PostgresSource):
    """A query that fails before it gives a row says so too."""
    with pytest.raises(QueryFailed, match=r"^Dataset 'records', before its first row: .*division by zero"):
        await read(source, "SELECT 1 / (id - id) AS a FROM accounts", carry=carry)


@both_forms
async def test_statement_timeout(carry: str, source: PostgresSource):
    """A dataset's limit ends its query, and only its own; the error names both."""
    with pytest.raises(QueryFailed, match=r"'records', before its first row: .*`statement_timeout` is 0\.05s"):
        await read(source, "SELECT pg_sleep(30)", carry=carry, statement_timeout="50ms")

    datasets = {
        "quick": config("SELECT 1 AS a", statement_timeout="50ms"),
        "slow": config("SELECT pg_sleep(0.2)::text"),
    }
    async with source.snapshot(datasets) as snapshot:
        for name in datasets:
            async with snapshot.records(name, {}, carry=carry) as batches:
                assert len([batch async for batch in batches]) == 1


async def test_a_query_that_somebody_cancels(source: PostgresSource, connection: asyncpg.Connection):
    """It isn't told as a limit that the dataset doesn't have."""
    reader = asyncio.create_task(read(source, "SELECT pg_sleep(60)"))
    await until(connection, f"EXISTS ({SLEEPING})")
    await connection.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {ASLEEP}")

    with pytest.raises(QueryFailed, match="the query was cancelled"):
        await reader


@both_forms
@pytest.mark.parametrize(
    "query", ["SELECT nextval('numbers')", "WITH x AS (DELETE FROM accounts RETURNING id) TABLE x"]
)
async def test_writing(query: str, carry: str, source: PostgresSource):
    """The transaction is read-only, which shows when the query starts or when it is planned."""
    with pytest.raises(QueryInvalid, match=r"^Dataset 'records'.*read-only"):
        await read(source, query, carry=carry)


@both_forms
async def test_permission_denied(carry: str, dsn: str, reader: str):
    """A table that the user may not read is a matter of access, not of the config."""
    async with postgres_source(dsn.replace("pipeline@", "reader@"), reader=reader) as source:
        with pytest.raises(AccessDenied, match=r"'records': .*secrets") as raised:
            await read(source, "SELECT * FROM secrets", carry=carry)

    assert raised.value.exit_code == 77


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("pipeline@", "nobody_at_all@", AccessDenied),
        ("127.0.0.1", "127.0.0.1:1/", SourceUnavailable),
    ],
)
async def test_no_connection(old: str, new: str, error: type[PipelineError], dsn: str):
    """No server is transient, a wrong user isn't."""
    wrong = f"postgresql://pipeline@{new}postgres" if old == "127.0.0.1" else dsn.replace(old, new)
    async with postgres_source(wrong) as source:
        with pytest.raises(error) as raised:
            await read(source, "SELECT 1 AS a")

    assert raised.value.retryable is (error is SourceUnavailable)


@both_forms
async def test_a_session_that_is_ended_midway(carry: str, source: PostgresSource, connection: asyncpg.Connection):
    """A server that goes away while rows are read is transient, and the next run gets a new session."""
    many_rows = "SELECT g AS id, repeat('x', 1000) AS t FROM generate_series(1, 1000000) g"

    async def read_on_without_the_session() -> None:
        async with reading(source, many_rows, carry=carry) as batches:
            await anext(batches)
            await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'"
            )
            async for _ in batches:
                pass

    with pytest.raises(SourceUnavailable, match=r"^Dataset 'records', after row [\d,]+: ") as raised:
        await read_on_without_the_session()

    assert raised.value.retryable
    assert await read(source, "SELECT 1 AS a", carry=carry)
