"""
Limits a cursor's fetch in bytes, between the network and asyncpg.

A fetch requests a number of rows, whose size is unknown, and asyncpg buffers all of them until the last one arrives.
So the meter ends a fetch early: once enough bytes have arrived, it tells asyncpg that the portal is suspended, as the
server does after the last requested row. It holds the rest back until the next fetch and stops reading, so that the
server waits. Because asyncpg sends an Execute with every fetch, the server then owes more responses than asyncpg
expects. The meter merges them into one.

A row larger than a whole fetch acquires its bytes from a budget before it is read. This can't deadlock: a batch has at
most one such row, and the next fetch starts after the batch has been processed.

Messages: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.sources.postgres.tap import Tap, transport_of

_HEADER_BYTES = 5
_DATA_ROW, _ERROR, _READY, _SUSPENDED, _COMPLETE = b"DEZsC"
_ENDED_EARLY = b"s\x00\x00\x00\x04Z\x00\x00\x00\x05T"
"""PortalSuspended, and ReadyForQuery inside a transaction."""


class Meter(Tap):
    """
    Forwards what the server sends, and ends a fetch before the row that would exceed `fetch_bytes`.

    Smaller fetches cost nothing per row: the meter parses messages only once a fetch exceeds the limit. A row larger
    than `max_row_bytes` closes the connection before it is read, and sets `too_large` to its size. A row larger than
    `fetch_bytes` acquires its bytes from `budget`.
    """

    def __init__(
        self, transport: Any, receiver: Any, *, fetch_bytes: int, max_row_bytes: int, budget: ByteBudget
    ) -> None:
        super().__init__(transport, receiver)
        self.ended_early = False
        """Whether the meter ended the last fetch before all of its rows had arrived."""
        self.too_large: int | None = None
        self._fetch_bytes = fetch_bytes
        self.max_row_bytes = max_row_bytes
        self._budget = budget
        self._drawn = 0
        self._drawing: asyncio.Task[None] | None = None
        self._owed = 0
        """Responses that the server hasn't finished."""
        self._awaited = False
        """Whether asyncpg is waiting for the end of a response."""
        self._most_rows = self._rows = self._bytes = 0
        self._metering = False
        self._forwarded: list[bytes] = []
        """The chunks of this fetch, until its messages are parsed."""
        self._parsing = False
        self._held = bytearray()
        self._forwarded_of_held = 0
        """How many bytes at the start of `_held` asyncpg already has."""
        self._rest = 0
        """Remaining bytes of a row that has begun."""
        self._rest_is_forwarded = True
        self._discarding = False
        self._end = b""

    @classmethod
    def on(cls, connection: Any, *, fetch_bytes: int, max_row_bytes: int, budget: ByteBudget) -> Self:
        """Attach a meter to an asyncpg connection, for the rest of its life."""
        transport = transport_of(connection)
        meter = cls(
            transport, transport.get_protocol(), fetch_bytes=fetch_bytes, max_row_bytes=max_row_bytes, budget=budget
        )
        transport.set_protocol(meter)
        return meter

    @contextmanager
    def fetching(self, rows: int) -> Iterator[int]:
        """Meter one fetch of up to `rows` in the block. Yields the number of rows to request."""
        self.ended_early = False
        self._owed += 1
        self._awaited = True
        self._most_rows, self._rows, self._bytes = rows, 0, 0
        self._metering = not self._parsing
        if self._parsing:
            asyncio.get_running_loop().call_soon(self._resume)  # once asyncpg has sent its Execute
        try:
            yield 1 if self._parsing else rows
        finally:
            if not self._parsing:
                self._metering = self._awaited = False
                self._owed = 0
                self._forwarded.clear()

    @property
    def is_idle(self) -> bool:
        """Whether all that was requested has been read, so that the connection may be used for something else."""
        return not (self._parsing or self._held or self._owed or self._drawn or self._drawing or self.too_large)

    @property
    def holds_large_row(self) -> bool:
        """Whether the last fetch holds bytes of the budget for a row."""
        return self._drawn > 0

    def give_back(self) -> None:
        """Release the budget of the last fetch, whose rows have been processed."""
        drawn, self._drawn = self._drawn, 0
        self._budget.release(drawn)

    async def close(self) -> None:
        """Discard the remaining rows. The response to asyncpg's next request follows them."""
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.gather(self._drawing, return_exceptions=True)
            self._drawing = None
        self.give_back()
        if self._parsing:
            self._discarding = True
            self._resume()

    # -- from the network ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._metering:
            self._bytes += len(data)
            if self._bytes <= self._fetch_bytes:
                self._forwarded.append(data)
            else:
                self._start_parsing()
        if self._parsing:
            self._held += data
            self._parse()
        elif self.too_large is None:
            self._receiver.data_received(data)

    # -- message by message ----------------------------------------------------------------------

    def _start_parsing(self) -> None:
        """Start to parse messages: find the current position among those already forwarded."""
        forwarded = b"".join(self._forwarded)
        self._forwarded.clear()
        self._metering, self._bytes = False, len(forwarded)
        start = at = 0
        while at < len(forwarded):
            start = at
            if len(forwarded) - at < _HEADER_BYTES:
                break
            at += _size(forwarded, at)
            self._rows += forwarded[start] == _DATA_ROW
            if forwarded[start] == _READY and at <= len(
                forwarded
            ):  # the fetch is over; what follows is another response
                return
            self._discarding |= forwarded[start] == _ERROR and at <= len(forwarded)
        self._parsing = True
        if at > len(forwarded) and forwarded[start] == _DATA_ROW:
            self._check(at - start)
            self._rest, self._rest_is_forwarded = at - len(forwarded), True
            self._bytes = at
            self._draw(at - start)
        elif at != len(forwarded):  # part of a header or of another message
            self._held += forwarded[start:]
            self._forwarded_of_held = len(forwarded) - start

    def _resume(self) -> None:
        if self._transport.is_closing():
            return
        self._parse()
        holds_back = self._parsing and not (self._awaited or self._discarding)
        if not holds_back and self._drawing is None and self.too_large is None:
            self._transport.resume_reading()

    def _parse(self) -> None:
        """Forward held messages until the fetch is full."""
        out = bytearray()
        at = 0
        while self._parsing and self._drawing is None and self.too_large is None:
            if self._rest:
                if at == len(self._held):
                    break
                piece = self._held[at : at + self._rest]
                at += len(piece)
                self._rest -= len(piece)
                if self._rest_is_forwarded:
                    out += piece
                continue
            if len(self._held) - at < _HEADER_BYTES or not (self._awaited or self._discarding):
                break
            kind, size, begun = self._held[at], _size(self._held, at), self._forwarded_of_held
            if kind == _DATA_ROW:
                if not self._has_room(size, begun=begun > 0):
                    out += _ENDED_EARLY
                    break
                at += begun
                self._rest = size - begun
                self._rest_is_forwarded = begun > 0 or not self._discarding
            elif len(self._held) - at < size:
                break
            else:
                out += self._to_forward(kind, bytes(self._held[at : at + size]), begun=begun)
                at += size
            self._forwarded_of_held = 0
        if not self._parsing:  # what follows is another response
            out += self._held[at:]
            at = len(self._held)
        del self._held[:at]
        if out and self.too_large is None:
            self._receiver.data_received(bytes(out))

    def _has_room(self, size: int, *, begun: bool) -> bool:
        """Return whether a row fits into this fetch. If not, end the fetch."""
        if self._discarding:
            return True
        self._check(size)
        full = self._rows >= self._most_rows or self._bytes + size > self._fetch_bytes
        if self._rows and full and not begun:
            self.ended_early, self._awaited = True, False
            self._transport.pause_reading()
            return False
        self._rows += 1
        self._bytes += size
        self._draw(size)
        return True

    def _to_forward(self, kind: int, message: bytes, *, begun: int) -> bytes:
        """
        Return what to forward of a message that isn't a row: of several responses, only the first error and the last
        end. asyncpg already has the first `begun` bytes of the message.
        """
        if kind == _READY:
            self._owed -= 1
            if self._owed:
                return b""
            ended = b"" if self._discarding else self._end
            awaited, self._awaited = self._awaited, False
            self._parsing, self._discarding, self._end = False, False, b""
            return (ended + message)[begun:] if awaited else b""
        if kind in (_SUSPENDED, _COMPLETE) and not begun:
            self._end = message
            return b""
        if kind == _ERROR:
            first, self._discarding = not self._discarding, True
            return message[begun:] if first else b""
        return message[begun:]

    def _draw(self, size: int) -> None:
        """Pause reading until the budget has memory for a large row that has begun."""
        if size > self._fetch_bytes and self.too_large is None:
            self._transport.pause_reading()
            self._drawing = asyncio.ensure_future(self._drawn_from_budget(size))

    async def _drawn_from_budget(self, size: int) -> None:
        await self._budget.acquire(size)
        self._drawn += size
        self._drawing = None
        self._resume()

    def _check(self, size: int) -> None:
        if size > self.max_row_bytes:
            self.too_large = size
            self._transport.abort()


def _size(data: bytes | bytearray, at: int) -> int:
    """Return the size of the message at `at` in bytes. Its length field doesn't include the type byte."""
    return 1 + int.from_bytes(data[at + 1 : at + _HEADER_BYTES])
