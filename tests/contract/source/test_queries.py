"""Whatever a query looks like, its rows arrive in its order, under its column names, with its values."""

# ruff: noqa: E501 - tables of samples

import asyncpg
import pytest

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.helpers import (
    copied_csv,
    export,
    parsed_csv,
    parsed_ndjson,
    rows_to_json,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

both_formats = pytest.mark.parametrize("form", ["ndjson", "csv"])

NAMES = [
    "select", "a b", "ключ", 'a"b', '"', "a,b", "a\nb", "a\r\nb", "\\", "'", "%s", "$1", "{x}", "🦉", "A", "a", "q", "format",
    "x" * 63, " ", "null", "?column?",
]  # fmt: skip

QUERIES = {
    "a semicolon": "SELECT 1 AS a, ARRAY[2] AS b;",
    "two semicolons and a comment": "SELECT 1 AS a, ARRAY[2] AS b; ;\n-- done; really",
    "a comment without a line end": "SELECT 1 AS a, ARRAY[2] AS b -- ;",
    "nested comments": "/* ; /* ' */ ; */ SELECT 1 AS a, ARRAY[2] /* \" */ AS b /* ) q; */ ; /* ; */",
    "semicolons in strings": """SELECT ';' AS a, E'\\';' AS b, $$;'"$$ AS c, $x$ $$; $x$ AS d, U&'\\003b;' AS e, ARRAY[1] AS ";";""",
    "a common table expression": "WITH x AS (SELECT g, ARRAY[g] AS l FROM generate_series(1, 3) g) SELECT * FROM x",
    "a recursive one": "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i, ARRAY[i] FROM n",
    "values": "VALUES (1, ARRAY['a']), (2, NULL)",
    "table": "TABLE pg_am",
    "union and order": "SELECT 2 AS i, ARRAY[1] AS l UNION ALL SELECT 1, NULL ORDER BY i",
    "limit and offset": "SELECT g, point(g, g) FROM generate_series(1, 9) g ORDER BY g DESC LIMIT 3 OFFSET 2",
    "operators": r"""SELECT '{"a": [1]}'::jsonb @> '{"a": []}' AS "?", '{"a":{"b":1}}'::jsonb #> '{a,b}' AS b,
        '{"a": 1}'::jsonb ? 'a' AS c, jsonb_path_query('{"a": 1}', '$.a') AS d, 5 !~~ '6' IS NULL AS e""".replace("5 !~~ '6'", "'5' !~~ '6'"),
    "number and bit literals": "SELECT 1_000 AS a, 0xFF AS b, B'101' AS c, X'1F' AS d, 1e10 AS e, .5 AS f, INTERVAL '1' DAY AS g",
    "a set-returning function": "SELECT generate_series(1, 3) AS i, ARRAY[1] AS l",
    "anonymous records": "SELECT ROW(1, 'a b', NULL) AS r, ARRAY[ROW(1, ROW(2, NULL)), NULL] AS rs, ROW() AS nothing",
    "rows of a table": "SELECT a, amname FROM pg_am a ORDER BY amname",
    "window, group and having": "SELECT count(*) AS n, array_agg(g ORDER BY g DESC) AS l, row_number() OVER (ORDER BY g % 3)"
    " FROM generate_series(1, 9) g GROUP BY g % 3 HAVING count(*) > 1 ORDER BY 3",
    "unknown literals and nulls": "SELECT 'text' AS a, NULL AS b, ARRAY[NULL] AS c",
    "lateral": "SELECT a.i, b.* FROM generate_series(1, 3) a(i), LATERAL (SELECT ARRAY[a.i, i], i * 2) b(l, d) ORDER BY 1",
}  # fmt: skip


@both_formats
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_all_forms_of_queries(query: str, form: str, source: PostgresSource, connection: asyncpg.Connection):
    """A query is taken as it is written: semicolons, comments, quotes of all kinds, anything that gives rows."""
    await _check(source, connection, query, form)


@both_formats
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM pg_stats WHERE tablename = 'pg_class' ORDER BY attname",
        "SELECT 1 AS i, pg_sleep(0) AS nothing",
        "SELECT textout('a,b') AS c_string, ARRAY[ROW(1, 2)] AS records",
        "SELECT pg_typeof(1) AS t, 'x' AS was_unknown, NULL AS nothing",
    ],
)
async def test_results_that_no_table_can_have(
    query: str, form: str, source: PostgresSource, connection: asyncpg.Connection
):
    """Pseudo-types that a query can return are exported as Postgres prints them."""
    await _check(source, connection, query, form)


@both_formats
@pytest.mark.parametrize("kind", ["int", "text", "int[]"])
async def test_all_names_of_columns(kind: str, form: str, source: PostgresSource, connection: asyncpg.Connection):
    """A column may have any name that Postgres allows, whether its values are carried or rendered."""
    columns = ", ".join(f"'{{1}}'::text::{kind}" if kind != "int" else "1" for _ in NAMES)
    aliases = ", ".join('"' + name.replace('"', '""') + '"' for name in NAMES)

    await _check(source, connection, f"SELECT * FROM (SELECT {columns}) AS t ({aliases})", form)


@both_formats
async def test_a_thousand_columns(form: str, source: PostgresSource, connection: asyncpg.Connection):
    """Wide results are nothing special."""
    columns = ", ".join(f"{i} AS c{i}, ARRAY[{i}] AS l{i}" for i in range(500))

    await _check(source, connection, f"SELECT {columns} FROM generate_series(1, 3)", form)


