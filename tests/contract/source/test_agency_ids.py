"""The agencies of a schedule, read by a query."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import QueryFailed, QueryInvalid, SourceUnavailable
from pipeline_processing.sources.postgres.agency_ids import PostgresAgencyIds
from pipeline_processing.sources.postgres.source import source_database

pytestmark = pytest.mark.asyncio(loop_scope="module")

UUID = "018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agency_ids(source_dsn: str, connection: asyncpg.Connection) -> AsyncIterator[PostgresAgencyIds]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS agencies (id bigint, active boolean); TRUNCATE agencies;"
        "INSERT INTO agencies VALUES (7, true), (3, true), (9223372036854775807, true), (5, false), (7, true)"
    )
    async with source_database(SecretStr(source_dsn), connections=1) as database:
        yield PostgresAgencyIds(database=database)


async def test_the_ids_come_in_the_querys_order_each_once(agency_ids: PostgresAgencyIds) -> None:
    """As committed at that moment."""
    query = "SELECT id FROM agencies WHERE active ORDER BY id"
    assert await agency_ids.listed(query) == [3, 7, 9223372036854775807]
    assert await agency_ids.listed("SELECT 1::smallint WHERE false") == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT id FROM nowhere", r'relation "nowhere" does not exist .SQLSTATE 42P01.. Correct it in the triggers'),
        ("SELECT", "This one returns nothing"),
        ("SELECT id, active FROM agencies", r"This one returns id \(int8\), active \(bool\)"),
        ("SELECT 'x' AS id", r"This one returns id \(text\)"),
        ("SELECT $1::int AS id", "take no parameters"),
        ("SELECT null::int AS id", "returned null"),
        ("SELECT 0 AS id", "returned 0"),
        ("INSERT INTO agencies VALUES (1) RETURNING id", "read-only transaction"),
    ],
)
async def test_a_query_of_something_else_is_told(agency_ids: PostgresAgencyIds, query: str, message: str) -> None:
    """With what it returns."""
    with pytest.raises(QueryInvalid, match=message):
        await agency_ids.listed(query)


async def test_a_query_that_fails_is_told(agency_ids: PostgresAgencyIds) -> None:
    """And the next one works."""
    with pytest.raises(QueryFailed, match="division by zero"):
        await agency_ids.listed("SELECT (1 / (id - id))::int FROM agencies")
    assert await agency_ids.listed("SELECT 1") == [1]


async def test_a_server_that_cant_be_reached_is_transient() -> None:
    """The schedule asks again."""
    async with source_database(SecretStr("postgresql://u@127.0.0.1:1/d"), connections=1) as database:
        with pytest.raises(SourceUnavailable):
            await PostgresAgencyIds(database=database).listed("SELECT 1")


async def test_agencies_may_be_uuids_or_texts(source_dsn: str) -> None:
    """The column has the type that the job config says."""
    async with source_database(SecretStr(source_dsn), connections=1) as database:
        uuids = PostgresAgencyIds(database=database, agency_key=AgencyKey.UUID)
        texts = PostgresAgencyIds(database=database, agency_key=AgencyKey.TEXT)

        assert await uuids.listed(f"SELECT '{UUID.upper()}'::uuid") == [UUID]
        assert await texts.listed("SELECT unnest(ARRAY['acme/eu', '7'])") == ["acme/eu", "7"]
        with pytest.raises(QueryInvalid, match=r"of type uuid, as the job config's `agency_key` says"):
            await uuids.listed("SELECT 7")
        with pytest.raises(QueryInvalid, match=r"which are text, which must have .* and returned  a"):
            await texts.listed("SELECT ' a'")
