"""`enrich_table` gives rows what a LEFT JOIN gives them, whatever the types, in both forms."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from msgspec import Raw

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import InvalidStep, QueryFailed, QueryInvalid, SourceUnavailable, StepFailed
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import LookupTable, Row, Rows
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.sources.postgres.lookup import PostgresLookup
from pipeline_processing.sources.postgres.source import SESSION_SETTINGS, PostgresSource
from pipeline_processing.steps.enrich_table import EnrichTable, EnrichTableOptions
from pipeline_processing.steps.step import Batch
from pipeline_processing.usage import Usage, use
from tests.contract.source.reading import postgres, postgres_source, reading, until
from tests.unit.steps.step_context import CollectedErrors, context

pytestmark = pytest.mark.asyncio(loop_scope="module")
both_forms = pytest.mark.parametrize("carry", ["json", "text"])

TABLES = """
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('zen', 'an"gry\\', 'NULL');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE statuses (code text PRIMARY KEY, label text);
INSERT INTO statuses VALUES ('new', 'New'), ('old', 'Old'), ('', 'Empty'), ('NULL', 'Not null');
CREATE TABLE rich (id int PRIMARY KEY, n numeric, f float8, j jsonb, j2 json, ts timestamptz, plain timestamp, d date,
    b bool, u uuid, ints int[], texts text[], m mood, i interval, bin bytea, nothing text, c char(4));
