"""A Postgres whose tables a destination loads, what is in them, and how tests write to them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.destinations.tables.destination import SESSION_SETTINGS, PostgresDestination
from pipeline_processing.destinations.tables.options import PostgresDestinationConfig
from pipeline_processing.errors import DestinationUnavailable
from pipeline_processing.model import Compression, CsvOptions, FormatName
from pipeline_processing.plan import Artifact, UploadRef
from pipeline_processing.ports import Content, Destination, UploadStarted
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.identifiers import quoted

LOADED_FORMATS = (FormatName.NDJSON, FormatName.CSV)
TAKEN_AT = datetime(2026, 1, 18, 10, tzinfo=UTC)
METADATA = {"run-id": "r-1", "agency-id": "7", "attempt": "1", "trace-id": "0" * 32}
OTHER_RUN = {**METADATA, "run-id": "r-2"}
KEY = "agency_id=7/run_id=r-1/records"


@dataclass
class Warehouse:
    """A database with a schema of the test's own, seen by a session of its owner."""

    dsn: str
    schema: str
    database: DatabaseClient
    connection: asyncpg.Connection

    def destination(self, *, agency_key: AgencyKey = AgencyKey.INTEGER, **options: Any) -> PostgresDestination:
        """As another worker has it."""
        return self.on(self.database, agency_key=agency_key, **options)

    def on(
        self, database: DatabaseClient, *, agency_key: AgencyKey = AgencyKey.INTEGER, **options: Any
    ) -> PostgresDestination:
        config = PostgresDestinationConfig.model_validate({"dsn": "warehouse_dsn", "schema": self.schema, **options})
        return PostgresDestination(database=database, config=config, agency_key=agency_key)

    async def execute(self, sql: str) -> None:
        """With the schema as search path."""
        await self.connection.execute(sql)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query)]

    async def staging(self) -> list[str]:
        """Names of the staging tables that there are."""
        tables = "SELECT relname FROM pg_class WHERE relnamespace = $1::text::regnamespace AND relname LIKE '\\_pp\\_%'"
        rows = await self.connection.fetch(f"{tables} AND relkind = 'r'", quoted(self.schema))
        return [row[0] for row in rows]

    async def until(self, condition: str) -> None:
        """Wait for a condition in the database."""
        async with asyncio.timeout(15):
            while not await self.connection.fetchval(f"SELECT {condition}"):  # noqa: ASYNC110 - Postgres doesn't tell
                await asyncio.sleep(0.02)

    async def written(self, query: str, form: FormatName, options: CsvOptions = CsvOptions()) -> bytes:  # noqa: B008 - frozen
        """Rows as an artifact has them, by Postgres's own word."""
        if form is FormatName.NDJSON:
            rows = await self.connection.fetch(f'SELECT row_to_json("the row")::text FROM ({query}) "the row"')
            return "".join(row[0].replace("\n", " ").replace("\r", " ") + "\n" for row in rows).encode()
        pieces = bytearray()

        async def keep(data: bytes) -> None:
            pieces.extend(data)

        await self.connection.copy_from_query(
            query,
            output=keep,
            format="csv",
            header=options.header,
            delimiter=options.delimiter,
            null=options.null,
        )
        return bytes(pieces)


def client(dsn: str, **settings: str) -> DatabaseClient:
    """As the service opens it."""
    return DatabaseClient(
        dsn=dsn,
        unavailable=DestinationUnavailable,
        application_name="loading",
        max_size=8,
        server_settings={**SESSION_SETTINGS, **settings},
        connect_seconds=2,
    )


@asynccontextmanager
async def warehouse_in(dsn: str, schema: str) -> AsyncIterator[Warehouse]:
    connection = await asyncpg.connect(dsn, server_settings={**SESSION_SETTINGS, "extra_float_digits": "1"})
    try:
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        await connection.execute("SELECT set_config('search_path', $1, false)", f"{quoted(schema)}, public")
        async with client(dsn) as database:
            yield Warehouse(dsn, schema, database, connection)
        await connection.execute(f"DROP SCHEMA {quoted(schema)} CASCADE")
    finally:
        await connection.close()


class Started(list[UploadRef]):
    """An `on_started` that remembers."""

    async def __call__(self, upload: UploadRef) -> None:
        self.append(upload)


def key_of(dataset: str, metadata: Mapping[str, str]) -> str:
    return f"agency_id={metadata['agency-id']}/run_id={metadata['run-id']}/{dataset}"


def records_of(body: bytes, form: FormatName, *, size: int) -> Iterator[bytes]:
    """Pieces of whole records, of that size or a little more: a CSV record may have line ends in quotes."""
    piece = b""
    for line in io.BytesIO(body):
        piece += line
        if len(piece) >= size and (form is FormatName.NDJSON or piece.count(b'"') % 2 == 0):
            yield piece
            piece = b""
    if piece:
        yield piece


async def stage(
    destination: Destination,
    body: bytes,
    content: Content,
    *,
    rows: int,
    started: UploadStarted | None = None,
    metadata: Mapping[str, str] = METADATA,
    piece: int = 70_001,
) -> Artifact:
    """An artifact as the stored plan has it, after a trip through JSON."""
    key = key_of(content.dataset, metadata)
    async with destination.open(
        key, content, metadata=metadata, on_started=Started() if started is None else started
    ) as upload:
        for written in records_of(body, content.format, size=piece):
            await upload.write(written)
        sealed = await upload.seal()
    made = Artifact(
        key=key,
        dataset=content.dataset,
        format=content.format,
        compression=Compression.NONE,
        rows=rows,
        size=sealed.size,
        sha256=sealed.sha256,
        staged=sealed.staged,
        destination=destination.url,
    )
    return Artifact.model_validate_json(made.model_dump_json())


def content(
    columns: Sequence[str] | None,
    form: FormatName = FormatName.NDJSON,
    *,
    dataset: str = "records",
    snapshot_at: datetime = TAKEN_AT,
    **options: Any,
) -> Content:
    """Of rows with these columns; of unknown ones if None. `options` are CSV's."""
    return Content(
        dataset=dataset,
        format=form,
        columns=None if columns is None else tuple(columns),
        snapshot_at=snapshot_at,
        csv=CsvOptions.model_validate(options),
    )
