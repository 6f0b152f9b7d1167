"""The meter between the network and asyncpg: fetches bounded in bytes, and no message lost, repeated or moved."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.sources.postgres.metered import Meter
from tests.unit.sources.postgres.transport import Transport

FETCH_BYTES = 1000
MAX_ROW_BYTES = 5000
SUSPENDED, READY, COMPLETE = b"s\0\0\0\4", b"Z\0\0\0\5T", b"C\0\0\0\x0dSELECT 9\0"
ERROR, LATER_ERROR, NOTICE = b"E\0\0\0\x0aSfirst", b"E\0\0\0\x0aSlater", b"N\0\0\0\x09Snote"
ANSWER = b"C\0\0\0\x0dROLLBACK\0" + READY


def row(number: int, size: int) -> bytes:
    body = number.to_bytes(4, "big") + b"x" * max(0, size - 9)
    return b"D" + (len(body) + 4).to_bytes(4, "big") + body


class Wire(Transport):
    """
    A server with rows of these sizes, the network, and asyncpg's end of it. Every Execute is answered in full, and
    arrives in pieces cut anywhere.
    """

    def __init__(
        self, sizes: list[int], *, seed: int = 0, fails_at: int | None = None, budget: ByteBudget | None = None
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.rows = [row(number, size) for number, size in enumerate(sizes)]
        self.fails_at = fails_at
        self.failed = False
        self.at = 0
        self.sent = bytearray()
        self.budget = budget or ByteBudget(MAX_ROW_BYTES)
        self.meter = Meter(self, self, fetch_bytes=FETCH_BYTES, max_row_bytes=MAX_ROW_BYTES, budget=self.budget)

    # -- the server

    def execute(self, rows: int) -> None:
        if self.failed:
            self.sent += LATER_ERROR + READY
            return
        for _ in range(rows):
            if self.at == self.fails_at:
                self.failed = True
                self.sent += ERROR + READY
                return
            if self.at == len(self.rows):
                break
            self.sent += self.rows[self.at]
            self.at += 1
            if self.random.random() < 0.02:
                self.sent += NOTICE
        ended = self.at == len(self.rows)
        self.sent += (COMPLETE if ended else SUSPENDED) + READY

    def deliver(self) -> None:
        """One piece, if anybody reads."""
        size = self.random.choice([1, 3, 7, 100, 1500, 100_000])
        data = bytes(self.sent[:size])
        del self.sent[:size]
        if data and not self.paused:
            self.meter.data_received(data)
        elif data:
            self.sent[:0] = data

    def messages(self) -> list[bytes]:
        """What asyncpg got, all of it whole."""
        found, at = [], 0
        while at < len(self.received):
            size = 1 + int.from_bytes(self.received[at + 1 : at + 5], "big")
            found.append(bytes(self.received[at : at + size]))
            assert len(found[-1]) == size
            at += size
        return found

    @contextmanager
    def fetching(self, rows: int) -> Iterator[None]:
        self.received.clear()
        with self.meter.fetching(rows) as asked:
            self.execute(asked)
            yield

    async def fetch(self, rows: int) -> list[bytes]:
        """As asyncpg does it: everything up to ReadyForQuery."""
        self.meter.give_back()
        with self.fetching(rows):
            await drawn()
            while not self.received.endswith(READY):
                assert self.sent, "nothing more comes"
                assert not self.paused, "nobody reads"
                self.deliver()
                await drawn()
        assert self.meter.holds_large_row == any(
            len(each) > FETCH_BYTES for each in self.messages() if each[:1] == b"D"
        )
        return self.messages()

    async def fetch_patiently(self) -> None:
        """All rows in pieces, each as soon as somebody reads."""
        with self.fetching(100):
            while not self.received.endswith(READY):
                if self.sent and not self.paused:
                    self.meter.data_received(bytes(self.sent[:1500]))
                    del self.sent[:1500]
                await asyncio.sleep(0)

    async def answer(self) -> list[bytes]:
        """What asyncpg gets when it asks something else."""
        self.received.clear()
        self.sent += ANSWER
        while self.sent:
            assert not self.paused
            self.deliver()
        return self.messages()


async def drawn() -> None:
    """Let a fetch begin, and a large row draw its bytes."""
    for _ in range(3):
        await asyncio.sleep(0)


def sizes(seed: int) -> list[int]:
    """Rows that are small, then large, then mixed, in stretches of any length."""
    draw = random.Random(seed)
    found: list[int] = []
    while len(found) < 300:
        low, high = draw.choice([(9, 30), (400, 900), (1000, 5000), (9, 5000)])
        found += [draw.randint(low, high) for _ in range(draw.choice([1, 3, 20, 80]))]
    return found


@pytest.mark.parametrize("seed", range(15))
async def test_every_row_arrives_once_and_no_fetch_is_large(seed: int) -> None:
    """However rows grow and the network cuts: a fetch has the bytes allowed and at most the row that was under way."""
    wire = Wire(sizes(seed), seed=seed)
    draw = random.Random(seed)
    got: list[bytes] = []
    while True:
        wanted = draw.choice([1, 4, 50])
        messages = await wire.fetch(wanted)
        rows = [each for each in messages if each[:1] == b"D"]
        if not rows:
            break
        got += rows
        assert len(rows) <= wanted
        assert sum(map(len, rows[:-1])) <= FETCH_BYTES
        assert [each for each in messages if each[:1] not in b"DN"] in ([SUSPENDED, READY], [COMPLETE, READY])

    assert got == wire.rows
    assert messages[-2:] == [COMPLETE, READY]
    assert await wire.answer() == [COMPLETE[:5] + b"ROLLBACK\0", READY]


@pytest.mark.parametrize("seed", range(8))
async def test_the_first_error_ends_the_fetch(seed: int) -> None:
    """Those of later Executes, which only say that the transaction is aborted, are no answer to anything."""
    wire = Wire(sizes(seed), seed=seed, fails_at=random.Random(seed).randint(0, 200))
    got: list[bytes] = []
    while not wire.received.startswith(ERROR) and ERROR not in (messages := await wire.fetch(20)):
        got += [each for each in messages if each[:1] == b"D"]

    assert [each for each in messages if each[:1] in b"EZ"] == [ERROR, READY]
    assert got == wire.rows[: len(got)]
    assert LATER_ERROR not in await wire.answer()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cancelled", [False, True])
async def test_leaving_early(cancelled: bool, seed: int) -> None:
    """What the server still owes is thrown away, and the next answer is the one to the next question."""
    wire = Wire(sizes(seed), seed=seed)
    for _ in range(random.Random(seed).randint(1, 30)):
        await wire.fetch(20)
    if cancelled:
        with wire.fetching(20):
            await asyncio.sleep(0)
            wire.deliver()
        await wire.meter.close()
        while wire.sent:
            assert not wire.paused
            wire.deliver()
        assert [each for each in wire.messages() if each[:1] == b"Z"] == [READY]
    else:
        await wire.meter.close()

    assert wire.budget.reserved == 0
    assert [each for each in await wire.answer() if each != NOTICE] == [ANSWER[: -len(READY)], READY]


@pytest.mark.parametrize("chunk", [1, 4, 100, 6000])
async def test_a_row_that_is_too_large_ends_the_connection_before_it_is_there(chunk: int) -> None:
    """Its size is known from its first bytes."""
    wire = Wire([20, 20, MAX_ROW_BYTES + 1, 20])
    with wire.fetching(100):
        sent = bytes(wire.sent)
        for at, end in pairwise([*range(0, len(sent), chunk), len(sent)]):
            wire.meter.data_received(sent[at:end])
            if wire.aborted:
                break

    assert wire.meter.too_large == MAX_ROW_BYTES + 1
    assert len(wire.received) <= FETCH_BYTES


async def test_large_rows_of_several_runs_wait_for_each_other() -> None:
    """A row is read only when there is memory for it: what the one before took is given back with its batch."""
    budget = ByteBudget(MAX_ROW_BYTES)
    first, second = Wire([4000], budget=budget), Wire([4000], budget=budget)
    await first.fetch(5)
    assert budget.reserved == 4000

    reading = asyncio.create_task(second.fetch_patiently())
    for _ in range(50):
        await asyncio.sleep(0)
    assert second.paused
    assert len(second.received) < 4000

    first.meter.give_back()
    await reading
    assert second.messages()[:1] == second.rows
    assert (budget.reserved, budget.peak) == (4000, 4000)
    await second.meter.close()
    assert budget.reserved == 0
