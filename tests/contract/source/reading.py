"""The Postgres source as its port has it, and a plain session beside it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pipeline_processing.errors import SourceUnavailable
from pipeline_processing.ports import Batches, Rows
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.rows.lines import Lines
from pipeline_processing.rows.projection import Projection
from pipeline_processing.sources.postgres.copy_reader import NewDecoder, chosen_reader
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from pipeline_processing.sources.postgres.source import SESSION_SETTINGS, PostgresSource

READERS = ("copy", "cursor")


class RowBatches:
    """A source's batches, each record as a dict."""

    def __init__(self, batches: Batches) -> None:
        self.columns = batches.columns
        self._batches = batches

    def __aiter__(self) -> "RowBatches":
        return self

    async def __anext__(self) -> Rows:
        records = await anext(self._batches)
        assert not isinstance(records, Lines)
        return Projection.of(self.columns.names).rows(records)


@asynccontextmanager
async def postgres_source(dsn: str, *, reader: str = "copy", **options: Any) -> AsyncIterator[PostgresSource]:
    """A source as the service opens it, with one of its readers, "copy" or "cursor"."""
    async with DatabaseClient(
        dsn=dsn,
        unavailable=SourceUnavailable,
        application_name="test",
        server_settings=SESSION_SETTINGS,
    ) as database:
        yield PostgresSource(database=database, decoder=_decoder(reader), **options)


def _decoder(reader: str) -> NewDecoder | None:
    if reader == "cursor":
        return None
    decoder = chosen_reader().decoder
    assert decoder is not None, "the native decoder isn't built"
    return decoder


@asynccontextmanager
async def postgres(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session with the settings that the contract names."""
    connection = await asyncpg.connect(dsn, server_settings=dict(SESSION_SETTINGS))
    try:
        yield connection
    finally:
        await connection.close()


def config(query: str, **options: Any) -> PostgresSourceConfig:
    """A query's options, as a job config writes them."""
    return PostgresSourceConfig.model_validate({"query": query, **options})


@asynccontextmanager
async def reading(
    source: PostgresSource,
    query: str,
    *,
    carry: str = "json",
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[RowBatches]:
    """The batches of one query, as dataset `records` of a snapshot of its own."""
    async with (
        source.snapshot({"records": config(query, **options)}) as snapshot,
        snapshot.records("records", arguments or {}, carry=carry) as batches,
    ):
        yield RowBatches(batches)


async def read(source: PostgresSource, query: str, **options: Any) -> list[list[Any]]:
    """All batches of one query."""
    async with reading(source, query, **options) as batches:
        return [batch async for batch in batches]


async def until(connection: asyncpg.Connection, condition: str) -> None:
    """Wait for a condition in the database."""
    async with asyncio.timeout(15):
        while not await connection.fetchval(f"SELECT {condition}"):  # noqa: ASYNC110 - Postgres doesn't tell
            await asyncio.sleep(0.02)
