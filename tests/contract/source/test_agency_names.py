"""Names of agencies come from the source, whatever their keys are."""

import asyncpg
import pytest

from pipeline_processing.app.agency_names import agency_names
from pipeline_processing.errors import QueryInvalid, SourceUnavailable
from pipeline_processing.settings.settings import Settings

QUERY = "SELECT id, name FROM named WHERE id = ANY($1)"


def settings(dsn: str, query: str | None = QUERY) -> Settings:
    return Settings.model_validate({"source": {"dsn": dsn, "agency_names": query}})


@pytest.mark.parametrize(
    ("kind", "key"), [("bigint", 7), ("uuid", "00000000-0000-0000-0000-000000000007"), ("text", "harbour")]
)
async def test_names_of_the_agencies_that_are_there(dsn: str, kind: str, key: int | str) -> None:
    """Each once; others have none."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"DROP TABLE IF EXISTS named; CREATE TABLE named (id {kind}, name text)")
        await connection.execute("INSERT INTO named VALUES ($1, 'Harbour Authority')", key)
    finally:
        await connection.close()
    other = {"bigint": 8, "uuid": "00000000-0000-0000-0000-000000000008", "text": "airport"}[kind]

    assert await agency_names(settings(dsn), [key, other, key]) == {key: "Harbour Authority"}
    assert await agency_names(settings(dsn), []) == {}
    assert await agency_names(settings(dsn, query=None), [key]) == {}


@pytest.mark.parametrize(
    ("kind", "known"), [("bigint", 7), ("uuid", "00000000-0000-0000-0000-000000000007"), ("text", "7")]
)
async def test_a_history_with_keys_of_several_kinds(dsn: str, kind: str, known: int | str) -> None:
    """As after a change of `agency_key`. Those that the query can't take have no names."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"DROP TABLE IF EXISTS named; CREATE TABLE named (id {kind}, name text)")
        await connection.execute("INSERT INTO named VALUES ($1, 'Harbour Authority')", known)
    finally:
        await connection.close()

    names = await agency_names(settings(dsn), [7, "harbour", "00000000-0000-0000-0000-000000000007"])

    assert {str(key): name for key, name in names.items()} == {str(known): "Harbour Authority"}


async def test_a_query_that_fails_is_an_error_of_ours(dsn: str) -> None:
    """So that the caller can go on without names. It can't write."""
    with pytest.raises(QueryInvalid):
        await agency_names(settings(dsn, "SELECT id, nonsense FROM nowhere WHERE id = ANY($1)"), [7])
    with pytest.raises(SourceUnavailable):
        await agency_names(settings("postgresql://127.0.0.1:1/none"), [7])
