"""
Batches of one COPY in binary form.

A tap takes the rows from what the server sends, and leaves the rest to asyncpg: the beginning and the end of the COPY,
errors and cancellation. The server sends rows without being asked, so the tap stops reading once a batch is ready, and
the server waits. Two batches are in memory at most: the one that is processed, and the next.

A row larger than a batch acquires its bytes from a budget before it is read. This can't deadlock: this COPY holds
nothing else then, because all rows before it have been processed.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

import asyncpg

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.ports import Lines, Template
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.batches import MAX_BATCH_ROWS
from pipeline_processing.sources.postgres.tap import Tap, transport_of

_PATIENCE_SECONDS = 0.2
"""After this time without a full batch, there is a smaller one."""
_READY_FOR_QUERY = b"Z\x00\x00\x00\x05"

Outputs = Template | Sequence[int | Template] | None
Batch = list[tuple[Any, ...]] | Lines


class RowDecoder(Protocol):
    """Decodes what the server sends during a COPY; see `CopyStream`."""

    @property
    def rows(self) -> int:
        """How many rows are decoded, and not yet taken."""

    @property
    def size(self) -> int:
        """Their size in bytes."""

    @property
    def begun(self) -> int:
        """The size in bytes of the row of which only a part has arrived; 0 if there is none."""

    def feed(self, data: bytes) -> bytes:
        """Decode the rows in `data`, and return everything else. Raises ValueError if it is malformed."""

    def take(self) -> Batch:
        """Return the decoded rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLimits:
    """How many bytes a COPY may hold."""

    batch_bytes: int
    max_row_bytes: int
    large_rows: ByteBudget
    """For rows larger than a batch."""


