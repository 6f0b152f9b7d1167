"""Work under a lease is undisturbed while the lease is renewed, and has stopped before it can have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Never

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline_processing.aio.clock import Clock, HistoryClock, SystemClock
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.errors import AccessDenied, HistoryUnavailable, Superseded
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.runs.lease import Lease, Leases, Renewal
from tests.properties import examples
from tests.unit.in_memory import (
    CONFIG_ID,
    INSTALLATION,
    LEASE,
    Between,
    Call,
    incoming,
    interposed,
    lost_reply,
    refused,
)
from tests.unit.virtual_clock import VirtualClock, VirtualLoop, in_virtual_time

SECONDS = LEASE.total_seconds()
LATEST = SECONDS * 0.9
"""Seconds after which a lease that isn't renewed is given up."""
DOWN = HistoryUnavailable("the history is down")


def leases_of(renewal: Renewal, clock: Clock, *, length: timedelta = LEASE) -> Leases:
    """A worker's leases, on the run table that renews them."""
    return Leases(
        queue=renewal.queue,
        clock=HistoryClock(clock),
        worker="first",
        config_id=CONFIG_ID,
        length=length,
        max_runs_per_agency=1,
        renewal=renewal,
    )


class Leased:
    """A run, a worker's leases, and work that notes how it goes."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.table = RunTable(clock=self.clock, installation_id=INSTALLATION)
        self.runs = memory_run_store(self.table)
        self.between = Between()
        self.leases = leases_of(Renewal(interposed(self.runs, self.between).queue), self.clock)
        self.stopped_at: float | None = None

    async def claim(self) -> Lease:
        await self.runs.intake.accept(incoming())
        lease = await self.leases.claim()
        assert lease is not None
        return lease

    async def works(self, seconds: float) -> str:
        """Work that takes so long."""
        try:
            await self.clock.sleep(seconds)
        except asyncio.CancelledError:
            self.stopped_at = self.clock.monotonic()
            raise
        return "done"

    async def is_free(self) -> bool:
        """Whether another worker gets the run."""
        claim = await self.runs.queue.claim(worker="second", lease=LEASE, max_runs_per_agency=1)
        return claim is not None


@pytest.fixture
def leased() -> Leased:
    return Leased()


# -- kept ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_is_renewed_at_a_third(leased: Leased) -> None:
    """However long the work takes, nobody else ever gets the run."""
    lease = await leased.claim()
    renewed_at = []

    async def noted(call: Call) -> Any:
        renewed_at.append(leased.clock.monotonic())
        return await call()

    leased.between.on_every("renew", noted)
    working = asyncio.create_task(leased.leases.work(lease, leased.works(95)))
    while not working.done():
        assert not await leased.is_free()
        await leased.clock.sleep(1)

    assert await working == "done"
    assert renewed_at == [10, 20, 30, 40, 50, 60, 70, 80, 90]


@in_virtual_time
async def test_a_renewal_is_due_a_third_after_the_last_was_sent(leased: Leased) -> None:
    """However late its answer came: time is counted from before it was sent."""
    lease = await leased.claim()
    sent_at = []

    async def slow(call: Call) -> Any:
        sent_at.append(leased.clock.monotonic())
        await call()
        await leased.clock.sleep(13)

    leased.between.on_every("renew", slow)
    assert await leased.leases.work(lease, leased.works(100)) == "done"
    assert sent_at == [10, 23, 36, 49, 62, 75, 88]


@in_virtual_time
async def test_a_renewal_is_due_a_third_after_the_claim_was_sent(leased: Leased) -> None:
    """A claim that was answered late is renewed in time, at once if need be."""

    async def slow(call: Call) -> Any:
        claim = await call()
        await leased.clock.sleep(25)
        return claim

    leased.between.on_next("claim", slow)
    lease = await leased.claim()
    working = asyncio.create_task(leased.leases.work(lease, leased.works(60)))
    while not working.done():
        assert not await leased.is_free()
        await leased.clock.sleep(1)
    assert await working == "done"


@in_virtual_time
async def test_it_outlives_errors_of_the_history(leased: Leased) -> None:
    """A renewal that fails, or whose reply is lost, is tried again within the lease."""
    lease = await leased.claim()
    leased.between.on_next("renew", refused(DOWN), refused(DOWN), None, lost_reply(DOWN), refused(DOWN))
    assert await leased.leases.work(lease, leased.works(100)) == "done"


# -- lost ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_is_lost_when_the_run_is_cancelled(leased: Leased) -> None:
    """The worker notices within a second, long before it has to renew, and stops the work."""
    lease = await leased.claim()
    await leased.runs.queue.cancel("r")
    with pytest.raises(Superseded):
        await leased.leases.work(lease, leased.works(100))
    assert leased.stopped_at == 1


@in_virtual_time
async def test_it_is_lost_when_another_worker_has_the_run(leased: Leased) -> None:
    """As after a pause: the fence has moved on."""
    await leased.runs.intake.accept(incoming())
    claim = await leased.runs.queue.claim(worker="first", lease=timedelta(seconds=1), max_runs_per_agency=1)
    assert claim is not None
    await leased.clock.sleep(1)
    assert await leased.is_free()
    with pytest.raises(Superseded):
        await leased.leases.work(Lease(claim, ends_at=SECONDS), leased.works(100))
    assert leased.stopped_at == 2


@in_virtual_time
async def test_a_look_that_is_never_answered_holds_up_no_renewal(leased: Leased) -> None:
    """Looking for a cancellation is a courtesy; keeping the lease isn't."""

    async def never(call: Call) -> None:
        await leased.clock.sleep(3600)

    lease = await leased.claim()
    leased.between.on_every("check", never)
    assert await leased.leases.work(lease, leased.works(25)) == "done"
    assert leased.between.log.count("renew") == 2


