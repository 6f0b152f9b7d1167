"""Batches of a COPY: bounded in bytes and rows, nothing lost or cut, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext, suppress
from typing import Any

import asyncpg
import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS
from pipeline_processing.sources.postgres.copy_batches import CopyBatches, CopyLimits, CopyTap
from tests.unit.sources.postgres.copied import DONE, TRAILER, CopyStream, message, numeric, row, sent
from tests.unit.sources.postgres.transport import Transport

BATCH_BYTES = 1000
MAX_ROW_BYTES = 5000
COPY_OUT, COPY_DONE, READY = b"H\0\0\0\4", b"c\0\0\0\4", b"Z\0\0\0\5T"
ERROR = b"E\0\0\0\x0aSfirst"


class Lengths:
    """A decoder whose rows are the sizes of the messages."""

    def __init__(self, batch_bytes: int = BATCH_BYTES) -> None:
        self._batch_bytes = self.row_bytes = batch_bytes
        self._held = b""
        self._rows: list[tuple[int]] = []
        self._discards = False
        self.size = self.begun = self.most = 0

    @property
    def rows(self) -> int:
        return len(self._rows)

    def feed(self, data: bytes) -> bytes:
        others = b""
        self._held += data
        while len(self._held) >= 5 and len(self._held) >= (size := 1 + int.from_bytes(self._held[1:5], "big")):
            if self._held[:1] != b"d":
                others += self._held[:size]
            elif b"malformed" in self._held[:size]:
                raise ValueError("malformed")
            elif not self._discards and (size > self.row_bytes or self.size > self._batch_bytes):
                break
            elif not self._discards:
                self._rows.append((size,))
                self.size += size
            self._held = self._held[size:]
        begins_row = len(self._held) >= 5 and self._held[:1] == b"d"
        size = 1 + int.from_bytes(self._held[1:5], "big") if begins_row else 0
        self.begun = size if size > min(len(self._held), self.row_bytes) else 0
        self.most = max(self.most, self.size + len(self._held))
        return others

    def take(self) -> list[Any]:
        rows, self._rows, self.size = self._rows, [], 0
        return rows

    def discard(self) -> None:
        self._discards = True
        self.take()


class Wire(Transport):
    """asyncpg's connection, transport and protocol in one; what the server sends arrives in pieces cut anywhere."""

    def __init__(self, sizes: list[int], *, end: bytes = b"", seed: int = 0, chunk: int | None = None) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.chunk = chunk
        rows = b"".join(message(b"d", b"x" * (size - 5)) for size in sizes)
        done = COPY_DONE + message(b"C", f"COPY {len(sizes)}\0".encode()) + READY
        self.sent = bytearray(COPY_OUT + rows + (end or done))
        self.cancelled = False
        self.protocol: Any = self
        self.decoder: Any = Lengths()
        self._transport = self

    # -- the connection: what a COPY gives in the end

    async def copy_from_query(self, query: str, **options: Any) -> str:
        try:
            while not self.received.endswith(READY):
                await asyncio.sleep(0)
                self.deliver()
                if self.aborted:
                    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if ERROR in self.received:
            raise asyncpg.DivisionByZeroError("division by zero")
        return self.received[self.received.rindex(b"COPY") : -len(READY) - 1].decode()

    def deliver(self) -> None:
        """One piece, if anybody reads."""
        if not self.paused:
            size = self.chunk or self.random.choice([1, 3, 7, 100, 1500])
            data = bytes(self.sent[:size])
            del self.sent[:size]
            if data:
                self.protocol.data_received(data)

    # -- asyncpg's transport

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


def batches(wire: Any, *, budget: ByteBudget | None = None, timeout: float | None = None) -> CopyBatches:
    limits = CopyLimits(
        batch_bytes=BATCH_BYTES, max_row_bytes=MAX_ROW_BYTES, large_rows=budget or ByteBudget(MAX_ROW_BYTES)
    )
    return CopyBatches(
        lambda _: CopyTap(wire, "query", wire.decoder, limits=limits),
        UNKNOWN_COLUMNS,
        dataset="records",
        limits=limits,
        timeout=timeout,
        located=lambda _: nullcontext(),
    )


def sizes(seed: int) -> list[int]:
    """Rows that are small, then large, then mixed, in stretches of any length."""
    draw = random.Random(seed)
    found: list[int] = []
    while len(found) < 300:
        low, high = draw.choice([(9, 30), (400, 900), (1000, 5000), (9, 5000)])
        found += [draw.randint(low, high) for _ in range(draw.choice([1, 3, 20, 80]))]
    return found


async def read(found: CopyBatches) -> list[list[int]]:
    try:
        return [[size for (size,) in batch] async for batch in found]
    finally:
        await found.close()


async def read_into(got: list[int], found: CopyBatches) -> None:
    try:
        async for batch in found:
            got += [size for (size,) in batch]
    finally:
        await found.close()


