"""
Simulates workers on one history and one to three destinations, in virtual time, with every fault that can occur.

Every call of a worker may be refused, lose its reply, or take effect only after its worker has given it up, died or
been superseded. At any call, a worker may pause for longer than its lease, be killed without cleaning up, or be drained
and then hang while it leaves an upload. Some runs always kill the process that reads their rows. Workers have one of
two job configs. Runs are cancelled, uploads removed by a lifecycle rule, requests redelivered, acks of announced events
lost, and dead letters refused for good (`letters.py`). The seed alone decides what happens. Meanwhile, `promises.py`
checks the promises that hold at every moment.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any

from pipeline_processing.aio.asking import Backoff, Server
from pipeline_processing.aio.clock import HistoryClock
from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import DestinationUnavailable, HistoryUnavailable, PipelineError, SourceUnavailable
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.runs.billing import Ledger
from pipeline_processing.runs.executor import DataPath, Executor, Reporting
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.runs.lease import Leases
from pipeline_processing.runs.store import Claim, Incoming, Origin
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.memory.destination import MemoryDestination
from tests.simulation.kafka import Kafka
from tests.simulation.letters import Letters
from tests.simulation.promises import Promises
from tests.unit.in_memory import (
    INLINE_LIMIT,
    INSTALLATION,
    Call,
    InterposedDestination,
    MemorySource,
    NoServices,
    incoming,
    interposed,
    job,
)
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import VirtualClock

LEASE = 10.0
QUIET_AFTER = 30.0
"""Seconds after which no more faults occur."""
PATIENCE = 900.0
"""Seconds within which all runs must have finished."""
DATASETS = ("one", "two", "three")
CONFIGS = ("a0" * 16, "b1" * 16)
"""Ids of the workers' job configs."""
PLACES = 2
"""Concurrent runs in one process."""
POISONED = -11
"""The exit code of a child whose run killed it."""


class Killed(BaseException):
    """Ends every call of a dead worker."""


@dataclass(frozen=True, slots=True)
class Chances:
    """The probabilities of faults, at each call."""

    refused: float
    lost: float
    late: float
    paused: float
    killed: float
    drained: float
    cancelled: float
    removed: float
    hangs: float

    @classmethod
    def drawn(cls, choose: random.Random) -> Chances:
        """Draw the probabilities. Some seeds have only some of the faults."""

        def upto(most: float) -> float:
            return choose.choice((0.0, choose.uniform(0, most)))

        return cls(
            refused=upto(0.1),
            lost=upto(0.1),
            late=upto(0.08),
            paused=upto(0.05),
            killed=upto(0.04),
            drained=upto(0.04),
            cancelled=upto(0.4),
            removed=upto(0.6),
            hangs=upto(0.5),
        )

    @classmethod
    def none(cls) -> Chances:
        """No random faults."""
        return cls(*(0.0,) * len(fields(cls)))