@in_virtual_time
async def test_it_is_given_up_when_it_cant_be_renewed_in_time(leased: Leased) -> None:
    """The work has stopped a tenth of the lease before another worker can get the run."""
    lease = await leased.claim()
    leased.between.on_every("renew", refused(DOWN))
    with pytest.raises(Superseded):
        await leased.leases.work(lease, leased.works(100))
    assert leased.stopped_at == LATEST
    await leased.clock.sleep(SECONDS - LATEST - 0.1)
    assert not await leased.is_free()
    await leased.clock.sleep(0.1)
    assert await leased.is_free()


@in_virtual_time
async def test_it_is_given_up_when_a_renewal_is_never_answered(leased: Leased) -> None:
    """A connection that says nothing is as good as none."""
    lease = await leased.claim()

    async def never(call: Call) -> Any:
        await asyncio.Event().wait()

    leased.between.on_every("renew", never)
    with pytest.raises(Superseded):
        await leased.leases.work(lease, leased.works(100))
    assert leased.stopped_at == LATEST


Answers = list[tuple[str, float]]


@given(
    claim_seconds=st.floats(0, SECONDS * 1.5),
    answers=st.lists(st.tuples(st.sampled_from(["done", "refused", "lost"]), st.floats(0, SECONDS)), max_size=12),
)
@example(claim_seconds=21.0, answers=[("refused", 1.0)])
@example(claim_seconds=0.0, answers=[("refused", 16.9)])
@example(claim_seconds=0.0, answers=[("done", 16.9), ("done", 0.0)])
@examples(300)
def test_the_work_has_stopped_before_the_lease_can_have_ended(claim_seconds: float, answers: Answers) -> None:
    """However slowly the history answers, and whatever: counted from before the last success was sent."""

    async def scenario() -> None:
        leased = Leased()
        renewed_at = [0.0]
        left = iter(answers)

        async def answered_late(call: Call) -> Any:
            sent_at = leased.clock.monotonic()
            answer, seconds = next(left, ("refused", 1.0))
            if answer == "refused":
                await leased.clock.sleep(seconds)
                raise DOWN
            await call()
            await leased.clock.sleep(seconds)
            if answer == "lost":
                raise DOWN
            renewed_at.append(sent_at)

        async def late(call: Call) -> Any:
            claim = await call()
            await leased.clock.sleep(claim_seconds)
            return claim

        leased.between.on_next("claim", late)
        leased.between.on_every("renew", answered_late)
        lease = await leased.claim()
        with pytest.raises(Superseded):
            await leased.leases.work(lease, leased.works(10_000))
        # A claim that comes too late for any work is given up at once; it may have been tried to renew it.
        assert leased.stopped_at is None or leased.stopped_at <= max(renewed_at[-1] + LATEST, claim_seconds) + 1e-6

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