class CopyBatches:
    """
    Batches of the COPY of a query, which starts with the first batch.

    A batch has about `limits.batch_bytes`. A row larger than `limits.max_row_bytes`, as Postgres sends it, closes the
    connection before it is read. `timeout` is the longest silence of the server in seconds, because Postgres's own
    statement_timeout would limit the whole COPY. `located(n)` returns a context manager that translates the driver's
    errors after `n` rows.
    """

    def __init__(
        self,
        copy: Callable[[Outputs], "CopyTap"],
        columns: Columns,
        *,
        dataset: str,
        limits: CopyLimits,
        timeout: float | None,
        located: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        """`copy` starts the COPY."""
        self.columns = columns
        self._start = copy
        self._dataset = dataset
        self._limits = limits
        self._timeout = timeout
        self._located = located
        self._outputs: Outputs = None
        self._copy: CopyTap | None = None
        self._drawn = 0
        self._rows_read = 0
        self._taken: Batch = []
        """The rest of rows that are too many for one batch."""

    def deliver(self, outputs: Template | Sequence[int | Template]) -> bool:
        """See `ports.Delivers`."""
        self._outputs = outputs
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """See `ports.Batches`."""
        if not self._taken:
            with self._located(self._rows_read):
                self._taken = await self._next()
        if not self._taken:
            raise StopAsyncIteration
        batch, self._taken = self._taken, []
        if isinstance(batch, list):
            batch, self._taken = batch[:MAX_BATCH_ROWS], batch[MAX_BATCH_ROWS:]
        self._rows_read += len(batch)
        await asyncio.sleep(0)  # lets the next rows arrive before this batch occupies the thread
        return batch

    async def close(self) -> None:
        """Cancel the COPY unless it has ended."""
        self._give_back()
        if self._copy is not None:
            await self._copy.close()

    async def _next(self) -> Batch:
        """Return the next rows, or none at the end. The previous ones have been processed."""
        self._give_back()
        if self._copy is None:
            self._copy = self._start(self._outputs)
        copy = self._copy
        while not copy.rows:
            if copy.large_row:
                size = copy.large_row
                await self._limits.large_rows.acquire(size)
                self._drawn = size
                copy.read_large_row()
            if copy.too_large:
                raise RowTooLarge(dataset=self._dataset, size=copy.too_large, limit=self._limits.max_row_bytes)
            if copy.ended:
                copy.check_end(self._rows_read)
                return []
            await copy.filled(self._timeout)
        return copy.take()

    def _give_back(self) -> None:
        drawn, self._drawn = self._drawn, 0
        self._limits.large_rows.release(drawn)


class CopyTap(Tap):
    """Runs a COPY on a connection, and decodes its rows until the next batch is ready."""

    too_large: int | None = None
    """The size of a row that was too large to be read."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        query: str,
        decoder: RowDecoder,
        *,
        limits: CopyLimits,
        max_rows: float = MAX_BATCH_ROWS,
    ) -> None:
        """A batch is ready with `max_rows`."""
        transport = transport_of(connection)
        super().__init__(transport, transport.get_protocol())
        self._decoder = decoder
        self._limits = limits
        self._max_rows = max_rows
        self._reads_large_row = self._discards = False
        self._malformed: ValueError | None = None
        self._received_at = 0.0
        self._changed = asyncio.Event()
        """Set when a batch is ready, and at the end."""
        transport.set_protocol(self)
        copy = connection.copy_from_query(f"\n{query}\n", output=_nothing, format="binary")
        self._task: asyncio.Task[str] = asyncio.ensure_future(copy)
        self._task.add_done_callback(lambda _: self._changed.set())

    @property
    def rows(self) -> int:
        """How many rows can be taken."""
        return self._decoder.rows

    @property
    def large_row(self) -> int:
        """The size in bytes of a row larger than a batch, which has begun and isn't read on; else 0."""
        begun = self._decoder.begun
        return begun if begun > self._limits.batch_bytes and not (self._reads_large_row or self.ended) else 0

    @property
    def ended(self) -> bool:
        """Whether nothing more arrives."""
        return self._task.done()

    def read_large_row(self) -> None:
        """Read on a large row that has begun. Its bytes have been acquired."""
        self._reads_large_row = True

    async def filled(self, silence: float | None) -> None:
        """
        Wait until a batch is ready, or some rows are there and no more arrive for a while, or the COPY has ended.

        Raises asyncpg's error for a statement_timeout after `silence` seconds without any data.
        """
        now = asyncio.get_running_loop().time
        self._received_at = now()
        while not (self._is_ready or self.ended):
            self._changed.clear()
            self._resume()
            patience = _PATIENCE_SECONDS
            if silence is not None:
                patience = min(patience, self._received_at + silence - now())
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._changed.wait()
            if self.rows:
                return
            if silence is not None and now() - self._received_at >= silence:
                await asyncio.sleep(0)  # reads what arrived while something else occupied the thread
                if now() - self._received_at < silence:
                    continue
                raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    def take(self) -> Batch:
        """Return the decoded rows, and read on."""
        self._reads_large_row = False
        rows = self._decoder.take()
        if not self._is_ready:
            self._resume()
        return rows

    def check_end(self, rows_read: int) -> None:
        """
        Check that the COPY ended after `rows_read` rows, and that these were all.

        Raises asyncpg's error, or ValueError if the server sent something that isn't a COPY.
        """
        if self._malformed is not None:
            raise self._malformed
        if (status := self._task.result()) != f"COPY {rows_read}":
            raise ValueError(f"{rows_read:,} rows arrived, but Postgres said {status!r}")

    async def close(self) -> None:
        """Cancel the COPY unless it has ended. What the server has already sent is discarded as it arrives."""
        self._resume()
        if not self.ended:
            self._discards = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            return
        self._detach()
        if not self._task.cancelled():
            self._task.exception()  # asyncio logs exceptions that nobody has asked for

    # -- from the network ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._malformed is not None or self.too_large is not None:
            return
        self._received_at = asyncio.get_running_loop().time()
        try:
            others = self._decoder.feed(data)
        except ValueError as error:
            self._malformed = error
            self._transport.abort()
            return
        if self._decoder.begun > self._limits.max_row_bytes:
            self.too_large = self._decoder.begun
            self._transport.abort()
            return
        if others:
            self._receiver.data_received(others)
        if self._discards:
            self._decoder.take()
            if others[:-1].endswith(_READY_FOR_QUERY):  # the response is over
                self._detach()
        elif self._is_ready:
            self._transport.pause_reading()
            self._changed.set()

    @property
    def _is_ready(self) -> bool:
        decoder = self._decoder
        if not decoder.rows:
            return self.large_row > 0
        is_full = decoder.rows >= self._max_rows or decoder.size + decoder.begun > self._limits.batch_bytes
        return is_full or self._reads_large_row

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _detach(self) -> None:
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._receiver)


async def _nothing(data: bytes) -> None:
    """Take what COPY sends apart from rows."""
