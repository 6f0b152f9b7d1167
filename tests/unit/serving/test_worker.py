"""Several runs at once, and stopping in good order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import shielded
from pipeline_processing.errors import (
    HistoryUnavailable,
    PipelineError,
    SourceBusy,
    SourceUnavailable,
    TooManyConnections,
)
from pipeline_processing.model import RunState
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.serving.breaker import Breaker
from pipeline_processing.serving.worker import Concurrency, Worker, leave_seconds
from pipeline_processing.telemetry.health import Health, Pulse, Servers
from tests.unit.in_memory import Call, Service, refused, without_jitter
from tests.unit.virtual_clock import in_virtual_time


class Gate:
    """Holds up every batch until it is opened, and counts who waits."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, call: Call) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
        return await call()


class Running:
    """A worker at work, and how to tell it things."""

    def __init__(self, service: Service, *, concurrency: int, drain_seconds: float) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self.ended: list[str] = []
        self.history = Server("the history", clock=service.clock)
        self.servers = Servers(clock=service.clock)
        self.health = Health(pulses=[], servers=self.servers)
        self.worker = Worker(
            executor=service.first,
            concurrency=concurrency,
            drain_seconds=drain_seconds,
            pulse=Pulse("worker", clock=service.clock),
            history=self.history,
            breaker=Breaker(self.servers.of_runs, clock=service.clock, note=self.health.note),
            on_ended=self.ended.append,
        )


@asynccontextmanager
async def running(service: Service, *, concurrency: int = 4, drain_seconds: float = 60) -> AsyncIterator[Running]:
    """A worker for the length of the block; at its end it is told to stop, and has to."""
    it = Running(service, concurrency=concurrency, drain_seconds=drain_seconds)
    task = asyncio.create_task(it.worker.run(it.stop, it.hurry))
    try:
        yield it
    finally:
        it.stop.set()
        await task


async def states(service: Service) -> dict[str, RunState]:
    return {run.run_id: run.state for run in await service.runs.history.newest()}


@in_virtual_time
async def test_runs_are_done_as_they_become_due() -> None:
    """What is queued is done, and so is what is queued later."""
    service = Service()
    await service.accept("early", agency_id=1)

    async with running(service) as it:
        await service.clock.sleep(5)
        await service.accept("late", agency_id=2)
        await service.clock.sleep(5)

    assert await states(service) == {"early": RunState.SUCCEEDED, "late": RunState.SUCCEEDED}
    assert it.ended == ["early", "late"]


@in_virtual_time
async def test_a_quiet_worker_goes_on_within_two_seconds() -> None:
    """With what nobody tells it of, such as a run that another worker has handed back."""
    service = Service()

    async with running(service):
        await service.clock.sleep(300)
        await service.accept("late", agency_id=1)
        await service.clock.sleep(2)

        assert await states(service) == {"late": RunState.SUCCEEDED}


@in_virtual_time
async def test_no_more_runs_at_once_than_it_may() -> None:
    """Concurrency is a limit, and is used."""
    service, gate = Service(), Gate()
    service.between.on_every("batch", gate)
    for agency_id in range(1, 8):
        await service.accept(f"r{agency_id}", agency_id=agency_id)

    async with running(service, concurrency=3):
        await service.clock.sleep(5)
        assert gate.waiting == 3
        gate.open()
        await service.clock.sleep(5)

    assert gate.most == 3
    assert set((await states(service)).values()) == {RunState.SUCCEEDED}


@in_virtual_time
async def test_stopping_finishes_what_is_in_progress_and_takes_nothing_new() -> None:
    """A drain lets runs end, and leaves those in the queue to others."""
    service, gate = Service(), Gate()
    service.between.on_every("batch", gate)
    await service.accept("held", agency_id=1)
    await service.accept("queued", agency_id=2)

    async with running(service, concurrency=1) as it:
        await service.clock.sleep(1)
        it.stop.set()
        await service.clock.sleep(20)
        gate.open()

    assert await states(service) == {"held": RunState.SUCCEEDED, "queued": RunState.QUEUED}


@in_virtual_time
async def test_what_is_not_finished_in_the_drain_time_is_handed_back() -> None:
    """Before it is over: it is due again at once, its try doesn't count, and its uploads are gone."""
    service, gate = Service(), Gate()
    await service.accept("r")
    service.between.on_next("batch", None, None, None, gate)

    async with running(service, drain_seconds=20) as it:
        await service.clock.sleep(1)
        it.stop.set()
        stopped_at = service.clock.monotonic()

    assert 15 <= service.clock.monotonic() - stopped_at < 20
    assert service.outcomes() == ["handed_back"]
    assert (await service.runs.history.tries("r"), await states(service)) == (0, {"r": RunState.QUEUED})
    assert service.left_over() == ([], [])