INSERT INTO rich VALUES
    (1, 1.500, 1e23, '{"a": [1.10, null]}', '{"b":\n 1.00}', '2026-01-18 10:00:00.5+02', 'infinity', '0044-03-15 BC',
     true, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{1,NULL}', '{a,"b c"}', 'an"gry\\', '1 day', '\\x00ff', NULL, 'ab'),
    (2, 'NaN', '-Infinity', '"text"', 'null', '-infinity', '12026-01-18', 'infinity', false, NULL, '{}', NULL, NULL,
     NULL, NULL, 'x', '');
"""


@dataclass
class Lookups:
    """Services with one database; what is still open is in `tables`."""

    dsn: str
    secrets: dict[str, str] = field(default_factory=dict)
    tables: list[PostgresLookup] = field(default_factory=list)
    asked: list[Sequence[Any]] = field(default_factory=list)

    @asynccontextmanager
    async def lookup(self, query: str, *, secret: str | None, carry: str) -> AsyncIterator[LookupTable]:
        dsn = self.dsn if secret is None else self.secrets[secret]
        async with (
            DatabaseClient(
                dsn=dsn,
                unavailable=SourceUnavailable,
                application_name="lookup",
                server_settings=SESSION_SETTINGS,
                max_size=1,
            ) as database,
            PostgresLookup(database=database, query=query, carry=carry) as table,
        ):
            self.tables.append(table)
            find = table.find

            async def noted(keys: Sequence[Any]) -> Rows:
                self.asked.append(keys)
                return await find(keys)

            table.find = noted  # type: ignore[method-assign]  # to see what is asked
            try:
                yield table
            finally:
                self.tables.remove(table)


@pytest.fixture(scope="module")
def dsn(servers: EmbeddedServers) -> str:
    servers.postgres.create_database("enrich_table")
    return servers.postgres.dsn("enrich_table")


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with postgres(dsn) as opened:
        await opened.execute(TABLES)
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def source(dsn: str) -> AsyncIterator[PostgresSource]:
    async with postgres_source(dsn) as opened:
        yield opened


@pytest.fixture
def lookups(dsn: str) -> Lookups:
    return Lookups(dsn)


# -- helpers -------------------------------------------------------------------------------------


async def rows_of(source: PostgresSource, query: str, carry: str) -> tuple[Columns, Rows]:
    """What the source gives."""
    async with reading(source, query, carry=carry) as batches:
        return batches.columns, [row async for batch in batches for row in batch]


@asynccontextmanager
async def step(
    lookups: Lookups, columns: Columns, carry: str = "json", errors: CollectedErrors | None = None, **options: Any
) -> AsyncIterator[EnrichTable]:
    """The step, open."""
    built = EnrichTable(
        EnrichTableOptions.model_validate(options),
        context(columns, carry=carry, services=lookups, row_errors=errors),  # type: ignore[arg-type]  # what it uses
    )
    async with built as opened:
        yield opened


async def enriched(
    source: PostgresSource, lookups: Lookups, rows: str, carry: str, **options: Any
) -> tuple[Columns, Rows]:
    """Rows of a query through the step."""
    columns, read = await rows_of(source, rows, carry)
    async with step(lookups, columns, carry, **options) as opened:
        batch = await opened(Batch.read(read, first=1))
        return opened.columns, batch.rows


def comparable(rows: Rows) -> list[Row]:
    """msgspec's Raw says nothing of its content."""
    return [
        {name: ("raw", bytes(value)) if isinstance(value, Raw) else value for name, value in row.items()}
        for row in rows
    ]


def texts(*values: str) -> tuple[Columns, Rows]:
    """Rows with one column `status`, as any source would carry them."""
    return Columns((column_of_kind("status", Kind.TEXT, "json"),)), [{"status": value} for value in values]


BY_CODE = {"query": "SELECT code, label FROM statuses WHERE code = ANY($1)", "on": "status", "key": "code"}
LABEL = {**BY_CODE, "add": {"label": "label"}}


# -- values --------------------------------------------------------------------------------------


@both_forms
async def test_every_type_arrives_as_the_source_would_carry_it(source: PostgresSource, lookups: Lookups, carry: str):
    """Exact numbers, documents, times beyond Python's, arrays and the rest, with the types later steps go by."""
    names = ["n", "f", "j", "j2", "ts", "plain", "d", "b", "u", "ints", "texts", "m", "i", "bin", "nothing", "c"]
    rows = "SELECT * FROM (VALUES (1, 1), (2, 2), (3, 1), (4, 7), (5, NULL)) AS r (nr, of)"
    joined = f"""
        SELECT nr, of, {", ".join(f"rich.{name} AS x_{name}" for name in names)}
        FROM ({rows}) AS r LEFT JOIN rich ON rich.id = r.of ORDER BY nr
    """
    columns, found = await enriched(
        source,
        lookups,
        rows,
        carry,
        query="SELECT * FROM rich WHERE id = ANY($1)",
        on="of",
        key="id",
        add={f"x_{name}": name for name in names},
    )

    expected_columns, expected = await rows_of(source, joined, carry)
    assert comparable(found) == comparable(expected)
    assert columns.names == expected_columns.names
    for column, other in zip(columns, expected_columns, strict=True):
        assert (column.kind, column.typed) == (other.kind, True)
        assert column.natural is other.natural
        assert (column.comparison is None) is (other.comparison is None)


async def test_added_columns_come_from_what_was_looked_for(source: PostgresSource, lookups: Lookups):
    """So that masking one of them masks its origin among the rejected rows."""
    columns, _ = await enriched(source, lookups, "SELECT 'new' AS status", "json", **LABEL)

    label = columns.find("label")
    assert label is not None
    assert (label.origins, label.unchanged) == (frozenset({"status"}), False)


# -- keys ----------------------------------------------------------------------------------------

KEYS: dict[str, tuple[str, str, list[str | None]]] = {
    # name: type of the rows' keys, type of the table's, keys in both
    "text": ("text", "text", ["a", "A", "a ", "", "NULL", "it's", 'q"q', "b\\s", "{a,b}", "É", "🦉", "$1", None]),
    "varchar": ("text", "varchar(9)", ["a", "a ", None]),
    "text rows with char(n)": ("text", "char(4)", ["a", "a ", "", None]),
    "char(n) rows with text": ("char(4)", "text", ["a", "a ", "", None]),
    "char(n)": ("char(6)", "char(4)", ["a", "", "abcd", None]),
    "name": ("name", "name", ["a", "", None]),
    "int2": ("int2", "int2", ["0", "-32768", "32767", None]),
    "int4": ("int4", "int4", ["0", "-1", "2147483647", None]),
    "int8": ("int8", "int8", ["0", "-9223372036854775808", "9223372036854775807", None]),
    "int8 with int2": ("int8", "int2", ["1", "2", None]),
    "int4 with numeric": ("int4", "numeric", ["1", "0", None]),
    "numeric with int4": ("numeric", "int4", ["1", "2", "0", None]),
    "numeric": ("numeric", "numeric", ["1", "1.50", "-0.001", "1e40", "123456789012345678901.25", "NaN", "Infinity"]),
    "float8": ("float8", "float8", ["0.1", "1e300", "5e-324", "NaN", "-Infinity", "1e23", "0", None]),
    "float8 with numeric": ("float8", "numeric", ["0.1", "1.5", "1e23", None]),
    "numeric with float8": ("numeric", "float8", ["0.1", "1.5", "1e23", "NaN", None]),
    "int8 with float8": ("int8", "float8", ["1", "9007199254740993", None]),
    "float4": ("float4", "float4", ["0.1", "3e38", "NaN", None]),
    "bool": ("bool", "bool", ["t", "f", None]),
    "uuid": ("uuid", "uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12", None]),
    "date": ("date", "date", ["2026-01-18", "0044-03-15 BC", "12026-01-18", "infinity", "-infinity", None]),
    "timestamp": (
        "timestamp",
        "timestamp",
        ["2026-01-18 10:00:00.5", "0044-03-15 BC", "infinity", "12026-01-18", None],
    ),
    "timestamptz": (
        "timestamptz",
        "timestamptz",
        ["2026-01-18 10:00:00.123456+02", "0044-03-15 10:00+00 BC", "-infinity", "12026-01-18 00:00+00", None],
    ),
    "enum": ("mood", "mood", ["zen", 'an"gry\\', "NULL", None]),
    "text with enum": ("text", "mood", ["zen", 'an"gry\\', "NULL", None]),
    "domain": ("int4", "positive", ["1", "2", None]),
}
ELSEWHERE: dict[str, list[str]] = {
    # keys of rows that no record has, and that may not even be of the table's type
    "text": ["aa", " a", "é"],
    "name": ["b"],
    "int8 with int2": ["32768", "-9223372036854775808"],
    "numeric with int4": ["1.5", "NaN", "Infinity", "2147483648", "1e40"],
    "int4 with numeric": ["2"],
    "numeric": ["1.51", "-Infinity"],
    "float8 with numeric": ["0.2", "Infinity"],
    "numeric with float8": ["0.30000000000000001"],
    "text with enum": ["Zen", ""],
    "domain": ["0", "-1"],
}


