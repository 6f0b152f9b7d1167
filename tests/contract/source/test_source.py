"""The Postgres source: one snapshot, bound arguments, errors that say what to do, and batches that fit."""

# ruff: noqa: E501 - queries and tables of samples

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.errors import AccessDenied, PipelineError, QueryFailed, QueryInvalid, SourceUnavailable
from pipeline_processing.ports import Batch, Batches
from pipeline_processing.postgres.source import MAX_BATCH_ROWS, PostgresSource
from tests.contract.source.helpers import dataset, export, export_all, parsed_csv, parsed_ndjson, postgres_source

pytestmark = pytest.mark.asyncio(loop_scope="module")

both_formats = pytest.mark.parametrize("form", ["ndjson", "csv"])
SLEEPING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"

both_forms = pytest.mark.parametrize("carry", ["json", "text"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def tables(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
        INSERT INTO accounts SELECT g, 100 FROM generate_series(1, 3000) g;
        CREATE TABLE secrets (id int);
        CREATE ROLE stranger LOGIN;
    """)


@asynccontextmanager
async def reading(source: PostgresSource, query: str, *, carry: str = "json", **options: Any) -> AsyncIterator[Batches]:
    """The batches of one query, in a snapshot of its own."""
    config = DatasetConfig.model_validate(dataset(query, **options))
    async with source.snapshot([config]) as snapshot, snapshot.rows(config, {}, carry=carry) as batches:
        yield batches


async def read(source: PostgresSource, query: str, **options: Any) -> list[Batch]:
    async with reading(source, query, **options) as batches:
        return [batch async for batch in batches]


# -- the snapshot --------------------------------------------------------------------------------


@both_forms
async def test_all_datasets_see_one_moment(carry: str, source: PostgresSource, connection: asyncpg.Connection):
    """What others commit after the snapshot was opened is seen by none of its datasets."""
    first = DatasetConfig.model_validate(dataset("SELECT sum(balance)::int AS total FROM accounts"))
    second = DatasetConfig.model_validate(dataset("SELECT balance FROM accounts", name="second"))
    before = await connection.fetchval("SELECT sum(balance) FROM accounts")

    async with source.snapshot([first, second]) as snapshot:
        await connection.execute("UPDATE accounts SET balance = balance + 1")
        async with snapshot.rows(first, {}, carry=carry) as batches:
            [[row]] = [batch async for batch in batches]
        async with snapshot.rows(second, {}, carry=carry) as batches:
            seen = 0
            async for batch in batches:
                await connection.execute("UPDATE accounts SET balance = balance + 1; DELETE FROM accounts WHERE id = 1")
                seen += sum(int(each["balance"]) for each in batch)
        assert await connection.fetchval("SELECT now() - $1 BETWEEN '0' AND '1 minute'", snapshot.taken_at)

    assert int(row["total"]) == seen == before


async def test_queries_are_planned_before_any_is_read(source: PostgresSource, connection: asyncpg.Connection):
    """A wrong query of the last dataset is found before the first row of the first is read."""
    await connection.execute("CREATE SEQUENCE reads")
    first = dataset("SELECT pg_sleep(30)")

    with pytest.raises(QueryInvalid, match=r"'second'.*nonsense"):
        async with asyncio.timeout(20):
            await export_all(source, [first, dataset("SELECT * FROM nonsense", name="second")])


@pytest.mark.parametrize(("carry", "other"), [("json", "text"), ("text", "json"), ("json", "json")])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, '{}'::int[] AS l FROM accounts",
        "SELECT g AS id, pg_sleep(CASE WHEN g < 6 THEN 0 ELSE 60 END)::text AS t FROM generate_series(1, 100) g",
    ],
)
async def test_leaving_early(
    query: str, carry: str, other: str, source: PostgresSource, connection: asyncpg.Connection
):
    """A dataset that isn't read to its end doesn't keep the next one of the snapshot from being read."""
    first = DatasetConfig.model_validate(dataset(query))
    second = DatasetConfig.model_validate(dataset("SELECT 5 AS n, ARRAY[1.50] AS l", name="second"))

    async with source.snapshot([first, second]) as snapshot:
        for _ in range(3):
            async with snapshot.rows(first, {}, carry=carry) as batches:
                await anext(batches)
                if "pg_sleep" in query:  # a cancellation that arrives before its query would be lost
                    await _until(connection, f"EXISTS ({SLEEPING})")
            async with snapshot.rows(second, {}, carry=other) as batches:
                [[row]] = [batch async for batch in batches]
            assert str(row["n"]) == "5"


async def test_a_slow_query_is_given_up_at_once(source: PostgresSource, connection: asyncpg.Connection):
    """Cancelling the run cancels its query on the server, and leaves no session behind."""
    reader = asyncio.create_task(read(source, "SELECT pg_sleep(60)"))
    await _until(connection, f"EXISTS ({SLEEPING})")

    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await reader

    await _until(
        connection,
        f"NOT EXISTS ({SLEEPING})",
    )


async def test_sessions_can_be_used_again_and_again(source: PostgresSource, connection: asyncpg.Connection):
    """Runs in both forms, successful and not, leave no session or transaction open."""
    for carry in ("json", "text", "json"):
        await read(source, "SELECT 1 AS a, now() AS b, '{}'::json AS c", carry=carry)
        with pytest.raises(QueryFailed):
            await read(source, "SELECT 1 / (id - id) AS a FROM accounts", carry=carry)

    await _until(
        connection,
        "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'test' AND state LIKE 'idle in transaction%')",
    )


# -- arguments -----------------------------------------------------------------------------------

INJECTIONS = [
    "'; DROP TABLE accounts; --", "1); DELETE FROM accounts; --", "$1", "$$; DROP TABLE accounts; $$", "\\'; --", "%s{0}",
    '"', "/*", "\n", "🦉", "", "null", "NaN", "'", "{agency_id}",
]  # fmt: skip


@both_formats
@pytest.mark.parametrize("text", INJECTIONS)
async def test_arguments_arrive_as_data(text: str, form: str, source: PostgresSource, connection: asyncpg.Connection):
    """Whatever a param holds, it is compared and returned, never read as SQL; inside '…' $1 stays $1."""
    written = await export(
        source,
        "SELECT $1::text AS a, $1 || 'x' AS b, '$1' AS c, ARRAY[$1::text] AS d, $2::int AS e",
        form,
        args=["x", "agency_id"],
        request={"params": {"x": text}, "agency_id": 7},
    )

    if form == "csv":
        [_, row] = parsed_csv(written)
        assert row[:3] == [text, text + "x", "$1"]
        assert row[4] == "7"
    else:
        [line] = parsed_ndjson(written)
        assert (line["a"], line["b"], line["c"], line["d"]) == (text, text + "x", "$1", [text])
    assert await connection.fetchval("SELECT count(*) > 0 FROM accounts")


FITTING: dict[str, tuple[Any, str, str | None]] = {
    # param, expression, the value as text
    "an integer": (5, "$1::int", "5"),
    "an integer as a bigint": (2**62, "$1::bigint", str(2**62)),
    "text for an integer": ("5", "$1::int", "5"),
    "an integer for text": (5, "$1::text", "5"),
    "a float": (1.5, "$1::float8", "1.5"),
    "a float for a numeric": (1.5, "$1::numeric", "1.5"),
    "text for a numeric": ("1234567890123456789012345678901234567890.50", "$1::numeric", "1234567890123456789012345678901234567890.50"),
    "an integer for a float": (5, "$1::float8", "5"),
    "a float for text": (1.5, "$1::text", "1.5"),
    "true": (True, "$1::bool", "true"),
    "false": (False, "$1::bool", "false"),
    "text for a boolean": ("no", "$1::bool", "false"),
    "a boolean for text": (True, "$1::text", "true"),
    "null for an integer": (None, "$1::int", None),
    "null for text": (None, "$1::text", None),
    "null for a time": (None, "$1::timestamptz", None),
    "text for a date": ("2026-01-18", "$1::date", "2026-01-18"),
    "text for a time": ("2026-01-18T10:00:00+02:00", "($1::timestamptz)", "2026-01-18 08:00:00+00"),
    "text for a uuid": ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "$1::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "text for json": ('{"a": [1, null]}', "($1::jsonb -> 'a' ->> 0)", "1"),
    "a boolean for json": (True, "($1::jsonb)::text", "true"),
    "text for an array, by a cast": ("{a,b}", "(($1::text)::text[])[2]", "b"),
    "text for an interval, by a cast": ("1 hour", "extract(epoch FROM ($1::text)::interval)::int", "3600"),
}  # fmt: skip


@both_formats
@pytest.mark.parametrize(("param", "expression", "expected"), FITTING.values(), ids=FITTING)
async def test_params_of_all_kinds(
    param: Any, expression: str, expected: str | None, form: str, source: PostgresSource
):
    """Params come as JSON or from a command line; they are fitted to what the query takes, alike for all formats."""
    written = await export(
        source, f"SELECT ({expression})::text AS a, ARRAY[1] AS l", form, args=["x"], request={"params": {"x": param}}
    )

    value = parsed_csv(written)[1][0] if form == "csv" else parsed_ndjson(written)[0]["a"]
    assert value == expected


UNFITTING: dict[str, tuple[Any, str]] = {
    "text for an integer": ("abc", "$1::int"),
    "an injection for an integer": ("1; DROP TABLE accounts", "$1::int"),
    "too large an integer": (2**40, "$1::int"),
    "a fraction for an integer": (1.5, "$1::int"),
    "text of a fraction for an integer": ("1.5", "$1::int"),
    "a boolean for an integer": (True, "$1::int"),
    "empty text for an integer": ("", "$1::int"),
    "text for a boolean": ("perhaps", "$1::bool"),
    "an integer for a boolean": (2, "$1::bool"),
    "text for a float": ("abc", "$1::float8"),
    "text for a numeric": ("abc", "$1::numeric"),
    "a boolean for a numeric": (True, "$1::numeric"),
    "text for a time": ("yesterdayish", "$1::timestamptz"),
    "a number for a time": (5, "$1::timestamptz"),
    "text for a date": ("2026-02-30", "$1::date"),
    "text for a uuid": ("abc", "$1::uuid"),
    "text for json": ("{", "$1::jsonb"),
    "text with a zero byte": ("a\0b", "$1::text"),
    "text for an array": ("{1,2}", "$1::int[]"),
    "text for an interval": ("1 hour", "$1::interval"),
    "a number for bytes": (5, "$1::bytea"),
}  # fmt: skip


@both_formats
@pytest.mark.parametrize(("param", "expression"), UNFITTING.values(), ids=UNFITTING)
async def test_params_that_do_not_fit(param: Any, expression: str, form: str, source: PostgresSource):
    """A param of the wrong type is the request's fault: QueryInvalid, which names dataset and remedy."""
    with pytest.raises(QueryInvalid, match="'records'") as raised:
        await export(source, f"SELECT {expression} AS a", form, args=["x"], request={"params": {"x": param}})

    assert raised.value.exit_code == 65
    assert not raised.value.retryable


@both_formats
async def test_built_in_arguments(form: str, source: PostgresSource):
    """agency_id, run_id, since and until can be named, in any order and more than once."""
    written = await export(
        source,
        "SELECT $2::bigint AS agency, $1::text AS run, $3::timestamptz AS since, $4::timestamptz IS NULL AS no_end, $5::int AS again",
        form,
        args=["run_id", "agency_id", "since", "until", "agency_id"],
        request={
            "agency_id": 2**31 - 1,
            "since": "2026-01-18T12:00:00.5+02:00",
        },
    )

    if form == "csv":
        assert parsed_csv(written)[1] == ["2147483647", "run-1", "2026-01-18 10:00:00.5+00", "t", "2147483647"]
    else:
        [line] = parsed_ndjson(written)
        assert line["run"] == "run-1"
        assert line["since"] == "2026-01-18T10:00:00.5+00:00"
        assert [line["agency"].value, line["again"].value, line["no_end"]] == [2147483647, 2147483647, True]


@both_formats
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "text"])
async def test_times_for_every_type_of_parameter(kind: str, form: str, source: PostgresSource):
    """since and until can be compared with any type of time, in UTC."""
    written = await export(
        source,
        f"SELECT to_char($1::{kind}::timestamp, 'YYYY-MM-DD') AS day",
        form,
        args=["until"],
        request={"until": "2026-01-18T23:30:00+00:00"},
    )

    assert (parsed_csv(written)[1][0] if form == "csv" else parsed_ndjson(written)[0]["day"]) == "2026-01-18"


@both_formats
@pytest.mark.parametrize(
    ("query", "args", "message"),
    [
        ("SELECT $1::int AS a", ["nonsense"], "nonsense.*agency_id, run_id, since, until"),
        ("SELECT $1::int AS a", [], "1 parameters.*names 0"),
        ("SELECT $1::int AS a, $2::int AS b", ["agency_id"], "2 parameters.*names 1"),
        ("SELECT 1 AS a", ["agency_id"], "0 parameters.*names 1"),
        ("SELECT $2::int AS a", ["agency_id"], "parameter"),
    ],
)
async def test_args_that_do_not_match_the_query(
    query: str, args: Sequence[str], message: str, form: str, source: PostgresSource
):
    """Unknown names, and too few or too many, are told with what there is."""
    with pytest.raises(QueryInvalid, match=message):
        await export(source, query, form, args=args)


# -- errors --------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM nonsense", "nonsense"),
        ("SELECT nonsense FROM accounts", "nonsense"),
        ("SELECT idd FROM accounts", "Hint.*accounts.id"),
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
    with pytest.raises(QueryInvalid, match=message) as raised:
        await read(source, query, carry=carry)

    assert "'records'" in str(raised.value)


@both_forms
async def test_failing_midway(carry: str, source: PostgresSource):
    """A query that fails after some rows is a reason in the data."""
    with pytest.raises(QueryFailed, match="division by zero") as raised:
        await read(source, "SELECT 1 / (2900 - id) AS a FROM accounts ORDER BY id", carry=carry)

    assert raised.value.exit_code == 1
    assert not raised.value.retryable


@both_forms
async def test_statement_timeout(carry: str, source: PostgresSource):
    """A dataset's limit ends its query, and only its own."""
    with pytest.raises(QueryFailed, match="statement_timeout"):
        await read(source, "SELECT pg_sleep(30)", carry=carry, statement_timeout="50ms")

    quick = DatasetConfig.model_validate(dataset("SELECT 1 AS a", statement_timeout="50ms"))
    slow = DatasetConfig.model_validate(dataset("SELECT pg_sleep(0.2)::text AS a", name="slow"))
    async with source.snapshot([quick, slow]) as snapshot:
        for config in (quick, slow):
            async with snapshot.rows(config, {}, carry=carry) as batches:
                assert len([batch async for batch in batches]) == 1


@both_forms
async def test_permission_denied(carry: str, dsn: str):
    """A table that the user may not read is a matter of access, not of the config."""
    async with postgres_source(dsn.replace("pipeline@", "stranger@")) as source:
        with pytest.raises(AccessDenied, match="secrets") as raised:
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

    with pytest.raises(SourceUnavailable) as raised:
        await read_on_without_the_session()

    assert raised.value.retryable
    assert await read(source, "SELECT 1 AS a", carry=carry)


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
async def test_batches_shrink_and_grow_with_the_rows(carry: str, source: PostgresSource):
    """After wide rows come narrow ones: batches grow again, by and by."""
    query = (
        "SELECT repeat('x', CASE WHEN g <= 10 THEN 1000000 ELSE 10 END) AS t FROM generate_series(1, 5000) g ORDER BY g"
    )
    sizes = [len(batch) for batch in await read(source, query, carry=carry)]

    assert sum(sizes) == 5000
    assert sizes[:7] == [4, 1, 1, 1, 1, 1, 1]
    assert max(sizes) == 1000


async def _until(connection: asyncpg.Connection, condition: str) -> None:
    """Wait for a condition in the database."""
    async with asyncio.timeout(15):
        while not await connection.fetchval(f"SELECT {condition}"):  # noqa: ASYNC110 - Postgres doesn't tell
            await asyncio.sleep(0.02)