@in_virtual_time
async def test_a_drain_lasts_no_longer_whatever_hangs() -> None:
    """An upload that can't be left, a claim without an answer: the run is handed back in time all the same."""
    service, gate = Service(leave_seconds=leave_seconds(8)), Gate()
    await service.accept("r")
    service.between.on_next("batch", None, None, None, gate)
    hung = asyncio.Event()

    async def hangs(call: Call) -> Any:
        await shielded(hung.wait())
        return await call()

    async with running(service, concurrency=2, drain_seconds=8) as it:
        await service.clock.sleep(1)
        service.between.on_every("leave", hangs)
        service.between.on_every("claim", hangs)
        await service.clock.sleep(1)
        it.stop.set()
        await service.clock.sleep(6.1)
        assert service.outcomes() == ["handed_back"]
        assert await service.second.claim() is not None
    assert service.clock.monotonic() <= 2 + 8
    hung.set()
    await asyncio.wait(service.first.attempts)


@in_virtual_time
async def test_fewer_runs_at_once_while_the_source_is_full() -> None:
    """As many as it has connections for, and all of them succeed though none has a second try."""
    service, connections = Service(retry=RetryPolicy(max_attempts=1, backoff=without_jitter())), 2
    for agency_id in range(1, 13):
        await service.accept(f"r{agency_id}", agency_id=agency_id)

    open_now, refusals = 0, []

    async def limited(call: Call) -> Any:
        nonlocal open_now
        if open_now == connections:
            refusals.append(service.clock.monotonic())
            raise TooManyConnections("full")
        open_now += 1
        try:
            await service.clock.sleep(30)
        finally:
            open_now -= 1
        return await call()

    service.between.on_every("snapshot", limited)
    async with running(service, concurrency=8):
        await service.clock.sleep(600)

    assert set((await states(service)).values()) == {RunState.SUCCEEDED}
    # At once all that were too many; then, as long as it lasts, far fewer than eight every 30 s.
    assert len([at for at in refusals if at == 0]) == 6
    assert len(refusals) < 40


@in_virtual_time
async def test_a_second_signal_hands_back_at_once() -> None:
    """Whoever is in a hurry doesn't wait for the drain time."""
    service, gate = Service(), Gate()
    await service.accept("r")
    service.between.on_every("batch", gate)

    async with running(service, drain_seconds=600) as it:
        await service.clock.sleep(1)
        it.stop.set()
        it.hurry.set()

    assert service.clock.monotonic() < 5
    assert service.outcomes() == ["handed_back"]


@in_virtual_time
async def test_a_history_that_is_away_is_waited_for() -> None:
    """Claims go on when it is back."""
    service = Service()
    await service.accept("r")
    service.between.on_every("claim", refused(HistoryUnavailable("gone")))

    async with running(service) as it:
        await service.clock.sleep(120)
        assert it.history.problem == "gone"
        service.between.on_every("claim", None)
        await service.clock.sleep(5)
        assert it.history.problem is None

    assert await states(service) == {"r": RunState.SUCCEEDED}


@in_virtual_time
async def test_one_run_whose_outcome_is_lost_does_not_stop_the_others() -> None:
    """Nor does a bug in working on it: its lease ends, and it goes on."""
    service = Service()
    service.between.on_next("succeed", refused(HistoryUnavailable("gone")))
    service.between.on_next("start", None, refused(RuntimeError("a bug")))
    for agency_id in (1, 2, 3):
        await service.accept(f"r{agency_id}", agency_id=agency_id)

    async with running(service, concurrency=1):
        await service.clock.sleep(200)

    assert set((await states(service)).values()) == {RunState.SUCCEEDED}


@in_virtual_time
async def test_a_run_that_is_cancelled_stops_within_seconds() -> None:
    """And leaves no upload behind."""
    service, gate = Service(), Gate()
    await service.accept("r")
    service.between.on_next("batch", None, None, gate)

    async with running(service) as it:
        await service.clock.sleep(3)
        await service.runs.queue.cancel("r")
        await service.clock.sleep(2)
        assert it.ended == ["r"]

    assert service.left_over() == ([], [])
    assert [event.state for event in service.events()] == ["cancelled"]


# -- how many runs at once ------------------------------------------------------------------------

FULL = TooManyConnections("full")


def learned(concurrency: Concurrency, error: PipelineError | None, *, began_at: float, now: float) -> int:
    concurrency.learn(error, began_at=began_at, now=now)
    return concurrency.limit


def test_it_is_halved_down_to_one_and_comes_back_by_one() -> None:
    """Never to more than it began with."""
    it = Concurrency(8)
    assert [learned(it, FULL, began_at=now, now=now + 0.5) for now in range(4)] == [4, 2, 1, 1]
    assert [learned(it, None, began_at=now, now=now + 0.5) for now in range(10, 20)] == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]


def test_attempts_that_found_it_full_together_halve_it_once() -> None:
    """Those that began before tell nothing new."""
    it = Concurrency(8)
    assert [learned(it, FULL, began_at=0, now=now) for now in (1, 1.1, 1.2)] == [4, 4, 4]
    assert learned(it, FULL, began_at=2, now=3) == 2


def test_other_errors_change_nothing() -> None:
    """They say nothing about connections."""
    it = Concurrency(8)
    learned(it, FULL, began_at=0, now=1)
    for error in (SourceBusy("a deadlock"), SourceUnavailable("gone"), PipelineError("x")):
        assert learned(it, error, began_at=2, now=3) == 4