@both_forms
@pytest.mark.parametrize("name", KEYS)
async def test_keys_meet_where_postgres_says_they_are_equal(
    source: PostgresSource, lookups: Lookups, connection: asyncpg.Connection, carry: str, name: str
):
    """Whatever the key's type, as `=` has it on the same rows; nulls meet nothing."""
    row_type, table_type, keys = KEYS[name]
    table = f"keys_{list(KEYS).index(name)}_{carry}"
    await connection.execute(f"CREATE TABLE {table} (key {table_type}, found text)")
    await connection.execute(f"CREATE TABLE {table}_rows (nr serial, of {row_type})")
    for key in keys:
        await connection.execute(f"INSERT INTO {table} SELECT CAST($1::text AS {table_type}), 'found ' || $1", key)
    for key in [*keys, *ELSEWHERE.get(name, [])]:
        await connection.execute(f"INSERT INTO {table}_rows (of) SELECT CAST($1::text AS {row_type})", key)
    # char(n) has one key for both 'a' and 'a '
    await connection.execute(f"DELETE FROM {table} a USING {table} b WHERE a.key = b.key AND a.ctid > b.ctid")
    equal = "r.of::text = t.key::text" if name == "text with enum" else "r.of = t.key"
    joined = f"SELECT r.nr, r.of, t.found FROM {table}_rows r LEFT JOIN {table} t ON {equal} ORDER BY nr"

    _, found = await enriched(
        source,
        lookups,
        f"SELECT nr, of FROM {table}_rows ORDER BY nr",
        carry,
        query=f"SELECT key, found FROM {table} WHERE key = ANY($1)",
        on="of",
        key="key",
        add={"found": "found"},
    )

    _, expected = await rows_of(source, joined, carry)
    assert comparable(found) == comparable(expected)
    assert any(row["found"] is not None for row in found)