@dataclass
class World:
    """One seed's history, destinations, workers and faults."""

    seed: int
    trace: list[str] = field(default_factory=list)
    """What happened, for debugging."""
    requests: set[asyncio.Task[Any]] = field(default_factory=set)
    """Calls that haven't arrived yet."""

    def __post_init__(self) -> None:
        self.choose = random.Random(self.seed)
        self.chances = Chances.none() if self.choose.random() < 0.1 else Chances.drawn(self.choose)
        self.clock = VirtualClock()
        self.table = RunTable(clock=self.clock, installation_id=INSTALLATION)
        self.runs = memory_run_store(self.table)
        self.destinations: list[MemoryDestination] = [
            MemoryDestination(inline_limit=INLINE_LIMIT),
            *self.choose.choice(
                (
                    [],
                    [MemoryDestination(url="memory://second", inline_limit=INLINE_LIMIT, handles="second")],
                    [MemoryTables()],
                    [MemoryTables(), MemoryDestination(url="memory://second", inline_limit=0, handles="second")],
                )
            ),
        ]
        """The first one has the manifests."""
        self.promises = Promises(self.table, self.runs, self.destinations, datasets=DATASETS)
        self.kafka = Kafka(self)
        self.letters = Letters(self, datasets=DATASETS, config_id=CONFIGS[0])
        self.pace = self.choose.choice((0.0, 0.2, 1.0, 3.0))
        """The longest time in seconds to read or send something."""
        self.exports = 0
        self.over = False
        self.broken: AssertionError | None = None
        """The first broken promise. It is kept here, because the caller handles it like any other error."""
        self.workers: list[Worker] = []

    async def live(self) -> None:
        """Run with faults for a while, then let the workers finish. Raises AssertionError for a broken promise."""
        requests = await self._accept()
        tasks = [asyncio.create_task(self._keep_alive(number)) for number in range(self.choose.choice((2, 2, 3)))]
        tasks.append(asyncio.create_task(self._operator()))
        tasks.append(asyncio.create_task(self._lifecycle_rule()))
        tasks.append(asyncio.create_task(self.kafka.redeliver(requests)))
        tasks += [asyncio.create_task(self.kafka.announce()) for _ in range(2)]
        tasks.append(asyncio.create_task(self.letters.happen(requests)))
        while not await self._at_rest():
            assert self.clock.monotonic() < PATIENCE, f"not finished: {self._states()}"
            for task in tasks:
                if task.done():
                    task.result()  # raises its error
            if self.broken is not None:
                raise self.broken
            await asyncio.sleep(1)
        self.over = True
        await asyncio.gather(*tasks)
        if self.broken is not None:
            raise self.broken
        await self.promises.at_the_end(
            accepted_with={each.run_id: str(each.config_id) for each in requests},
            cancelled=self.cancelled,
            removals=self.chances.removed > 0,
        )
        if self.chances == Chances.none():
            self.promises.only_poison_has_failed(self.poison)
        for record in self.table.records.values():
            self.kafka.told(record.run)
        await self.letters.all_put_aside()

    def note(self, who: str, what: str) -> None:
        self.trace.append(f"{self.clock.monotonic():8.3f} {who:6} {what}")

    @property
    def is_quiet(self) -> bool:
        return self.clock.monotonic() >= QUIET_AFTER

    # -- requests --------------------------------------------------------------------------------

    async def _accept(self) -> list[Incoming]:
        self.cancelled: set[str] = set()
        self.run_ids = [f"r{number}" for number in range(self.choose.choice((1, 2, 3)))]
        self.poison = {run_id for run_id in self.run_ids if self.choose.random() < 0.1}
        requests = [
            incoming(
                run_id,
                agency_id=self.choose.choice((7, 8)),
                dry_run=self.choose.random() < 0.1,
                origin=Origin(topic="requests", partition=0, offset=number) if self.choose.random() < 0.8 else None,
                config_id=self.choose.choice(CONFIGS),
            )
            for number, run_id in enumerate(self.run_ids)
        ]
        await self.kafka.deliver(requests)
        return requests

    def rows(self, config_id: str) -> dict[str, list[list[tuple[int, str]]]]:
        """
        Return the rows of one export with a job config. No two exports have the same rows, so that a mix of two
        attempts is noticed.
        """
        self.exports += 1
        return {
            name: [
                [(number, f"export {self.exports} with {config_id} " + "x" * self.choose.choice((0, INLINE_LIMIT)))]
                for number in range(self.choose.choice((0, 1, 2)))
            ]
            for name in DATASETS
        }

    # -- other actors ----------------------------------------------------------------------------

    async def _operator(self) -> None:
        """Cancels some runs."""
        for run_id in self.run_ids:
            if self.choose.random() < self.chances.cancelled:
                await asyncio.sleep(self.choose.uniform(0, 8))
                run = await self.runs.queue.cancel(run_id)
                self.note("oper", f"cancel {run_id}: {run.state}")
                if run.state == "cancelled":
                    self.cancelled.add(run_id)
                self.promises.at_this_moment()

    async def _lifecycle_rule(self) -> None:
        """Removes decided but incomplete uploads, although its age limit should be longer than any run."""
        while not self.is_quiet and self.chances.removed:
            await asyncio.sleep(self.choose.uniform(0, 0.5))
            planned = {
                handle
                for record in self.table.records.values()
                if record.plan is not None
                for _, handle in record.plan.uploads
            }
            pending = [
                (each, upload)
                for each in self.destinations
                for upload in each.open_uploads
                if upload.upload_id in planned
            ]
            if pending and self.choose.random() < self.chances.removed:
                destination, upload = self.choose.choice(pending)
                self.note("rule", f"remove {upload.upload_id} of {upload.key}")
                await destination.abort(upload)

    async def _keep_alive(self, number: int) -> None:
        """Run a worker, and replace it when it has ended."""
        generation = 0
        while not self.over:
            generation += 1
            worker = Worker(self, f"w{number}.{generation}", CONFIGS[number % len(CONFIGS)])
            self.workers = [*(w for w in self.workers if not w.gone or w.at_work), worker]
            await worker.until_gone()
            if worker.dead and not self.over:
                await asyncio.sleep(self.choose.uniform(0, LEASE))

    # -- the end ---------------------------------------------------------------------------------

    async def _at_rest(self) -> bool:
        finished = all(record.run.state.finished for record in self.table.records.values())
        idle = all([await self.runs.queue.idle(config_id=config_id) for config_id in CONFIGS])
        assert finished or not idle, f"idle, but {self._states()}"
        settled = await self.letters.settled()
        return idle and settled and not self.requests and not any(process.at_work for process in self._processes())

    def _processes(self) -> list[Worker]:
        return [process for worker in self.workers for process in (worker, *worker.children)]

    def _states(self) -> dict[str, str]:
        return {run_id: record.run.state for run_id, record in self.table.records.items()}


