"""Loaded rows are the rows that were written, whatever their types."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import DataError
from pipeline_processing.model import FormatName
from tests.contract.postgres_destination.warehouse import (
    LOADED_FORMATS,
    METADATA,
    Warehouse,
    content,
    stage,
    warehouse_in,
)
from tests.contract.source.torture import SAMPLES, create, table

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLUMNS = ["id", "value", "list", "grid", "a pair", "pairs", "Domain"]
NO_INPUT = {"pg_dependencies", "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "pg_attrdef"}
"""Types that Postgres refuses to read in any form."""
NO_JSON_INPUT = {
    # Nested arrays are dimensions to json_to_recordset, also where they are documents, or values of a domain.
    "json", "jsonb", "json_domain", "int2vector", "oidvector", "array_domain",
    # Printed as JSON by a cast that nothing undoes.
    "hstore", "mood_as_json",
    # Postgres needs the binary form of a domain's type, and these have none.
    "aclitem", "gtsvector", "ean13", "ghstore", "gtrgm", "intbig_gkey", "isbn", "isbn13", "ismn", "ismn13", "issn",
    "issn13", "ltree_gist", "query_int", "seg", "upc",
}  # fmt: skip
"""Types of which some value can't be loaded from NDJSON. All of them can from CSV."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tortured(servers: EmbeddedServers) -> AsyncIterator[Warehouse]:
    """A database with a table of every type, and a schema to load copies of them into."""
    servers.postgres.create_database("warehouse_of_types")
    async with warehouse_in(servers.postgres.dsn("warehouse_of_types"), "copies") as opened:
        await opened.execute("SET search_path TO public")
        await create(opened.connection)
        yield opened


async def copied(warehouse: Warehouse, type_name: str, form: FormatName) -> None:
    """Load the type's table into an empty one like it, `copies.copied`."""
    original = f"public.{table(type_name)}"
    await warehouse.execute(
        f"DROP TABLE IF EXISTS copies.copied; CREATE TABLE copies.copied (LIKE {original});"
        "ALTER TABLE copies.copied ADD COLUMN agency_id bigint"
    )
    body = await warehouse.written(f"SELECT * FROM {original}", form)
    [(rows,)] = await warehouse.rows(f"SELECT count(*) FROM {original}")
    destination = warehouse.destination(tables={"records": "copied"})
    metadata = {**METADATA, "run-id": f"{form}-{list(SAMPLES).index(type_name)}"}
    staged = await stage(destination, body, content(COLUMNS, form), rows=rows, metadata=metadata)
    await destination.complete(staged, metadata=metadata)


async def test_every_type_comes_through_csv(tortured: Warehouse) -> None:
    """Every value is printed by Postgres as before: nothing is lost on the way."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    differing = []
    for type_name in SAMPLES.keys() - NO_INPUT - await unread(tortured):
        await copied(tortured, type_name, FormatName.CSV)
        query = f"SELECT r::text FROM (SELECT {names} FROM {{}}) AS r ORDER BY id"
        if await tortured.rows(query.format("copies.copied")) != await tortured.rows(
            query.format(f"public.{table(type_name)}")
        ):
            differing.append(type_name)
    assert not differing


async def test_every_type_comes_through_ndjson(tortured: Warehouse) -> None:
    """Every row gives the same JSON as before."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    differing = []
    for type_name in SAMPLES.keys() - NO_INPUT - NO_JSON_INPUT - await unread(tortured):
        await copied(tortured, type_name, FormatName.NDJSON)
        query = f"SELECT row_to_json(r)::text FROM (SELECT {names} FROM {{}}) AS r ORDER BY id"
        if await tortured.rows(query.format("copies.copied")) != await tortured.rows(
            query.format(f"public.{table(type_name)}")
        ):
            differing.append(type_name)
    assert not differing


@pytest.mark.parametrize("type_name", sorted(NO_JSON_INPUT))
async def test_what_ndjson_can_not_tell_is_refused(tortured: Warehouse, type_name: str) -> None:
    """Before the run is decided, never loaded as something else."""
    with pytest.raises(DataError, match="Dataset 'records'"):
        await copied(tortured, type_name, FormatName.NDJSON)


@pytest.mark.parametrize("form", LOADED_FORMATS)
async def test_values_are_those_that_were_written(tortured: Warehouse, form: FormatName) -> None:
    """Seen by a client of its own, not only by comparison."""
    await tortured.execute(
        "CREATE TYPE copies.point_of AS (x int, label text);"
        "CREATE TABLE copies.told (id int, agency_id text, amounts numeric[], document jsonb, raw json, nan numeric,"
        " tiny float8, bytes bytea, at timestamptz, day date, place copies.point_of, flag boolean, note text,"
        " none text)"
    )
    body = await tortured.written(
        r"""
        SELECT 1 AS id, ARRAY[1.50, NULL, 1e30] AS amounts, '{"b": [1.0, null, "é"]}'::jsonb AS document,
            '{"a" : 1e400}'::json AS raw, 'NaN'::numeric AS nan, 5e-324::float8 AS tiny, '\x00ff0a'::bytea AS bytes,
            'infinity'::timestamptz AS at, '0044-03-15 BC'::date AS day,
            ROW(1, 'a "b", (c)')::copies.point_of AS place, true AS flag,
            E'line\nline \\ "q", \t🦉' AS note, NULL AS none
        """,
        form,
    )
    columns = ["id", "amounts", "document", "raw", "nan", "tiny", "bytes", "at", "day", "place", "flag", "note", "none"]
    destination = tortured.destination(tables={"records": "told"})
    metadata = {**METADATA, "run-id": f"told-{form}"}
    staged = await stage(destination, body, content(columns, form), rows=1, metadata=metadata)
    await destination.complete(staged, metadata=metadata)

    [row] = await tortured.connection.fetch(
        "SELECT agency_id, amounts::text, document::text, raw::text, nan::text, tiny, bytes, at::text, day::text,"
        " (place).x, (place).label, flag, note, none FROM copies.told"
    )
    assert tuple(row)[:2] == ("7", "{1.50,NULL,1000000000000000000000000000000}")
    assert json.loads(row["document"]) == {"b": [1.0, None, "é"]}
    assert tuple(row)[3:] == (
        '{"a" : 1e400}',
        "NaN",
        5e-324,
        b"\x00\xff\n",
        "infinity",
        "0044-03-15 BC",
        1,
        'a "b", (c)',
        True,
        'line\nline \\ "q", \t🦉',
        None,
    )
    await tortured.execute("DROP TABLE copies.told; DROP TYPE copies.point_of")


async def unread(warehouse: Warehouse) -> set[str]:
    """Types that this server can't read: that of the wheel is built without libxml, and only prints xml."""
    with_xml = await warehouse.rows("SELECT FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%libxml%'")
    return set() if with_xml else {"xml"}