async def test_each_key_is_asked_for_once(source: PostgresSource, lookups: Lookups):
    """Distinct keys of a batch go out together; what was found, or wasn't, isn't asked for again."""
    columns, rows = texts("new", "gone", "new", "old")
    async with step(lookups, columns, **LABEL) as opened:
        use(usage := Usage())
        for _ in range(3):
            batch = await opened(Batch.read([dict(row) for row in rows], first=1))

    assert 0 < usage.bytes_read < 1000
    assert usage.database_seconds > 0
    assert [row["label"] for row in batch.rows] == ["New", None, "New", "Old"]
    assert [sorted(keys) for keys in lookups.asked] == [["gone", "new", "old"]]


async def test_values_of_unknown_type_are_read_as_literals(lookups: Lookups):
    """What a python step left finds its record as a literal of SQL would; what can't be of the type is a row error."""
    errors = CollectedErrors()
    columns = Columns((Column("of", typed=False),))
    options = {"query": "SELECT id, c FROM rich WHERE id = ANY($1)", "on": "of", "key": "id", "add": {"c": "c"}}
    async with step(lookups, columns, errors=errors, **options) as opened:
        rows: Rows = [{"of": value} for value in (1, "2", 1.0, 1.5, "x", None, True, [1])]
        batch = await opened(Batch.read(rows, first=1))

    assert [row["c"] for row in batch.rows] == ["ab  ", "    ", "ab  ", None, None]
    assert [number for number, _, _ in errors.rejected] == [5, 7, 8]
    assert {reason for _, reason, _ in errors.rejected} == {
        "its 'of' isn't of the type of the key that it is looked up by"
    }


# -- injection -----------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE statuses; --",
    '"',
    "\\",
    "\\'",
    "$1",
    "$$",
    "{new}",
    "new,old",
    '{"new"}',
    "%s",
    "new\nold",
    "new\0old",
    "half \ud800",
    "NULL",
    "🦉",
    "'||(SELECT label FROM statuses LIMIT 1)||'",
]