@both_formats
async def test_order_is_kept(form: str, source: PostgresSource):
    """ORDER BY holds over many batches, with columns that Postgres renders and with steps."""
    query = "SELECT g AS id, ARRAY[g] AS l FROM generate_series(1, 5000) g ORDER BY (g * 7919) % 5003"
    written = await export(source, query, form, [{"select": ["id"]}, {"filter": "id > 0"}])

    ids = [line["id"].value for line in parsed_ndjson(written)] if form == "ndjson" else parsed_csv(written)[1:]
    expected = sorted(range(1, 5001), key=lambda g: (g * 7919) % 5003)
    assert ids == (expected if form == "ndjson" else [[str(i)] for i in expected])


@both_formats
async def test_a_megabyte_of_text(form: str, source: PostgresSource, connection: asyncpg.Connection):
    """Very long values arrive whole, in one line."""
    hard = r"""repeat(E'a"\\\n,🦉', 100000)"""

    await _check(source, connection, f"SELECT 1 AS i, {hard} AS t, to_jsonb({hard}) AS j, ARRAY[{hard}] AS l", form)


@both_formats
async def test_no_rows(form: str, source: PostgresSource):
    """Without rows there is a CSV header, and nothing in NDJSON; steps that decide columns row by row or not."""
    query = 'SELECT 1 AS a, ARRAY[2] AS "b c" WHERE false'

    for steps in ([], [{"filter": "a > 5"}], [{"python": "tests.contract.source.hooks:identity"}]):
        assert await export(source, query, form, steps) == (b"" if form == "ndjson" else b"a,b c\n")


@pytest.mark.parametrize("values", ["(NULL)", "('')", "(''), (NULL), ('x'), (NULL), ('')", "('\\.'), (NULL)"])
@pytest.mark.parametrize("steps", [[], [{"python": "tests.contract.source.hooks:identity"}]])
async def test_csv_of_a_single_column(
    values: str, steps: list[dict[str, str]], source: PostgresSource, connection: asyncpg.Connection
):
    """A single null is an empty line and a single empty string a quoted one; COPY reads both back."""
    query = f"SELECT v FROM (VALUES {values}) AS t (v)"
    written = await export(source, query, "csv", steps)

    assert parsed_csv(written) == parsed_csv(await copied_csv(connection, query))
    async with connection.transaction():
        await connection.execute("CREATE TEMP TABLE back (v text) ON COMMIT DROP")
        await connection.copy_to_table("back", source=_once(written), format="csv", header=True)
        assert await connection.fetch("SELECT v FROM back") == await connection.fetch(query)


@both_formats
async def test_a_column_of_nulls(form: str, source: PostgresSource, connection: asyncpg.Connection):
    """Null stays null, whatever the type of the column, and a composite of nulls isn't null."""
    await _check(
        source,
        connection,
        "SELECT NULL::int AS a, NULL::text AS b, NULL::int[] AS c, ROW(NULL) AS d, NULL::json AS e",
        form,
    )


@both_formats
@pytest.mark.parametrize("query", ["SELECT 1 AS a, 2 AS b, 3 AS a", "SELECT 1, 2", "SELECT ARRAY[1] AS x, 1 AS x;"])
async def test_two_columns_of_one_name(query: str, form: str, source: PostgresSource):
    """Rows are named values, so a name that comes twice is refused before anything is read."""
    with pytest.raises(QueryInvalid, match="two columns named"):
        await export(source, query, form)


@both_formats
@pytest.mark.parametrize("query", ["SELECT", "SELECT FROM pg_class", "SET LOCAL enable_sort TO off", ";"])
async def test_no_columns(query: str, form: str, source: PostgresSource):
    """A query that gives no columns is refused."""
    with pytest.raises(QueryInvalid, match="returns no columns"):
        await export(source, query, form)


@both_formats
@pytest.mark.parametrize(
    "query", ["SELECT 1; SELECT 2", "SELECT 1) AS q; SELECT (2", "SELECT 1 /*", "SELECT 'a", "nonsense"]
)
async def test_what_is_not_one_query(query: str, form: str, source: PostgresSource):
    """Several statements, or none, are refused."""
    with pytest.raises(QueryInvalid):
        await export(source, query, form)


@both_formats
@pytest.mark.parametrize("query", ["SHOW server_version", "EXPLAIN SELECT 1", "EXPLAIN (FORMAT json) SELECT 1"])
async def test_statements_that_give_rows(query: str, form: str, source: PostgresSource):
    """Statements other than SELECT work where they return rows."""
    assert await export(source, query, form)


@both_formats
async def test_a_query_cannot_write(form: str, source: PostgresSource, connection: asyncpg.Connection):
    """The transaction is read-only."""
    await connection.execute("CREATE TABLE IF NOT EXISTS untouchable (i int, l int[])")
    for query in ("DELETE FROM untouchable RETURNING i", "INSERT INTO untouchable VALUES (1, '{}') RETURNING *"):
        with pytest.raises(QueryInvalid, match=r"read-only|INTO"):
            await export(source, query, form)


async def _check(source: PostgresSource, connection: asyncpg.Connection, query: str, form: str) -> None:
    """Compare with what Postgres prints. It takes the bare query in brackets, so it gets it without a semicolon."""
    written = await export(source, query, form)
    if form == "csv":
        assert parsed_csv(written) == parsed_csv(await copied_csv(connection, _bare(query) + "\n"))
    else:
        assert parsed_ndjson(written) == await rows_to_json(connection, _bare(query))


def _bare(query: str) -> str:
    """The query without what may stand behind it, by the simplest means: the tests' own queries are known."""
    for end in ("; ;\n-- done; really", " ; /* ; */", ";"):
        if query.endswith(end):
            return query.removesuffix(end)
    return query


async def _once(data: bytes):
    yield data
