"""What is exported equals what Postgres itself prints, whatever the type: see Values in the contract."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.helpers import (
    copied_csv,
    copied_text,
    dataset,
    export_all,
    parsed_csv,
    parsed_ndjson,
    reimported,
    rows_to_json,
)
from tests.contract.source.reading import postgres_source
from tests.contract.source.torture import NO_INPUT, PSEUDO_TYPES, SAMPLES, create, table
from tests.pgbouncer import POOL_MODES

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLUMNS = ["id", "value", "list", "grid", "a pair", "pairs", "Domain"]
CHAINS: Mapping[str, list[dict[str, Any]]] = {
    "no steps": [],
    "select and filter": [{"select": COLUMNS}, {"filter": "true"}],
    "python steps": [
        {"python": "tests.contract.source.hooks:identity"},
        {"python": "tests.contract.source.hooks:copies"},
        {"select": COLUMNS},
        {"filter": "id >= 0"},
    ],
    "declared python steps": [
        {"python": {"function": "tests.contract.source.hooks:identity", "reads": COLUMNS[1:]}},
        {"python": {"function": "tests.contract.source.hooks:copies", "reads": COLUMNS[1:4]}},
    ],
}

WAYS = [("copy", "direct"), *(("copy", mode) for mode in POOL_MODES)]
every_chain = pytest.mark.parametrize("chain", CHAINS)


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    way: tuple[str, str] = request.param
    return way


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def torture(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A session of the database with all tables."""
    await create(connection)
    return connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exported(torture: asyncpg.Connection, source: PostgresSource) -> dict[tuple[str, str, str], bytes]:
    """(type, format, chain) → artifact. One run exports all tables, as a run with many datasets does."""
    return await _all_exported(source)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exported_by_cursor(torture: asyncpg.Connection, dsn: str) -> dict[tuple[str, str, str], bytes]:
    """The same, by the other reader."""
    async with postgres_source(dsn, reader="cursor") as source:
        return await _all_exported(source)


async def _all_exported(source: PostgresSource) -> dict[tuple[str, str, str], bytes]:
    names = {type_name: f"d{number}" for number, type_name in enumerate(SAMPLES)}
    artifacts = {}
    for form in ("ndjson", "csv"):
        for chain, steps in CHAINS.items():
            written = await export_all(
                source,
                [dataset(_query(each), name=name, format=form, steps=steps) for each, name in names.items()],
            )
            artifacts |= {(each, form, chain): written[name] for each, name in names.items()}
    return artifacts


def _query(type_name: str) -> str:
    return f"SELECT * FROM {table(type_name)} ORDER BY id"


async def test_no_type_is_forgotten(torture: asyncpg.Connection):
    """Every type of pg_catalog and of the extensions that can be a column has values in the torture."""
    types = await torture.fetch("""
        SELECT format_type(t.oid, NULL) AS name, t.typtype::text AS kind, t.typname::text AS plain FROM pg_type t
        WHERE (t.typnamespace = 'pg_catalog'::regnamespace OR EXISTS (
                SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass))
            AND t.typcategory <> 'A' AND (t.typtype <> 'c')
    """)
    known = {type_name.strip('"') for type_name in SAMPLES}

    assert {each["plain"] for each in types if each["kind"] == "p"} <= PSEUDO_TYPES
    assert {each["plain"] for each in types if each["kind"] != "p"} - known == set()
    assert {each["plain"] for each in types} >= PSEUDO_TYPES - {"_record", "anyarray"}


async def test_types_without_values_really_have_none(torture: asyncpg.Connection):
    """Only types whose every literal Postgres refuses go without values."""
    assert {type_name for type_name, samples in SAMPLES.items() if not samples} == NO_INPUT
    for type_name in NO_INPUT:
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="cannot accept a value"):
            await torture.execute(f"SELECT CAST('' AS {type_name})")


@every_chain
@pytest.mark.parametrize("form", ["ndjson", "csv"])
async def test_both_readers_write_the_same_bytes(
    form: str,
    chain: str,
    exported: Mapping[tuple[str, str, str], bytes],
    exported_by_cursor: Mapping[tuple[str, str, str], bytes],
):
    """So what the other tests say of COPY is true of a cursor, too."""
    different = [each for each in SAMPLES if exported[each, form, chain] != exported_by_cursor[each, form, chain]]
    assert different == []


@every_chain
async def test_ndjson_equals_row_to_json(
    chain: str, torture: asyncpg.Connection, exported: Mapping[tuple[str, str, str], bytes]
):
    """A line, parsed, equals row_to_json of the row, with all digits and repeated keys; steps don't change that."""
    lines = {each: parsed_ndjson(exported[each, "ndjson", chain]) for each in SAMPLES}

    expected = {each: await rows_to_json(torture, _query(each)) for each in SAMPLES}
    assert _differences(lines, expected) == {}


@every_chain
async def test_csv_equals_copy(chain: str, torture: asyncpg.Connection, exported: Mapping[tuple[str, str, str], bytes]):
    """The file, parsed, equals what COPY writes, nulls and empty strings told apart; steps don't change that."""
    rows = {each: parsed_csv(exported[each, "csv", chain]) for each in SAMPLES}

    expected = {each: parsed_csv(await copied_csv(torture, _query(each))) for each in SAMPLES}
    assert _differences(rows, expected) == {}


@pytest.mark.parametrize("type_name", SAMPLES)
async def test_csv_can_be_imported_again(
    type_name: str, torture: asyncpg.Connection, exported: Mapping[tuple[str, str, str], bytes]
):
    """COPY FROM reads the file back into equal rows, wherever it can read what COPY itself has written."""
    again = await reimported(torture, table(type_name), exported[type_name, "csv", "no steps"])

    expected = await reimported(torture, table(type_name), await copied_csv(torture, _query(type_name)))
    assert again == expected
    if isinstance(expected, bytes):
        assert again == await copied_text(torture, table(type_name))


def _differences(found: Mapping[str, list[Any]], expected: Mapping[str, list[Any]]) -> dict[str, list[str]]:
    """Type → rows found and expected, of the types where they differ."""
    return {
        each: [f"{a!r:.500} != {b!r:.500}" for a, b in zip_longest(found[each], expected[each]) if a != b]
        for each in expected
        if found[each] != expected[each]
    }