@both_forms
async def test_keys_are_values_and_nothing_else(lookups: Lookups, connection: asyncpg.Connection, carry: str):
    """Whatever a key holds, it is looked for as it is, or can't be there; no SQL, and no other key, comes of it."""
    await connection.execute("DROP TABLE IF EXISTS hostile; CREATE TABLE hostile (code text, label text)")
    storable = [key for key in HOSTILE if "\0" not in key and "\ud800" not in key]
    await connection.executemany("INSERT INTO hostile VALUES ($1, $2)", [(key, key[::-1]) for key in storable])
    columns, rows = texts(*HOSTILE)
    options = {**LABEL, "query": "SELECT code, label FROM hostile WHERE code = ANY($1)"}
    async with step(lookups, columns, carry, **options) as opened:
        batch = await opened(Batch.read(rows, first=1))

    assert [row["label"] for row in batch.rows] == [key[::-1] if key in storable else None for key in HOSTILE]
    assert await connection.fetchval("SELECT count(*) FROM statuses") == 4


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT code, label FROM nowhere WHERE code = ANY($1)", "nowhere"),
        ("SELECT code, label FROM statuses WHERE code = $1", "is a text, but a lookup's is a list"),
        ("SELECT code, label FROM statuses", "has 0 parameters"),
        ("SELECT code, label FROM statuses WHERE code = ANY($1) AND label = $2", "has 2 parameters"),
        ("SELECT bin::text AS code, i AS label FROM rich WHERE bin = ANY($1)", "list of bytea"),
        ("SELECT code, label FROM statuses WHERE $1 IS NULL", "data type of parameter"),
        ("SELECT code, code FROM statuses WHERE code = ANY($1)", "two columns named 'code'"),
        ("SELECT FROM statuses WHERE code = ANY($1)", "no columns"),
    ],
)
async def test_queries_that_are_no_lookups(lookups: Lookups, query: str, message: str):
    """They are refused when the step opens, and leave nothing open."""
    with pytest.raises(QueryInvalid, match=message):
        async with step(lookups, texts("new")[0], **{**LABEL, "query": query}):
            pass
    assert lookups.tables == []


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO statuses SELECT unnest($1::text[]), 'x' RETURNING code, label",
        "UPDATE statuses SET label = 'x' WHERE code = ANY($1) RETURNING code, label",
        "DELETE FROM statuses WHERE code = ANY($1) RETURNING code, label",
    ],
)
async def test_lookups_change_nothing(lookups: Lookups, connection: asyncpg.Connection, query: str):
    """Each runs in a read-only transaction."""
    before = await connection.fetch("SELECT * FROM statuses ORDER BY 1")
    columns, rows = texts("new")
    with pytest.raises(QueryInvalid, match="read only sql transaction"):
        async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
            await opened(Batch.read(rows, first=1))

    assert await connection.fetch("SELECT * FROM statuses ORDER BY 1") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "nonsense"}, "reads 'nonsense', but its query gives code, label"),
        ({"add": {"x": "nonsense"}}, "reads 'nonsense', but its query gives code, label"),
        (
            {"query": "SELECT id AS code, c AS label FROM rich WHERE id = ANY($1)"},
            "looks for 'status', a text, in 'code', a number.*casts",
        ),
        (
            {"query": "SELECT j AS code, c AS label FROM rich WHERE id = ANY($1)"},
            "can't compare values of 'code', a column of its query",
        ),
        ({"add": {"status": "label"}}, "would replace the column 'status'"),
    ],
)
async def test_steps_that_fit_neither_rows_nor_query(lookups: Lookups, options: dict[str, Any], message: str):
    """Names and types are checked before the first row."""
    with pytest.raises(InvalidStep, match=message):
        async with step(lookups, texts("new")[0], **{**LABEL, **options}):
            pass
    assert lookups.tables == []


async def test_keys_that_are_not_what_the_query_takes(lookups: Lookups):
    """A cast of the parameter to another type than the key's is told as such, and not as a missing key."""
    columns, rows = texts("new")
    options = {**LABEL, "query": "SELECT code, label FROM statuses WHERE length(code) = ANY($1)"}
    with pytest.raises(QueryInvalid, match=r"takes a list of int4 as \$1, but the rows have keys of another type"):
        async with step(lookups, columns, **options) as opened:
            await opened(Batch.read(rows, first=1))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'new' AS code, g::text AS label FROM generate_series(1, 2) g WHERE 'new' = ANY($1)",
        "SELECT 'new' AS code, g::text AS label FROM generate_series(1, 10000000) g WHERE 'new' = ANY($1)",
    ],
)
async def test_two_records_with_one_key_fail_the_step(lookups: Lookups, query: str):
    """Which one a row gets would be chance; however many there are, they aren't all read. No key is told."""
    columns, rows = texts("new", "x", "y")
    with pytest.raises(StepFailed, match=r"ambiguous|share a key") as failed:
        async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
            await opened(Batch.read(rows, first=1))
    assert "new" not in str(failed.value)


