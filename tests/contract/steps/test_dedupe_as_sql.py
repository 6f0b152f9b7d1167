"""`dedupe` keeps exactly the rows that Postgres's DISTINCT ON keeps, and `unique` fails where UNIQUE would."""

import asyncio

import pytest

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import ExpectationFailed, InvalidStep
from pipeline_processing.steps.dedupe import Dedupe, DedupeOptions
from pipeline_processing.steps.expectations import Unique
from pipeline_processing.steps.step import Batch
from tests.contract.source.reading import postgres, postgres_source, reading
from tests.unit.steps.step_context import context

DATABASE = "duplicates"
TABLE = """
CREATE TYPE mood AS ENUM ('zen', 'angry');
CREATE TABLE things AS
SELECT row_number() OVER () AS id, i, n, f, r, t, t::char(4) AS c, t::varchar AS v, b, ts, ts::timestamp AS plain, d, u,
    m
FROM (
    SELECT
        ('{0,1,-1,NULL,2147483647,1}'::int[])[1 + g % 6] AS i,
        ('{0,-0.00,1.5,1.50,NULL,NaN,Infinity,-Infinity,0.1,1,1.0,1e2,100.000,12345678901234567890123456789.5}'
            ::numeric[])[1 + g % 14] AS n,
        ('{0,-0,1.5,NULL,NaN,Infinity,-Infinity,0.1,1e300,5e-324,0.30000000000000004,1e23,9.999999999999999e22}'
            ::float8[])[1 + g % 13] AS f,
        ('{0,-0,0.1,NULL,NaN,16777216,1e-45}'::real[])[1 + g % 7] AS r,
        (ARRAY['', 'a', 'A', 'a ', NULL, 'é', E'e\\u0301', '1:a', 'null', '-', '🦉'])[1 + g % 11] AS t,
        ('{t,f,NULL}'::bool[])[1 + g % 3] AS b,
        (ARRAY['2026-01-18 10:00:00+00', '2026-01-18 12:00:00+02', '2026-01-18 10:00:00.5+00', NULL, 'infinity',
            '-infinity', '4713-01-01 00:00:00 BC', '10000-01-01 00:00:00', '10000-01-01 00:00:00+00']
            ::timestamptz[])[1 + g % 9] AS ts,
        (ARRAY['2026-01-18', '2026-01-17', NULL, 'infinity', '-infinity', '0044-03-15 BC', '0044-03-15', '12026-01-18']
            ::date[])[1 + g % 8] AS d,
        (ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', NULL]
            ::uuid[])[1 + g % 3] AS u,
        (ARRAY['zen', 'angry', NULL]::mood[])[1 + g % 3] AS m
    FROM generate_series(0, 199) g) AS made
"""  # fmt: skip
KEYS = [
    *(("i",), ("n",), ("f",), ("r",), ("t",), ("c",), ("v",), ("b",), ("ts",), ("plain",), ("d",), ("u",), ("m",)),
    *(("i", "n"), ("t", "c"), ("b", "m", "u"), ("r", "d"), ("i", "ts", "b")),
]


@pytest.fixture(scope="module")
def dsn(servers: EmbeddedServers) -> str:
    servers.postgres.create_database(DATABASE)
    asyncio.run(_filled(servers.postgres.dsn(DATABASE)))
    return servers.postgres.dsn(DATABASE)


async def _filled(dsn: str) -> None:
    async with postgres(dsn) as connection:
        await connection.execute(TABLE)


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("by", KEYS, ids=", ".join)
async def test_the_first_row_of_each_key(dsn: str, by: tuple[str, ...], carry: str) -> None:
    """Of every type that compares, alone and together, in both forms."""
    names = ", ".join(by)
    async with postgres(dsn) as connection:
        distinct = f"SELECT DISTINCT ON ({names}) id FROM things ORDER BY {names}, id"
        wanted = await connection.fetch(f"SELECT id FROM ({distinct}) AS first ORDER BY id")

    kept, read = [], 0
    async with (
        postgres_source(dsn, batch_bytes=2000) as source,
        reading(source, "SELECT * FROM things ORDER BY id", carry=carry) as batches,
        Dedupe(DedupeOptions(by=by), context(batches.columns, carry=carry)) as step,
    ):
        async for rows in batches:
            after = await step(Batch.read(rows, first=read + 1))
            read += len(rows)
            kept += [int(row["id"]) for row in after.rows]

    assert kept == [row["id"] for row in wanted]
    assert step.filtered == read - len(kept) > 0


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("by", KEYS, ids=", ".join)
async def test_where_a_unique_index_would_fail(dsn: str, by: tuple[str, ...], carry: str) -> None:
    """At the first row, by its place, that equals an earlier one; nulls equal nothing."""
    names = ", ".join(by)
    nulls = " OR ".join(f"{name} IS NULL" for name in by)
    async with postgres(dsn) as connection:
        repeated = (
            f"SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY {names} ORDER BY id) AS nth FROM things "
            f"WHERE NOT ({nulls})) AS numbered WHERE nth > 1 ORDER BY id LIMIT 1"
        )
        first = await connection.fetchval(repeated)

    read = 0
    async with (
        postgres_source(dsn) as source,
        reading(source, "SELECT * FROM things ORDER BY id", carry=carry) as batches,
        Unique(by, context(batches.columns, carry=carry)) as step,
    ):
        with pytest.raises(ExpectationFailed, match=f"row {first}:"):  # noqa: PT012 - the batches come one by one
            async for rows in batches:
                await step(Batch.read(rows, first=read + 1))
                read += len(rows)


@pytest.mark.parametrize(
    "expression", ["'{}'::json", "'{}'::jsonb", "'{1}'::int[]", "'1 day'::interval", "int4range(1, 2)"]
)
@pytest.mark.parametrize("carry", ["json", "text"])
async def test_types_that_do_not_compare_here(dsn: str, expression: str, carry: str) -> None:
    """They are refused rather than compared by their text, which for some of them isn't what SQL does."""
    async with (
        postgres_source(dsn) as source,
        reading(source, f"SELECT {expression} AS x", carry=carry) as batches,
    ):
        with pytest.raises(InvalidStep, match="can't compare the values of column 'x'"):
            Dedupe(DedupeOptions(by=("x",)), context(batches.columns, carry=carry))
