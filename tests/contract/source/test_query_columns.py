"""What is said of a query's columns without a server is what Postgres says."""

# ruff: noqa: E501 - tables of queries

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.sources.postgres.query_columns import names_of_query
from tests.contract.source.reading import postgres
from tests.properties import examples

COMPLETE = [
    "SELECT a FROM t",
    "SELECT A, t.B, public.t.c FROM t",
    'SELECT "Upper", t."Upper" AS upper, \'x\' AS "a""b", 1 AS "a,b", 2 AS " " FROM t',
    "SELECT a x, b AS Y, C FROM t",
    "SELECT ALL a, b FROM t",
    "SELECT DISTINCT a FROM t",
    "SELECT DISTINCT ON (a, b) a, c AS d FROM t ORDER BY a, b",
    "SELECT a FROM t UNION SELECT b AS z FROM t",
    "SELECT a FROM t EXCEPT SELECT * FROM (VALUES (1)) v",
    "(SELECT a, b FROM t) UNION ALL (SELECT b, a FROM t ORDER BY 1 LIMIT 1) ORDER BY 1",
    "((SELECT a FROM t))",
    "SELECT a AS one FROM t UNION ALL SELECT b FROM t INTERSECT SELECT 1 AS two",
    "WITH x AS (SELECT * FROM t) SELECT a AS z, b FROM x",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
    "SELECT q.s FROM (SELECT a AS s FROM t) q",
    "SELECT (SELECT a FROM t LIMIT 1) AS first, EXISTS (SELECT FROM t) some_",
    "SELECT count(*) n, sum(length(c)) OVER w AS s FROM t GROUP BY c WINDOW w AS (ORDER BY c)",
    "SELECT a FROM t FOR UPDATE",
    "SELECT a FROM t FETCH FIRST 3 ROWS ONLY",
    "SELECT a, l.v FROM t, LATERAL (SELECT b AS v) l",
    "SELECT $1::int AS agency, $2 || 'x' AS text",
    "SELECT t FROM t",
    "SELECT user, current_catalog AS here",
    "SELECT E'\\'' AS a, $$x, y$$ b, $q$ z AS w $q$ AS c, U&'\\0061' AS d, B'1' AS e, X'F' f",
    "SELECT a::text AS t1, cast(a AS int) t2, date '2020-01-01' d, timestamp with time zone '2020-01-01' z FROM t",
    "SELECT interval '1' day i, extract(year FROM now()) y, now() AT TIME ZONE 'utc' z, position('a' IN 'b') p",
    "SELECT '{\"a\":1}'::jsonb -> 'a' AS j, '{}'::jsonb @> '{}' k, '{\"a\":1}'::jsonb ? 'a' AS l, ARRAY[1] m, ROW(1) r",
    "SELECT 1 AS ключ, 2 AS КЛЮЧ, 3 AS É, 4 AS é",
    f"SELECT 1 AS {'x' * 80}, 2 AS {'y' * 62}я",
    "SELECT a$b, _c FROM (VALUES (1, 2)) v (a$b, _c)",
    "SELECT a AS all, b AS end, c AS value FROM t",
    "SELECT name, value, type, key, year, month, day, date, comment, status, position, level FROM words",
    "SELECT a /* , hidden */ , -- b,\n c AS d FROM t; ;",
    "SELECT\n\ta\n, b\nFROM t\n;\n-- done; really",
    "SELECT a AS q FROM t GROUP BY CUBE (a)",
    "SELECT NOT true AS no, a IS NULL AS nothing, a BETWEEN 1 AND 2 AS between_ FROM t",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) AS median, count(*) FILTER (WHERE a > 1) f FROM t",
    "SELECT x.i FROM generate_series(1, 2) AS x (i)",
    "SELECT json_build_object('a', 1) j, json_object('a': 1) AS k, c COLLATE \"C\" AS l FROM t",
    "SELECT a FROM t TABLESAMPLE SYSTEM (10)",
]

INCOMPLETE = [
    "SELECT *, 1 AS more FROM t",
    "SELECT t.*, words.name FROM t, words",
    "SELECT count(*), a FROM t GROUP BY a",
    "SELECT 1, a FROM t",
    "SELECT a::text, b FROM t",
    "SELECT cast(a AS int), '1'::numeric, b FROM t",
    "SELECT CASE WHEN a > 1 THEN a END, b FROM t",
    "SELECT CASE WHEN a > 1 THEN 1 ELSE b END, c FROM t",
    "SELECT coalesce(a, b), c FROM t",
    "SELECT (SELECT b FROM t LIMIT 1), a FROM t",
    "SELECT EXISTS (SELECT FROM t), a FROM t",
    "SELECT ARRAY[1], a FROM t",
    "SELECT (a), b FROM t",
    "SELECT ((t)).a, b FROM t",
    "SELECT (t).*, 1 AS more FROM t",
    "SELECT (ARRAY[1, 2])[1], a FROM t",
    "SELECT c COLLATE \"C\", a FROM t",
    "SELECT now() AT TIME ZONE 'utc', a FROM t",
    "SELECT current_date, current_user, a FROM t",
    "SELECT date '2020-01-01', a FROM t",
    "SELECT true, a FROM t",
    "SELECT ROW(1, 2), a FROM t",
    "SELECT json_build_object('a', 1), a FROM t",
    "SELECT * FROM t UNION SELECT * FROM t",
    "SELECT 0o17, 1_000, 0xFF",
    "SELECT generate_series(1, 2), a FROM t",
    "VALUES (1, 2)",
    "TABLE t",
    "SHOW server_version",
    "EXPLAIN SELECT 1 AS a",
]  # fmt: skip


