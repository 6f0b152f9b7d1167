"""Parquet has the types of the query's columns, and their values."""

from decimal import Decimal
from io import BytesIO
from typing import Any

import asyncpg
import duckdb
import pyarrow.parquet
import pytest

from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.helpers import copied_csv, export, parsed_csv

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def rows_of(source: PostgresSource, query: str, *steps: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Types and rows, as DuckDB has them."""
    table = pyarrow.parquet.read_table(BytesIO(await export(source, query, "parquet", steps)))
    with duckdb.connect() as database:
        found = database.register("rows", table).execute("FROM rows")
        return [str(column[1]) for column in found.description], found.fetchall()


async def test_numbers_are_exact(source: PostgresSource, connection: asyncpg.Connection):
    """Decimals where precision and scale are known: of a column, a cast or a domain. Else text."""
    await connection.execute("CREATE DOMAIN price AS numeric(12, 2)")
    query = (
        "SELECT 1.5::numeric(38, 10) AS a, 2::price AS b, 3.10::numeric AS c, 1.0 + 1::numeric(5, 2) AS d, "
        "1200::numeric(2, -2) AS e, (0.5)::numeric(1000, 500) AS f, 7::int2 AS g"
    )

    types, rows = await rows_of(source, query)
    await connection.execute("DROP DOMAIN price")

    assert types == ["DECIMAL(38,10)", "DECIMAL(12,2)", "VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"]
    half = "0.5" + "0" * 499
    assert rows == [(Decimal("1.5"), Decimal("2"), "3.10", "2.00", "1200", half, 7)]


async def test_types_follow_the_steps(source: PostgresSource):
    """Columns that are renamed or left out keep their types; those that are computed have that of the expression."""
    query = "SELECT g AS id, (g / 4.0)::numeric(8, 3) AS amount, g % 2 = 0 AS even FROM generate_series(1, 4) AS g"
    steps: list[dict[str, Any]] = [
        {"rename": {"amount": "price"}},
        {"filter": "even"},
        {"derive": {"same": "price", "twice": "price * 2", "day": "date '2026-01-18'"}},
        {"cast": {"id": "text"}},
        {"drop": ["even"]},
    ]

    types, rows = await rows_of(source, query, *steps)

    assert types == ["VARCHAR", "DECIMAL(8,3)", "DECIMAL(8,3)", "VARCHAR", "DATE"]
    assert [row[:4] for row in rows] == [
        ("2", Decimal("0.5"), Decimal("0.5"), "1.000"),
        ("4", Decimal(1), Decimal(1), "2.000"),
    ]


async def test_values_without_a_type_are_as_in_csv(source: PostgresSource, connection: asyncpg.Connection):
    """Arrays, ranges, composites, bytes and JSON are what COPY prints, null told from the empty string."""
    query = (
        "SELECT ARRAY[g::text, NULL, 'a,b'] AS a, int4range(g, 9) AS b, ROW(g, 'x') AS c, decode('00ff', 'hex') AS d, "
        "jsonb_build_object('n', g) AS e, nullif('', repeat('x', g % 2)) AS f, interval '1 day' AS h "
        "FROM generate_series(1, 3) AS g"
    )

    _, rows = await rows_of(source, query)

    assert [list(row) for row in rows] == parsed_csv(await copied_csv(connection, query))[1:]