async def test_records_that_nobody_asked_for_are_left_alone(lookups: Lookups):
    """A query that folds case may find another key than the one it was asked for: that isn't the row's."""
    columns, rows = texts("NEW", "new", "OLD")
    options = {**LABEL, "query": "SELECT code, label FROM statuses WHERE code::citext = ANY($1::citext[])"}
    async with step(lookups, columns, **options) as opened:
        batch = await opened(Batch.read(rows, first=1))

    assert [row["label"] for row in batch.rows] == [None, "New", None]


# -- connections ---------------------------------------------------------------------------------


async def test_a_query_that_fails(lookups: Lookups):
    """It is a reason in the data, named by its condition; the next batch finds the connection usable."""
    columns, rows = texts("new", "0")
    label = "(1 / (CASE WHEN '0' = ANY($1) THEN 0 ELSE 1 END))::text AS label"
    query = f"SELECT code, {label} FROM statuses WHERE code = ANY($1)"
    async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
        with pytest.raises(QueryFailed, match="division by zero"):
            await opened(Batch.read(rows, first=1))
        batch = await opened(Batch.read(rows[:1], first=1))
    assert batch.rows[0]["label"] == "1"


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("code::int = 1", "invalid text representation (SQLSTATE 22P02)"),
        ("raise_with(code)", "(SQLSTATE P0001)"),
    ],
)
async def test_no_error_quotes_a_value(lookups: Lookups, connection: asyncpg.Connection, condition: str, told: str):
    """Postgres's own words do, in the message, the hint or the context; neither message nor traceback repeats them."""
    await connection.execute(
        """
        CREATE OR REPLACE FUNCTION raise_with(code text) RETURNS bool LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no %', code USING HINT = code, DETAIL = code; END $$
        """
    )
    columns, rows = texts("jane@doe.example")
    query = f"SELECT code, code AS label FROM unnest($1::text[]) AS code WHERE {condition}"
    with pytest.raises(QueryFailed) as failed:
        async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
            await opened(Batch.read(rows, first=1))

    assert told in str(failed.value)
    assert "jane" not in "".join(traceback.format_exception(failed.value))


async def test_a_connection_that_the_server_ended_is_opened_again(
    lookups: Lookups, connection: asyncpg.Connection, dsn: str
):
    """Between two batches a lookup is idle, and some servers end what is."""
    columns, rows = texts("new", "old")
    async with step(lookups, columns, **LABEL) as opened:
        await opened(Batch.read(rows[:1], first=1))
        table = lookups.tables[0]
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lookup'"
        )
        async with asyncio.timeout(10):
            while not table.is_closed:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        batch = await opened(Batch.read(rows, first=1))
    assert [row["label"] for row in batch.rows] == ["New", "Old"]


async def test_a_server_that_is_gone(lookups: Lookups, connection: asyncpg.Connection):
    """It is worth another attempt of the run."""
    columns, rows = texts("new")
    lookups.secrets["other"] = "postgresql://pipeline@127.0.0.1:1/none"
    with pytest.raises(SourceUnavailable):
        async with step(lookups, columns, **LABEL, dsn="other"):
            pass

    query = "SELECT code, pg_terminate_backend(pg_backend_pid())::text AS label FROM statuses WHERE code = ANY($1)"
    with pytest.raises(SourceUnavailable):
        async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
            await opened(Batch.read(rows, first=1))
    assert lookups.tables == []


async def test_no_connection_is_left(lookups: Lookups, connection: asyncpg.Connection):
    """A batch that is broken off leaves neither a query nor a session behind, and the pool is empty after."""
    columns, rows = texts("new")
    query = "SELECT code, label FROM statuses WHERE code = ANY($1) AND pg_sleep(600) IS NOT NULL"
    mine = "FROM pg_stat_activity WHERE application_name = 'lookup'"
    async with step(lookups, columns, **{**LABEL, "query": query}) as opened:
        asking = asyncio.create_task(opened(Batch.read(rows, first=1)))
        await until(connection, f"EXISTS (SELECT {mine} AND wait_event = 'PgSleep')")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await until(connection, f"NOT EXISTS (SELECT {mine})")
