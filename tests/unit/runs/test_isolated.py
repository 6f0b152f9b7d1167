"""Attempts of runs that were lost with their worker, in processes of their own."""

from __future__ import annotations

import asyncio

import pytest

from pipeline_processing.errors import PipelineError, TransientError
from pipeline_processing.model import RunState
from pipeline_processing.runs.billing import Ledger
from pipeline_processing.runs.failures import Attempted
from pipeline_processing.runs.lease import Lease
from pipeline_processing.runs.store import Claim
from tests.unit.in_memory import LEASE, Service
from tests.unit.virtual_clock import in_virtual_time


class Process:
    """Stands for a child process: it finishes the run or not, hangs until it is stopped, and ends with `exit_code`."""

    def __init__(
        self,
        service: Service,
        *,
        exit_code: int = 0,
        finishes: bool = True,
        hangs: bool = False,
        fails: PipelineError | None = None,
    ) -> None:
        self.fails = fails
        self._over = asyncio.Event()
        self.begun = asyncio.Event()
        self.claims: list[Claim] = []
        self.stopped = 0
        self._service = service
        self._exit_code = exit_code
        self._finishes = finishes
        self._hangs = hangs

    def __call__(self, claim: Claim) -> Process:
        self.claims.append(claim)
        return self

    async def start(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.begun.set()

    async def ended(self) -> int:
        if self._hangs:
            await self._over.wait()
        elif self._finishes:
            executor = self._service.executor("first")
            await executor.execute(Lease(self.claims[-1], ends_at=self._service.clock.monotonic() + 30))
        return self._exit_code

    async def stop(self) -> None:
        self.stopped += 1
        self._over.set()


async def taken_over(service: Service, process: Process) -> Attempted:
    """What a worker makes of a run that another one has lost."""
    if not service.table.records:
        await service.accept()
        assert await service.second.claim() is not None
        await service.clock.sleep(LEASE.total_seconds())
    return await service.attempt(service.executor("first", isolated=process))


@in_virtual_time
async def test_a_run_that_was_lost_is_worked_on_apart() -> None:
    """Its outcome is what the history says then."""
    service = Service()
    process = Process(service)

    attempted = await taken_over(service, process)

    assert (attempted.run.state, attempted.error) == (RunState.SUCCEEDED, None)
    assert service.outcomes() == ["lost", "succeeded"]
    assert [claim.suspect for claim in process.claims] == [True]


@in_virtual_time
async def test_any_other_run_is_worked_on_here() -> None:
    """A process of its own is for suspects only."""
    service = Service()
    process = Process(service)
    await service.accept()

    attempted = await service.attempt(service.executor("first", isolated=process))

    assert (attempted.run.state, process.claims) == (RunState.SUCCEEDED, [])


@pytest.mark.parametrize(
    ("exit_code", "says"), [(7, "with exit code 7"), (-11, "by signal SIGSEGV"), (-9, "by signal SIGKILL")]
)
@in_virtual_time
async def test_a_process_that_ends_before_its_run_is_a_try(exit_code: int, says: str) -> None:
    """The run is tried again as after any transient error, and fails when its tries are used up."""
    service = Service()
    process = Process(service, exit_code=exit_code, finishes=False)

    attempted = await taken_over(service, process)
    assert attempted.run.state is RunState.QUEUED
    assert attempted.error is not None
    assert (attempted.error.kind, says in str(attempted.error)) == ("process_ended", True)
    while not attempted.run.state.finished:
        await service.clock.sleep(60)
        attempted = await taken_over(service, process)

    assert attempted.run.error is not None
    assert attempted.run.error.kind == "attempts_exhausted"
    assert says in attempted.run.error.message
    assert process.stopped == len(process.claims)


@in_virtual_time
async def test_a_worker_that_stops_stops_the_process_and_hands_the_run_back() -> None:
    """Also where the process doesn't do so itself."""
    service = Service()
    process = Process(service, hangs=True)
    working = asyncio.create_task(taken_over(service, process))
    await process.begun.wait()

    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert process.stopped == 1
    assert service.outcomes() == ["lost", "handed_back"]


@in_virtual_time
async def test_a_process_that_hangs_on_without_its_lease_is_ended() -> None:
    """It keeps no place of the worker's; the run is tried again, and that was a try."""
    service = Service()
    process = Process(service, exit_code=-9, hangs=True)

    attempted = await taken_over(service, process)

    assert process.stopped >= 1
    assert attempted.error is not None
    assert attempted.error.kind == "process_ended"
    assert service.outcomes() == ["lost", "retrying"]


@in_virtual_time
async def test_waiting_for_the_process_is_charged_to_no_run() -> None:
    """But for the little that the next run pays for any wait."""
    used = 0.0
    service = Service(ledger=Ledger(cpu=lambda: used, longest_carry=0.1))

    class Slow(Process):
        async def ended(self) -> int:
            nonlocal used
            used += 60.0
            return await super().ended()

    await taken_over(service, Slow(service, exit_code=7, finishes=False))

    assert (service.ledger.carried, service.ledger.unbilled) == (0.1, pytest.approx(59.9))


@in_virtual_time
async def test_a_process_that_cannot_be_started_is_a_try() -> None:
    """A machine without room for one more process may have some later."""
    service = Service()
    process = Process(service, fails=TransientError("no room"))

    attempted = await taken_over(service, process)

    assert (attempted.run.state, attempted.error) == (RunState.QUEUED, process.fails)
    assert service.outcomes() == ["lost", "retrying"]