# -- renewed beside the work ------------------------------------------------------------------------


class Aside:
    """Leases of one second in real time, renewed in a second event loop."""

    def __init__(self, side: SideLoop, *, hangs: Callable[[], bool] = lambda: False) -> None:
        self.table = RunTable(clock=SystemClock(), installation_id=INSTALLATION)
        self.runs = memory_run_store(self.table)
        renewal = Renewal(self.runs.queue, start=side.start, hangs=hangs)
        self.leases = leases_of(renewal, SystemClock(), length=timedelta(seconds=1))

    async def claim(self) -> Lease:
        await self.runs.intake.accept(incoming())
        lease = await self.leases.claim()
        assert lease is not None
        return lease

    def ends_at(self) -> datetime:
        ends_at = self.table.records["r"].run.lease_expires_at
        assert ends_at is not None
        return ends_at


async def test_work_that_blocks_the_event_loop_keeps_its_lease() -> None:
    """For several times its length: another loop renews it."""

    async def block() -> str:
        began = datetime.now(UTC)
        while aside.ends_at() < began + timedelta(seconds=3):
            assert aside.ends_at() > datetime.now(UTC), "lost"
            time.sleep(0.01)  # noqa: ASYNC251  # the blocking is what is tested
        return "done"

    async with SideLoop() as side:
        aside = Aside(side)
        assert await aside.leases.work(await aside.claim(), block()) == "done"


async def test_work_that_hangs_is_given_up() -> None:
    """Nothing is renewed for ever."""
    async with SideLoop() as side:
        aside = Aside(side, hangs=lambda: True)
        with pytest.raises(Superseded):
            await aside.leases.work(await aside.claim(), asyncio.sleep(3600))


@in_virtual_time
async def test_work_ends_with_its_lease_though_nobody_says_so(leased: Leased) -> None:
    """Should the other loop be late, or dead."""

    def dead(work: Coroutine[Any, Any, Never]) -> asyncio.Future[Never]:
        work.close()
        return asyncio.get_running_loop().create_future()

    leased.leases = leases_of(Renewal(leased.runs.queue, start=dead), leased.clock)
    lease = await leased.claim()
    with pytest.raises(Superseded):
        await leased.leases.work(lease, leased.works(100))
    assert leased.stopped_at == SECONDS


# -- work ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_error_of_the_work_passes(leased: Leased) -> None:
    """As it is, and at once."""
    lease = await leased.claim()

    async def fails() -> None:
        await leased.clock.sleep(3)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await leased.leases.work(lease, fails())
    assert leased.clock.monotonic() == 3


@in_virtual_time
async def test_an_error_that_nobody_foresaw_stops_the_work(leased: Leased) -> None:
    """Renewing that can't go on for any other reason is raised as it is."""
    lease = await leased.claim()
    leased.between.on_next("renew", refused(AccessDenied("the history refuses this user")))
    with pytest.raises(AccessDenied):
        await leased.leases.work(lease, leased.works(100))
    assert leased.stopped_at == 10


@in_virtual_time
async def test_being_cancelled_stops_work_and_renewing(leased: Leased) -> None:
    """Nothing is left that would renew a lease which nobody works under; the decorator looks for tasks."""
    lease = await leased.claim()
    working = asyncio.create_task(leased.leases.work(lease, leased.works(100)))
    await leased.clock.sleep(15)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert leased.stopped_at == 15
    await leased.clock.sleep(100)
    assert [call for call in leased.between.log if call != "check"] == ["claim", "renew"]
    assert leased.between.log.count("check") == 14


@in_virtual_time
async def test_work_that_is_slow_to_stop_is_waited_for(leased: Leased) -> None:
    """Even if the caller is cancelled once more meanwhile."""
    lease = await leased.claim()
    cleaned_up = False

    async def slow_to_stop() -> None:
        nonlocal cleaned_up
        try:
            await leased.clock.sleep(100)
        finally:
            await asyncio.shield(asyncio.create_task(leased.clock.sleep(0)))
            cleaned_up = True

    working = asyncio.create_task(leased.leases.work(lease, slow_to_stop()))
    await leased.clock.sleep(1)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert cleaned_up