class Worker:
    """A process that claims runs and executes several at once."""

    def __init__(self, world: World, name: str, config_id: str) -> None:
        self.name = name
        self.config_id = config_id
        self.dead = False
        self.gone = False
        self.busy = 0
        self.children: list[Child] = []
        self.world = world
        self._choose = world.choose
        self._paused_until = 0.0
        self._life: asyncio.Task[None] | None = None
        clock = HistoryClock(_WorkersClock(self))
        runs = interposed(world.runs, self._around_history)
        destinations: list[Any] = [InterposedDestination(each, self._around_destination) for each in world.destinations]
        self.leases = Leases(
            queue=runs.queue,
            clock=clock,
            worker=name,
            config_id=config_id,
            length=timedelta(seconds=LEASE),
            max_runs_per_agency=1,
        )
        self.executor = Executor(
            runs=runs,
            leases=self.leases,
            path=DataPath(
                config=job(*DATASETS, latest=True),
                config_id=config_id,
                source=_ChangingSource(self),
                services=NoServices(),
                destinations=Destinations(destinations),
                nowhere=Destinations([NullDestination()]),
                max_row_bytes=1_000_000,
            ),
            history=Server("the history", clock=clock),
            retry=RetryPolicy(
                max_attempts=5,
                backoff=Backoff(0.5, 4.0, jitter=self._choose.random),
                patience=timedelta(seconds=5),
                patience_for_servers=timedelta(seconds=5),
            ),
            reporting=Reporting(
                tracer=IdsOnlyTracer(),
                mask=Mask(),
                on_progress=lambda progress: None,
                ledger=Ledger(cpu=lambda: 0.0),
            ),
            leave_seconds=10.0,
            isolated=None if isinstance(self, Child) else partial(Child, self),
        )

    @property
    def at_work(self) -> bool:
        """Whether it has attempts, including those that haven't unwound after it was drained."""
        return bool(self.busy or self.executor.attempts)

    async def until_gone(self) -> None:
        """Work until killed or drained, or the world ends."""
        self._life = asyncio.create_task(self._work())
        await asyncio.wait([self._life])
        self.gone = True
        error = None if self._life.cancelled() else self._life.exception()
        if error is not None and not isinstance(error, Killed):
            raise error

    async def _work(self) -> None:
        ends = await asyncio.gather(*(self._work_on_one() for _ in range(PLACES)), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _work_on_one(self) -> None:
        while not self.world.over:
            self.busy += 1
            try:
                lease = await self.executor.claim()
                if lease is not None:
                    await self.executor.execute(lease)
                    continue
            except PipelineError as error:
                self.world.note(self.name, f"!! {error}")
            finally:
                self.busy -= 1
            await asyncio.sleep(1.5)

    # -- faults ----------------------------------------------------------------------------------

    async def unpaused(self) -> None:
        """Wait while this worker is paused. Raises Killed if it is dead."""
        while not self.dead and (left := self._paused_until - self.world.clock.monotonic()) > 0:  # noqa: ASYNC110 see below
            await asyncio.sleep(left)  # the time is known, unless another pause follows
        if self.dead:
            raise Killed

    def _happens(self, chance: float) -> bool:
        return chance > 0 and not self.world.is_quiet and self._choose.random() < chance

    def _draw_fault(self) -> None:
        """Draw a fault of the worker itself: a pause, a kill or a drain."""
        assert self._life is not None
        chances = self.world.chances
        if self._happens(chances.killed):
            self.die("is killed")
        elif self._happens(chances.paused):
            seconds = self._choose.uniform(0, 3 * LEASE)
            self.world.note(self.name, f"pauses for {seconds:.3f}")
            self._paused_until = self.world.clock.monotonic() + seconds
        elif self._happens(chances.drained):
            self.world.note(self.name, "is drained")
            self._life.cancel()

    def die(self, how: str) -> None:
        """Kill it: from now on, nothing it does has any effect."""
        assert self._life is not None
        self.world.note(self.name, how)
        self.dead = True
        self._life.cancel()

    async def around_source(self, method: str, call: Call) -> Any:
        return await self._local_call(method, call, SourceUnavailable)

    async def _around_history(self, method: str, call: Call) -> Any:
        return await self._remote_call(method, call, HistoryUnavailable)

    async def _around_destination(self, method: str, call: Call) -> Any:
        if method == "leave":  # aborts, or tries to
            await self.unpaused()
            if self._happens(self.world.chances.hangs):  # the run is still handed back
                self.world.note(self.name, "hangs while it leaves an upload")
                await shielded(asyncio.sleep(self._choose.uniform(0, 3 * LEASE)))
                await self.unpaused()
            return await call() if not self._happens(self.world.chances.refused) else None
        if method in ("write", "seal"):
            return await self._local_call(method, call, DestinationUnavailable)
        return await self._remote_call(method, call, DestinationUnavailable)

    async def _local_call(self, method: str, call: Call, error: type[PipelineError]) -> Any:
        """Make a call that changes nothing outside the worker."""
        await self._begin()
        if self.world.pace and not self.world.is_quiet:
            await asyncio.sleep(self._choose.uniform(0, self.world.pace))
            await self.unpaused()
        if self._happens(self.world.chances.refused):
            raise error(f"{method} is refused")
        answer = await call()
        await self.unpaused()
        return answer

    async def _remote_call(self, method: str, call: Call, error: type[PipelineError]) -> Any:
        """Make a call through the network, where it continues even if its caller gives up."""
        await self._begin()
        chances, note = self.world.chances, self.world.note
        if self._happens(chances.refused):
            note(self.name, f"{method} is refused")
            await asyncio.sleep(self._choose.choice((0.0, self._choose.uniform(0, 2))))
            await self.unpaused()
            raise error(f"{method} is refused")
        late = self._happens(chances.late)
        longest = 3 * LEASE if late else self._choose.choice((0.0, 0.0, self.world.pace))
        on_its_way = self._choose.uniform(0, longest)
        request = asyncio.create_task(self._carried_out(method, call, on_its_way))
        self.world.requests.add(request)
        request.add_done_callback(self._arrived)
        answer = await asyncio.shield(request)
        self._draw_fault()
        await self.unpaused()
        if self._happens(chances.lost):
            note(self.name, f"{method} loses its reply")
            raise error(f"the reply to {method} is lost")
        return answer

    async def _begin(self) -> None:
        await self.unpaused()
        self._draw_fault()
        await asyncio.sleep(0)  # a cancellation takes effect here
        await self.unpaused()

    async def _carried_out(self, method: str, call: Call, on_its_way: float) -> Any:
        if on_its_way:
            await asyncio.sleep(on_its_way)
        self.world.note(self.name, method)
        try:
            return await call()
        except AssertionError as error:
            self.world.broken = self.world.broken or error
            raise

    def _arrived(self, request: asyncio.Task[Any]) -> None:
        self.world.requests.discard(request)
        if not request.cancelled():
            request.exception()  # mark it as retrieved, in case the caller gave up


class Child(Worker):
    """A worker's child process, which makes one attempt. It ends when its worker ends."""

    def __init__(self, parent: Worker, claim: Claim) -> None:
        super().__init__(parent.world, f"{parent.name}/{claim.run.run_id}", parent.config_id)
        self._parent = parent
        self._claim = claim
        self._resumed = asyncio.Event()
        self._over: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `isolated.IsolatedAttempt`."""
        self._life = asyncio.create_task(self._work())
        self._over = asyncio.create_task(self._follow())
        self._parent.children.append(self)
        resumed = asyncio.create_task(self._resumed.wait())
        await asyncio.wait((resumed, self._over), return_when=asyncio.FIRST_COMPLETED)
        resumed.cancel()

    async def ended(self) -> int:
        """See `isolated.IsolatedAttempt`."""
        assert self._over is not None
        await asyncio.wait([self._over])
        return POISONED if self.dead else 0

    async def stop(self) -> None:
        """See `isolated.IsolatedAttempt`."""
        if self._life is not None and self._over is not None:
            self._life.cancel()
            await asyncio.wait([self._over])

    async def _work(self) -> None:
        self.busy += 1
        try:
            lease = await self.leases.resume(self._claim)
            self._resumed.set()
            await self.executor.execute(lease)
        except PipelineError as error:
            self.world.note(self.name, f"!! {error}")
        finally:
            self.busy -= 1

    async def _follow(self) -> None:
        """Run until the attempt has ended or the parent is dead."""
        assert self._life is not None
        while not self._life.done():
            await asyncio.wait([self._life], timeout=1.0)
            if self._parent.dead:
                self._life.cancel()
        self.gone = True


class _WorkersClock:
    """The world's clock, for a worker that oversleeps when paused."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.now = worker.world.clock.now
        self.monotonic = worker.world.clock.monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._worker.unpaused()


class _ChangingSource:
    """A source with different rows in each snapshot. Reading them kills the process of some runs."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def snapshot(self, datasets: Any) -> Any:
        world = self._worker.world
        asked: list[Any] = []

        async def around(method: str, call: Call) -> Any:
            if asked and asked[-1]["run_id"] in world.poison:
                self._worker.die(f"dies of {asked[-1]['run_id']}")
            return await self._worker.around_source(method, call)

        rows = world.rows(self._worker.config_id)
        return MemorySource(rows, clock=world.clock, around=around, asked=asked).snapshot(datasets)