@pytest.mark.parametrize("seed", range(10))
async def test_every_row_arrives_once_and_little_is_held(seed: int) -> None:
    """However rows grow and the network cuts, at most one batch is ready, with one large row or none."""
    wire = Wire(sizes(seed), seed=seed)
    budget = ByteBudget(MAX_ROW_BYTES)
    got = await read(batches(wire, budget=budget))

    assert [size for batch in got for size in batch] == sizes(seed)
    assert all(sum(batch[:-1]) <= BATCH_BYTES + 1500 for batch in got if max(batch) <= BATCH_BYTES)
    assert wire.decoder.most <= MAX_ROW_BYTES + 1500
    assert budget.peak == max(size for size in sizes(seed) if size > BATCH_BYTES)
    assert budget.reserved == 0
    assert wire.protocol is wire, "the tap is gone"
    assert wire.received == COPY_OUT + COPY_DONE + message(b"C", f"COPY {len(sizes(seed))}\0".encode()) + READY


async def test_a_batch_has_at_most_a_thousand_rows() -> None:
    """Whatever arrives at once."""
    wire = Wire([5] * 3500, chunk=100_000)
    wire.decoder = Lengths(batch_bytes=100_000)
    got = await read(batches(wire))

    assert [len(batch) for batch in got] == [1000, 1000, 1000, 500]


async def test_a_consumer_that_pauses_makes_the_server_wait() -> None:
    """One batch is ready, and nothing more is read until it is taken."""
    wire = Wire([100] * 1000, chunk=200)
    found = batches(wire)
    await anext(found)
    for _ in range(100):
        await asyncio.sleep(0)

    assert wire.paused
    assert wire.decoder.size <= BATCH_BYTES + 200
    await found.close()


@pytest.mark.parametrize("chunk", [1, 4, 100, 4000])
async def test_a_row_that_is_too_large_ends_the_connection_before_it_is_there(chunk: int) -> None:
    """Its size is known from its first bytes, and the rows before it are delivered."""
    wire = Wire([20, 20, MAX_ROW_BYTES + 1, 20], chunk=chunk)
    found = batches(wire)
    got: list[int] = []
    with pytest.raises(RowTooLarge):
        await read_into(got, found)

    assert len(got) == 2
    assert wire.aborted


async def test_large_rows_of_several_runs_wait_for_each_other() -> None:
    """What one took is given back with its batch."""
    budget = ByteBudget(MAX_ROW_BYTES)
    first, second = batches(Wire([4000, 3000]), budget=budget), batches(Wire([4000]), budget=budget)
    await anext(first)
    waiting = asyncio.ensure_future(anext(second))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert budget.reserved == 4000

    rest = asyncio.ensure_future(anext(first))
    assert await waiting == [(4000,)]
    await second.close()
    assert await rest == [(3000,)]
    await first.close()
    assert budget.reserved == 0


async def test_giving_up_while_a_large_row_waits() -> None:
    """Nothing stays reserved."""
    budget = ByteBudget(MAX_ROW_BYTES)
    await budget.acquire(4000)
    found = batches(Wire([4000]), budget=budget)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(found)
    await found.close()

    assert budget.reserved == 4000


async def test_an_error_comes_after_the_rows_before_it() -> None:
    """As asyncpg raises it."""
    found = batches(Wire([20, 20, 20], end=ERROR + READY))
    got: list[int] = []
    with pytest.raises(asyncpg.DivisionByZeroError):
        await read_into(got, found)

    assert len(got) == 3


@pytest.mark.parametrize(
    "end",
    [
        message(b"d", b"malformed"),
        COPY_DONE + message(b"C", b"COPY 2\0") + READY,
        COPY_DONE + message(b"C", b"COPY 4\0") + READY,
    ],
)
async def test_what_isnt_the_whole_copy_is_an_error(end: bytes) -> None:
    """Rows that don't decode, and more or fewer of them than Postgres says."""
    with pytest.raises(ValueError, match=r"malformed|Postgres said 'COPY [24]'"):
        await read(batches(Wire([20, 20, 20], end=end)))


@pytest.mark.parametrize("seed", range(6))
async def test_leaving_early(seed: int) -> None:
    """The COPY is cancelled. What the server has already sent is discarded, up to the end of its response."""
    wire = Wire(sizes(seed), end=ERROR + READY, seed=seed)
    found = batches(wire)
    for _ in range(wire.random.randint(1, 20)):
        with suppress(StopAsyncIteration):
            await anext(found)
    await found.close()
    assert wire.cancelled
    while wire.sent:
        assert not wire.paused
        wire.deliver()

    assert wire.received == COPY_OUT + ERROR + READY
    assert wire.decoder.rows == 0


async def test_silence_ends_the_query() -> None:
    """As a statement_timeout would, but only while something is waited for, and only if nothing arrives at all."""
    wire = Wire([20] * 200, chunk=20)
    found = batches(wire, timeout=0.1)
    await anext(found)
    wire.sent.clear()
    await asyncio.sleep(0.15)  # the consumer is busy
    got: list[int] = []
    with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
        await read_into(got, found)
    assert wire.cancelled


