"""The upload of one dataset's rows to a staging table."""

import asyncio
import csv
import hashlib
import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import chain

import asyncpg
import msgspec

from pipeline_processing.destinations.tables.errors import Refused
from pipeline_processing.destinations.tables.options import check_format
from pipeline_processing.destinations.tables.staging import StagingTable, drop
from pipeline_processing.destinations.tables.target import Target
from pipeline_processing.errors import DataError, DestinationUnavailable, JobConfigError, PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.model import FormatName
from pipeline_processing.plan import StagedTable
from pipeline_processing.ports import Content, Sealed

CHUNK_BYTES = 1024 * 1024
"""Size of a chunk. One is sent while the next is filled."""
_DROP_SECONDS = 15.0

log = get_logger(__name__)

Session = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
"""Opens a connection that raises a destination's errors; see `errors.session`."""

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class TableUpload:
    """
    Sends rows in chunks, each in its own transaction. Every write must consist of whole records.

    The upload isn't one COPY, because asyncpg would notice its failure only at the end, and a transaction as long as
    the export would keep the target's database from being vacuumed.
    """

    def __init__(self, *, session: Session, target: Target, staging: StagingTable, content: Content) -> None:
        self.sealed = False
        self._session = session
        self._target = target
        self._staging = staging
        self._content = content
        self._is_csv = content.format is FormatName.CSV
        self._chunk = bytearray()
        self._header = self._is_csv and content.csv.header
        """Whether the next chunk begins with the header."""
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._sending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the staging table. Raises JobConfigError if the rows' columns don't fit the target."""
        content = self._content
        try:  # a request may have chosen another format than the one that was checked
            check_format(content.dataset, content.format, content.csv)
        except ValueError as error:
            raise JobConfigError(f"The rows can't be loaded into {self._target}: {error}.") from None
        columns = content.columns
        if columns is not None:
            self._target.check_columns(columns)
        elif self._is_csv and not self._header:
            raise JobConfigError(
                f"Dataset {self._content.dataset!r}: CSV without a header can't be loaded into {self._target} if the "
                "columns are known only after the steps. Set `csv.header` to true, add a `select`, or use ndjson."
            )
        async with self._session() as connection:
            await self._staging.create(connection, columns or ())

    async def write(self, data: bytes) -> None:
        """Raises DataError for rows that the target can't take, including rows of earlier calls."""
        assert not self.sealed, "nothing can be written after seal()"
        if self._sending is not None and self._sending.done():
            self._sending.result()
        self._size += len(data)
        self._chunk += data
        if len(self._chunk) >= CHUNK_BYTES:
            await self._send()

    async def seal(self) -> Sealed:
        """Send the remaining rows, then run the checks that need all rows. Raises DataError."""
        await self._send()
        await self._sent()
        async with self._session() as connection:
            await self._staging.finish(connection)
        self.sealed = True
        staged = StagedTable(table=self._staging.name, target=self._target.name)
        return Sealed(size=self._size, sha256=self._sha256.hexdigest(), staged=staged)

    async def close(self, *, keep: bool) -> None:
        """Stop sending. Drops the staging table unless `keep` is set."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        if keep:
            return
        # A failure here must not hide why the upload was given up. The upload is recorded, so gc can remove it later.
        try:
            async with asyncio.timeout(_DROP_SECONDS), self._session() as connection:
                await drop(connection, self._target.schema, self._staging.name)
        except (PipelineError, TimeoutError) as error:
            log.warning("upload_not_aborted", table=str(self._target), staging=self._staging.name, error=str(error))

    async def _send(self) -> None:
        if self._chunk:
            await self._sent()
            self._sending = asyncio.create_task(self._stage(bytes(self._chunk)))
            self._chunk.clear()

    async def _sent(self) -> None:
        if self._sending is not None:
            await self._sending

    async def _stage(self, records: bytes) -> None:
        await asyncio.to_thread(self._sha256.update, records)
        try:
            async with self._session() as connection:
                if self._content.columns is None:
                    await self._staging.add_columns(connection, self._columns_of(records))
                if not self._staging.columns:
                    if not self._header or records.count(b"\n") > 1:
                        raise DataError(
                            f"The rows of dataset {self._content.dataset!r} have no columns to load. Select some."
                        )
                elif self._is_csv:
                    await self._staging.copy_csv(connection, records, self._content.csv, header=self._header)
                else:
                    staged = await self._staging.insert_lines(connection, records)
                    assert staged == records.count(b"\n"), "a line is a row"
        except Refused as error:
            if error.table_is_gone:
                raise DestinationUnavailable(
                    f"The staging table of dataset {self._content.dataset!r} at {self._target.where} was dropped from "
                    "outside. The next attempt creates a new one."
                ) from None
            raise self._staging.error_of(error) from None
        self._header = False

    def _columns_of(self, records: bytes) -> list[str]:
        """Return the columns of these rows. Raises Refused for JSON that Postgres can't read either."""
        if self._is_csv:
            return header_of(records, delimiter=self._content.csv.delimiter) if self._header else []
        try:
            return list(dict.fromkeys(chain.from_iterable(_decoder.decode_lines(records))))
        except msgspec.DecodeError:  # a lone surrogate, which `json.dumps` writes
            raise Refused(asyncpg.InvalidTextRepresentationError()) from None


def header_of(records: bytes, *, delimiter: str) -> list[str]:
    """Return the fields of the first CSV record; none if it is an empty line."""
    return next(csv.reader(io.StringIO(records.decode(), newline=""), delimiter=delimiter), [])
