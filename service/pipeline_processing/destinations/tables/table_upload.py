"""One dataset's rows on their way into a staging table."""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import chain

import asyncpg
import msgspec
import structlog

from pipeline_processing.destinations.tables.loading_errors import Refused
from pipeline_processing.destinations.tables.records import Records, csv_fields
from pipeline_processing.destinations.tables.staging import StagingNote, StagingTable, drop
from pipeline_processing.destinations.tables.target_table import Target
from pipeline_processing.errors import DestinationUnavailable, JobConfigError, PipelineError
from pipeline_processing.model import FormatName, StagedTable
from pipeline_processing.ports import Content, Sealed

CHUNK_BYTES = 1024 * 1024
"""What is sent at a time; one chunk is on its way while the next is filled."""
_DROP_SECONDS = 15.0

log = structlog.get_logger(__name__)

Session = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
"""Opens a connection whose errors are a destination's."""

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class TableUpload:
    """
    Sends whole records, a chunk at a time, each in a transaction of its own.

    Not one COPY for the whole upload: asyncpg notices its failure only at the end, and a transaction that lasts as long
    as an export keeps the target's database from being vacuumed.
    """

    def __init__(self, *, session: Session, target: Target, staging: StagingTable, content: Content) -> None:
        self.sealed = False
        self._session = session
        self._target = target
        self._staging = staging
        self._content = content
        self._records = Records(content.format)
        self._header_read = not (content.format is FormatName.CSV and content.csv.header)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._sending: asyncio.Task[None] | None = None

    async def start(self, note: StagingNote) -> None:
        """Create the staging table. Raises JobConfigError where the rows' columns don't fit the target."""
        columns = self._content.columns
        if columns is None and self._content.format is FormatName.CSV and not self._content.csv.header:
            raise JobConfigError(
                f"Dataset {self._content.dataset!r}: CSV without a header, of rows whose columns only a step decides, "
                f"can't be loaded into {self._target}. Set `csv.header` to true, add a `select`, or use ndjson."
            )
        if columns is not None:
            self._target.require(columns)
            self._target.require_key(columns)
            self._target.require_complete(columns)
        async with self._session() as connection:
            await self._staging.create(connection, columns or (), note)

    async def write(self, data: bytes) -> None:
        """Raises DataError for rows that the target can't take, also those of earlier calls."""
        assert not self.sealed, "nothing can be written after seal()"
        if self._sending is not None and self._sending.done():
            self._sending.result()
        self._size += len(data)
        self._records.feed(data)
        if len(self._records) >= CHUNK_BYTES:
            await self._send(self._records.take())

    async def seal(self) -> Sealed:
        """Send what is left, and check what only all rows together tell. Raises DataError."""
        await self._send(self._records.take())
        await self._send(self._records.take_rest())
        await self._sent()
        async with self._session() as connection:
            await self._staging.check_rows(connection)
        self.sealed = True
        return Sealed(size=self._size, sha256=self._sha256.hexdigest(), staged=StagedTable(table=self._staging.name))

    async def close(self, *, keep: bool) -> None:
        """Stop sending; unless `keep`, the staging table goes."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        if keep:
            return
        # Failing here must not hide why the upload is given up; what is left behind is recorded, and gc removes it.
        try:
            async with asyncio.timeout(_DROP_SECONDS), self._session() as connection:
                await drop(connection, self._target.schema, self._staging.name)
        except (PipelineError, TimeoutError) as error:
            log.warning("upload_not_aborted", table=str(self._target), staging=self._staging.name, error=str(error))

    async def _send(self, records: bytes) -> None:
        if records:
            await self._sent()
            self._sending = asyncio.create_task(self._stage(records))

    async def _sent(self) -> None:
        if self._sending is not None:
            await self._sending

    async def _stage(self, records: bytes) -> None:
        await asyncio.to_thread(self._sha256.update, records)
        try:
            async with self._session() as connection:
                if self._content.format is FormatName.CSV:
                    await self._stage_csv(connection, records)
                else:
                    await self._stage_lines(connection, records)
        except Refused as error:
            if error.table_is_gone:
                raise DestinationUnavailable(
                    f"The staging table of dataset {self._content.dataset!r} at {self._target.where} was dropped by "
                    "somebody else. The next attempt makes a new one."
                ) from None
            raise self._staging.told(error) from None

    async def _stage_lines(self, connection: asyncpg.Connection, lines: bytes) -> None:
        if self._content.columns is None:
            try:
                rows = _decoder.decode_lines(lines)
            except msgspec.DecodeError:
                # Half a surrogate, as `json.dumps` writes it: told as Postgres tells it where columns are known.
                raise Refused(asyncpg.InvalidTextRepresentationError()) from None
            await self._staging.provide(connection, dict.fromkeys(chain.from_iterable(rows)))
        staged = await self._staging.insert_lines(connection, lines)
        assert staged == lines.count(b"\n"), "a line is a row"

    async def _stage_csv(self, connection: asyncpg.Connection, records: bytes) -> None:
        if not self._header_read:
            pieces = Records(FormatName.CSV)
            pieces.feed(records)
            header, records = pieces.take_first(), pieces.take_rest()
            self._header_read = True
            if records and self._content.columns is None:  # of no rows at all, nobody may know the columns
                names = csv_fields(header, delimiter=self._content.csv.delimiter)
                await self._staging.provide(connection, names)
        if records:
            await self._staging.copy_csv(connection, records, self._content.csv)