# -- values that are larger than what is sent ----------------------------------------------------


def number(size: int) -> bytes:
    """A row with a numeric that is written with `size` digits: 1000…"""
    weight, digits = divmod(size - 1, 4)
    return row(numeric([10**digits], weight, 0))


def numbers(sizes: list[int], *, end: bytes = b"", **options: Any) -> Wire:
    """A wire with the native decoder. Each row has about 20 bytes on it."""
    wire = Wire([], **options)
    done = DONE + message(b"C", f"COPY {len(sizes)}\0".encode()) + READY
    rows = sent([number(size) for size in sizes])[: -len(DONE)]
    if end:
        rows = rows[: -len(message(b"d", TRAILER))]
    wire.sent = bytearray(COPY_OUT + rows + (end or done))
    wire.decoder = CopyStream(["numeric"], None, carry="text", batch_bytes=BATCH_BYTES)
    return wire


async def read_numbers(got: list[int], found: CopyBatches) -> None:
    try:
        async for batch in found:
            lengths = [len(value) for (value,) in batch]
            assert sum(lengths[:-1]) <= BATCH_BYTES
            assert max(lengths) <= BATCH_BYTES or len(lengths) == 1
            got += lengths
    finally:
        await found.close()


@pytest.mark.parametrize("chunk", [None, 1, 50, 100_000])
@pytest.mark.parametrize("seed", range(4))
async def test_what_has_arrived_is_decoded_batch_by_batch(seed: int, chunk: int | None) -> None:
    """Even if all rows and the end have arrived at once. Large rows take from the budget what they become."""
    expected = [min(size, MAX_ROW_BYTES - 20) for size in sizes(seed)]
    wire, budget = numbers(expected, seed=seed, chunk=chunk), ByteBudget(MAX_ROW_BYTES)
    got: list[int] = []
    await read_numbers(got, batches(wire, budget=budget))

    assert got == expected
    assert max(got) <= budget.peak <= max(got) + 20
    assert budget.reserved == 0
    assert wire.protocol is wire, "the tap is gone"
    assert wire.received == COPY_OUT + DONE + message(b"C", f"COPY {len(got)}\0".encode()) + READY


@pytest.mark.parametrize("chunk", [1, 50, 100_000])
@pytest.mark.parametrize("before", [[], [9, 9], [400] * 30, [2000]])
async def test_a_row_that_becomes_too_large_is_not_decoded(before: list[int], chunk: int) -> None:
    """The rows before it are delivered."""
    wire = numbers([*before, MAX_ROW_BYTES + 1, 9], chunk=chunk)
    got: list[int] = []
    with pytest.raises(RowTooLarge):
        await read_numbers(got, batches(wire))

    assert got == before
    assert wire.aborted


@pytest.mark.parametrize("chunk", [1, 50, 100_000])
async def test_an_error_behind_rows_that_are_held_back(chunk: int) -> None:
    """It comes after all of them."""
    wire = numbers([400] * 30, end=ERROR + READY, chunk=chunk)
    got: list[int] = []
    with pytest.raises(asyncpg.DivisionByZeroError):
        await read_numbers(got, batches(wire))

    assert got == [400] * 30


async def test_a_malformed_row_behind_rows_that_are_held_back() -> None:
    """It is found when these have been taken."""
    wire = numbers([400] * 30, end=message(b"d", b"malformed"), chunk=100_000)
    got: list[int] = []
    with pytest.raises(ValueError, match="number of columns"):
        await read_numbers(got, batches(wire))

    assert got == [400] * 30
    assert wire.aborted


async def test_a_connection_that_is_lost_while_rows_are_held_back() -> None:
    """What has arrived is delivered, and then the error; a large row isn't waited for."""
    for large in ([], [2000]):
        wire = numbers([400] * 30 + large, chunk=100_000)
        found = batches(wire)
        got = [len(value) for (value,) in await anext(found)]
        wire.aborted = True
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await read_numbers(got, found)
        assert got[:30] == [400] * 30


@pytest.mark.parametrize("is_answered", [False, True])
@pytest.mark.parametrize("rows", [[400] * 30, [400, 2000, 400], [2000]])
async def test_leaving_while_rows_are_held_back(rows: list[int], is_answered: bool) -> None:
    """They are discarded, and what is behind them gets through. If that is the end, nothing is cancelled."""
    wire, budget = numbers(rows, end=ERROR + READY), ByteBudget(MAX_ROW_BYTES)
    kept = 0 if is_answered else 3
    wire.chunk = len(wire.sent) - kept
    found = batches(wire, budget=budget)
    await budget.acquire(MAX_ROW_BYTES)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await anext(found)
    await found.close()
    while wire.sent:
        assert not wire.paused
        wire.deliver()

    assert wire.cancelled is not is_answered
    assert wire.received == COPY_OUT + ERROR + READY
    assert wire.protocol is wire, "the tap is gone"
    assert budget.reserved == MAX_ROW_BYTES
    assert wire.decoder.rows == 0