class Database(NamedTuple):
    """A database with two tables, to be asked from tests that aren't coroutines."""

    runner: asyncio.Runner
    connection: asyncpg.Connection

    def names(self, query: str) -> list[str]:
        """The query's columns as Postgres names them."""
        statement = self.runner.run(self.connection.prepare(query))
        return [attribute.name for attribute in statement.get_attributes()]


@pytest.fixture(scope="module")
def database(dsn: str) -> Iterator[Database]:
    with asyncio.Runner() as runner:
        session = postgres(dsn)
        connection = runner.run(session.__aenter__())
        runner.run(
            connection.execute("""
                CREATE TABLE t (a int, b int, c text, "Upper" text);
                CREATE TABLE words (name text, value text, type text, key text, year int, month int, day int, date date,
                                    comment text, status text, position int, level int);
            """)
        )
        yield Database(runner, connection)
        runner.run(session.__aexit__(None, None, None))


@pytest.mark.parametrize("query", COMPLETE)
def test_queries_with_plain_names(query: str, database: Database) -> None:
    """All names, in order."""
    columns = names_of_query(query)

    assert columns.complete
    assert list(columns.names) == database.names(query)


@pytest.mark.parametrize("query", INCOMPLETE)
def test_queries_with_names_that_postgres_works_out(query: str, database: Database) -> None:
    """Nothing that isn't so, and that something is missing."""
    columns = names_of_query(query)

    assert not columns.complete
    assert set(columns.names) <= set(database.names(query))


ALIASES = st.sampled_from(["x", "Y", '"Z z"', '"a"', "été", "end_", "value", "type", "n1", "_", '"1"', "count"])
EXPRESSIONS = st.sampled_from([
    "a", "t.a", "t.B", '"Upper"', "public.t.c", "t", "1", "1.5", "'x'", "E'\\''", "$$,$$", "NULL", "true", "a + 1", "-a", "a::text",
    "cast(b AS bigint)", "count(*) OVER ()", "coalesce(a, b)", "CASE WHEN a > 1 THEN b END", "CASE WHEN true THEN 1 ELSE a END",
    "(a)", "(t).a", "(SELECT 1 AS inner_)", "EXISTS (SELECT 1)", "ARRAY[a]", "(ARRAY[a])[1]", "ROW(a, b)", "current_date",
    "current_user", "user", "c COLLATE \"C\"", "c || c", "a BETWEEN 1 AND 2", "a IS NULL", "a IN (1, 2)", "c LIKE 'x'",
    "interval '1' day", "date '2020-01-01'", "extract(year FROM now())", "now() AT TIME ZONE 'utc'", "0x1F", "1_000", "1e5", ".5",
    "*", "t.*", "(t).*", "lower(c)", "upper(c)::varchar(3)", "row_number() OVER (ORDER BY a)", "to_json(t) -> 'a'", "NOT true",
    "greatest(a, b)", "nullif(a, b)", "xmlelement(name foo)", "a /* , z */", "b -- AS y\n", "substring(c FROM 1 FOR 2)", "trim(c)",
])  # fmt: skip
ITEMS = st.builds(
    lambda expression, alias: expression if alias is None or "*" in expression[-2:] else f"{expression} {alias}",
    EXPRESSIONS,
    st.none() | ALIASES.map(lambda name: f"AS {name}") | ALIASES,
)
FRAMES = st.sampled_from([
    "SELECT {} FROM t", "(SELECT {} FROM t)", "SELECT {} FROM t WHERE a > 0 ORDER BY 1;", "WITH t AS (SELECT * FROM t) SELECT {} FROM t",
    "SELECT {} FROM t UNION ALL SELECT {} FROM t", "(SELECT {} FROM t LIMIT 1) EXCEPT ALL (SELECT {} FROM t)",
    "WITH x AS (SELECT 1 AS hidden) (SELECT {} FROM t)", "SELECT ALL {} FROM t",
])  # fmt: skip


@examples(400)
@given(items=st.lists(ITEMS, min_size=1, max_size=4), frame=FRAMES)
def test_generated_queries(database: Database, items: list[str], frame: str) -> None:
    """Whatever stands in a SELECT: the names that are told are right, and complete only if they are all there are."""
    query = frame.replace("{}", ", ".join(items))
    try:
        names = database.names(query)
    except asyncpg.PostgresError:
        return  # such as a UNION of json, or `*` beside what has no alias of its own
    columns = names_of_query(query)

    if columns.complete:
        assert list(columns.names) == names
    else:
        assert set(columns.names) <= set(names)
