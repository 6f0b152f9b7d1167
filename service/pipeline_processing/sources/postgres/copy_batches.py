"""
Batches of one COPY in binary form.

A tap takes the rows from what the server sends, and leaves the rest to asyncpg: the beginning and the end of the COPY,
errors and cancellation. The server sends rows without being asked, so the tap stops reading once a batch is ready, and
the server waits. Two batches are in memory at most: the one that is processed, and the next. What has arrived behind
a batch is decoded when that has been taken.

A row larger than a batch acquires its bytes from a budget before it is read, and again before it is decoded if its
values are larger than what was sent. This can't deadlock: this COPY holds nothing else then, because all rows before it
have been processed.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

import asyncpg

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.ports import Template
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.lines import Lines
from pipeline_processing.sources.postgres.batches import MAX_BATCH_ROWS
from pipeline_processing.sources.postgres.tap import Tap, transport_of
from pipeline_processing.usage import current_usage

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
        """The size in bytes of the row of which only a part has arrived, or that is too large; 0 if there is none."""

    row_bytes: int
    """A row larger than this is held back."""

    def feed(self, data: bytes) -> bytes:
        """
        Decode what was held back, and `data`, until a batch is full, and hold back the rest.

        Returns everything else up to there. Raises ValueError if it is malformed.
        """

    def take(self) -> Batch:
        """Return the decoded rows."""

    def discard(self) -> None:
        """Forget all rows, also those to come."""


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

    A batch has about `limits.batch_bytes`. A row larger than `limits.max_row_bytes`, as Postgres sends it or with its
    numerics written out, closes the connection before it is read or decoded. `timeout` is the longest silence of the
    server in seconds, because Postgres's own statement_timeout would limit the whole COPY. `located(n)` returns a
    context manager that translates the driver's errors after `n` rows.
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
            if size := copy.large_row:
                self._give_back()
                await self._limits.large_rows.acquire(size)
                self._drawn = size
                copy.read_large_row(size)
            elif not copy.ended:
                with current_usage().waiting_for_database():
                    await copy.filled(self._timeout)
            elif copy.too_large:
                raise RowTooLarge(dataset=self._dataset, size=copy.too_large, limit=self._limits.max_row_bytes)
            else:
                copy.check_end(self._rows_read)
                return []
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
        self._granted = 0
        self._discards = False
        self._tail = b""
        self._malformed: ValueError | None = None
        self._received_at = 0.0
        self._usage = current_usage()
        self._changed = asyncio.Event()
        """Set when a batch is ready, and at the end."""
        transport.set_protocol(self)
        copy = connection.copy_from_query(f"\n{query}\n", output=ignored, format="binary")
        self._task: asyncio.Task[str] = asyncio.ensure_future(copy)
        self._task.add_done_callback(lambda _: self._changed.set())

    @property
    def rows(self) -> int:
        """How many rows can be taken."""
        return self._decoder.rows

    @property
    def large_row(self) -> int:
        """The size in bytes of a row larger than a batch, which has begun and isn't read on or decoded; else 0."""
        begun = self._decoder.begun
        is_large = begun > max(self._limits.batch_bytes, self._granted)
        return begun if is_large and not (self.too_large or self.ended) else 0

    @property
    def ended(self) -> bool:
        """Whether nothing more arrives."""
        return self._task.done()

    def read_large_row(self, size: int) -> None:
        """Read on a large row that has begun. `size` bytes have been acquired."""
        self._granted = self._decoder.row_bytes = size
        self._decode(b"")

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
        self._granted = 0
        self._decoder.row_bytes = self._limits.batch_bytes
        rows = self._decoder.take()
        self._decode(b"")
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
        self._decoder.discard()
        self._decode(b"")
        self._resume()
        is_over = self.ended or self._is_answered
        if not is_over:
            self._discards = True
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if is_over:
            self._detach()

    # -- from the network ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._received_at = asyncio.get_running_loop().time()
        self._usage.bytes_read += len(data)
        self._decode(data)
        if self._is_ready and not self._discards:
            if not self._transport.is_closing():
                self._transport.pause_reading()
            self._changed.set()

    def _decode(self, data: bytes) -> None:
        """Decode what was held back, and `data`, as far as the next batch goes, and forward everything else."""
        if self._malformed is not None or self.too_large is not None:
            return
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
        if others and not self._transport.is_closing():
            self._receiver.data_received(others)
            self._tail = (self._tail + others)[-1 - len(_READY_FOR_QUERY) :]
            if self._discards and self._is_answered:
                self._detach()

    @property
    def _is_answered(self) -> bool:
        """Whether the end of the server's response has been forwarded."""
        return self._tail[:-1] == _READY_FOR_QUERY

    @property
    def _is_ready(self) -> bool:
        decoder = self._decoder
        if not decoder.rows:
            return self.large_row > 0
        is_full = decoder.rows >= self._max_rows or decoder.size + decoder.begun > self._limits.batch_bytes
        return is_full or self._granted > 0

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _detach(self) -> None:
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._receiver)


async def ignored(data: bytes) -> None:
    """Take what COPY sends apart from rows."""
