"""
A small world in which everything goes wrong that may: workers on one history and one to three destinations, in
virtual time.

Every call of a worker may be refused, lose its reply, or be on its way for so long that its worker has given it up,
died or been superseded before it takes effect. At any call a worker may pause for longer than its lease, be killed
without cleaning up, or be drained. Runs are cancelled, uploads removed by a lifecycle rule, requests delivered again,
and acks of announced events lost. What happens depends on the seed alone. While it happens, the promises are watched
that hold at every moment; see `promises.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pipeline_processing.destinations import Destinations
from pipeline_processing.errors import DestinationUnavailable, HistoryUnavailable, PipelineError, SourceUnavailable
from pipeline_processing.executor import Executor, RetryPolicy
from pipeline_processing.lease import Leases
from pipeline_processing.memory.destination import MemoryDestination
from pipeline_processing.memory.run_store import MemoryRunStore
from pipeline_processing.ports import Incoming, Origin
from pipeline_processing.stored_text import planned_uploads
from pipeline_processing.telemetry import IdsOnlyTracer
from tests.simulation.kafka import Kafka
from tests.simulation.promises import Promises
from tests.unit.in_memory import (
    INLINE_LIMIT,
    INSTALLATION,
    Call,
    Interposed,
    InterposedDestination,
    MemorySource,
    NoServices,
    incoming,
    job,
)
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import VirtualClock

LEASE = 10.0
QUIET_AFTER = 30.0
"""Seconds after which nothing goes wrong any more."""
PATIENCE = 900.0
"""Seconds within which all runs must have finished."""
DATASETS = ("one", "two", "three")


class Killed(BaseException):
    """What a call of a dead worker comes to: nothing."""


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely it is, at each call, that something goes wrong."""

    refused: float
    lost: float
    late: float
    paused: float
    killed: float
    drained: float
    cancelled: float
    removed: float

    @classmethod
    def drawn(cls, choose: random.Random) -> Chances:
        """Some seeds know only some of the faults."""

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
        )


@dataclass
class World:
    """One seed's history, destinations, workers and troubles."""

    seed: int
    trace: list[str] = field(default_factory=list)
    """What happened, for whoever has to understand it."""
    requests: set[asyncio.Task[Any]] = field(default_factory=set)
    """Calls on their way."""

    def __post_init__(self) -> None:
        self.choose = random.Random(self.seed)
        self.chances = Chances.drawn(self.choose)
        self.clock = VirtualClock()
        self.runs = MemoryRunStore(clock=self.clock, installation_id=INSTALLATION)
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
        """The first has the manifests."""
        self.promises = Promises(self.runs, self.destinations, datasets=DATASETS)
        self.kafka = Kafka(self)
        self.pace = self.choose.choice((0.0, 0.2, 1.0, 3.0))
        """Seconds that reading or sending something takes at most."""
        self.exports = 0
        self.over = False
        self.broken: AssertionError | None = None
        """The first promise that was broken: whoever made the call takes it for an error like any other."""
        self.workers: list[Worker] = []

    async def live(self) -> None:
        """Let everything go wrong for a while, and then the workers finish. Raises AssertionError."""
        requests = await self._accept()
        tasks = [asyncio.create_task(self._keep_alive(number)) for number in range(self.choose.choice((2, 2, 3)))]
        tasks.append(asyncio.create_task(self._operator()))
        tasks.append(asyncio.create_task(self._lifecycle_rule()))
        tasks.append(asyncio.create_task(self.kafka.redeliver(requests)))
        tasks += [asyncio.create_task(self.kafka.announce()) for _ in range(2)]
        while not await self._at_rest():
            assert self.clock.monotonic() < PATIENCE, f"not finished: {self._states()}"
            for task in tasks:
                if task.done():
                    task.result()  # raises what is wrong with it
            if self.broken is not None:
                raise self.broken
            await asyncio.sleep(1)
        self.over = True
        await asyncio.gather(*tasks)
        if self.broken is not None:
            raise self.broken
        await self.promises.at_the_end(cancelled=self.cancelled, removals=self.chances.removed > 0)
        for record in self.runs._records.values():
            self.kafka.told(record.run)

    def note(self, who: str, what: str) -> None:
        self.trace.append(f"{self.clock.monotonic():8.3f} {who:6} {what}")

    @property
    def is_quiet(self) -> bool:
        return self.clock.monotonic() >= QUIET_AFTER

    # -- what is asked for -----------------------------------------------------------------------

    async def _accept(self) -> list[Incoming]:
        self.cancelled: set[str] = set()
        self.run_ids = [f"r{number}" for number in range(self.choose.choice((1, 2, 3)))]
        requests = [
            incoming(
                run_id,
                agency_id=self.choose.choice((7, 8)),
                dry_run=self.choose.random() < 0.1,
                origin=Origin(topic="requests", partition=0, offset=number) if self.choose.random() < 0.9 else None,
            )
            for number, run_id in enumerate(self.run_ids)
        ]
        await self.kafka.deliver(requests)
        return requests

    def rows(self) -> dict[str, list[list[tuple[int, str]]]]:
        """Rows of one export. No two exports have the same, so that nothing of two attempts can pass as of one."""
        self.exports += 1
        return {
            name: [
                [(number, f"export {self.exports} " + "x" * self.choose.choice((0, INLINE_LIMIT)))]
                for number in range(self.choose.choice((0, 1, 2)))
            ]
            for name in DATASETS
        }

    # -- who else is there -----------------------------------------------------------------------

    async def _operator(self) -> None:
        """Cancels some runs."""
        for run_id in self.run_ids:
            if self.choose.random() < self.chances.cancelled:
                await asyncio.sleep(self.choose.uniform(0, 8))
                run = await self.runs.cancel(run_id)
                self.note("oper", f"cancel {run_id}: {run.state}")
                if run.state == "cancelled":
                    self.cancelled.add(run_id)
                self.promises.at_this_moment()

    async def _lifecycle_rule(self) -> None:
        """Removes uploads that are complete but for their completion, though it should be older than any run."""
        while not self.is_quiet and self.chances.removed:
            await asyncio.sleep(self.choose.uniform(0, 0.5))
            planned = {
                handle
                for record in self.runs._records.values()
                if record.plan is not None
                for handle in planned_uploads(record.plan)[1]
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
        """A worker, and another in its place once it is gone."""
        generation = 0
        while not self.over:
            generation += 1
            worker = Worker(self, f"w{number}.{generation}")
            self.workers = [*(w for w in self.workers if not w.gone), worker]
            await worker.until_gone()
            if worker.dead and not self.over:
                await asyncio.sleep(self.choose.uniform(0, LEASE))

    # -- the end ---------------------------------------------------------------------------------

    async def _at_rest(self) -> bool:
        finished = all(record.run.state.finished for record in self.runs._records.values())
        idle = await self.runs.idle()
        assert finished or not idle, f"idle, but {self._states()}"
        return idle and not self.requests and not any(worker.busy for worker in self.workers)

    def _states(self) -> dict[str, str]:
        return {run_id: record.run.state for run_id, record in self.runs._records.items()}


class Worker:
    """One process that claims runs and works on them."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.dead = False
        self.gone = False
        self.busy = False
        self._world = world
        self._choose = world.choose
        self._paused_until = 0.0
        self._life: asyncio.Task[None] | None = None
        clock: Any = _WorkersClock(self)
        runs: Any = Interposed(world.runs, self._around_history)
        destinations: list[Any] = [InterposedDestination(each, self._around_destination) for each in world.destinations]
        self._executor = Executor(
            worker=name,
            runs=runs,
            source=_ChangingSource(world, self._around_source),
            services=NoServices(),
            destinations=Destinations(destinations),
            config=job(*DATASETS),
            leases=Leases(runs=runs, clock=clock, length=timedelta(seconds=LEASE)),
            clock=clock,
            tracer=IdsOnlyTracer(),
            retry=RetryPolicy(max_attempts=5, first_delay=0.5, longest_delay=4.0),
            max_runs_per_agency=1,
            max_row_bytes=1_000_000,
            jitter=self._choose.random,
            on_progress=lambda progress: None,
            after=lambda step: world.note(name, f"    after {step}"),
        )

    async def until_gone(self) -> None:
        """Work until killed or drained, or the world is over."""
        self._life = asyncio.create_task(self._works())
        await asyncio.wait([self._life])
        self.gone = True
        error = None if self._life.cancelled() else self._life.exception()
        if error is not None and not isinstance(error, Killed):
            raise error

    async def _works(self) -> None:
        while not self._world.over:
            self.busy = True
            try:
                held = await self._executor.claim()
                if held is not None:
                    await self._executor.execute(held)
                    continue
            except PipelineError as error:
                self._world.note(self.name, f"!! {error}")
            finally:
                self.busy = False
            await asyncio.sleep(1.5)

    # -- troubles --------------------------------------------------------------------------------

    async def here(self) -> None:
        """Go on once this worker isn't paused. Raises Killed."""
        while not self.dead and (left := self._paused_until - self._world.clock.monotonic()) > 0:  # noqa: ASYNC110 see below
            await asyncio.sleep(left)  # how long is known, unless another pause follows
        if self.dead:
            raise Killed

    def _happens(self, chance: float) -> bool:
        return chance > 0 and not self._world.is_quiet and self._choose.random() < chance

    def _trouble(self) -> None:
        """Something may happen to this worker itself just now."""
        assert self._life is not None
        chances = self._world.chances
        if self._happens(chances.killed):
            self._world.note(self.name, "is killed")
            self.dead = True
            self._life.cancel()
        elif self._happens(chances.paused):
            seconds = self._choose.uniform(0, 3 * LEASE)
            self._world.note(self.name, f"pauses for {seconds:.3f}")
            self._paused_until = self._world.clock.monotonic() + seconds
        elif self._happens(chances.drained):
            self._world.note(self.name, "is drained")
            self._life.cancel()

    async def _around_source(self, method: str, call: Call) -> Any:
        return await self._near(method, call, SourceUnavailable)

    async def _around_history(self, method: str, call: Call) -> Any:
        return await self._far(method, call, HistoryUnavailable)

    async def _around_destination(self, method: str, call: Call) -> Any:
        if method == "leave":  # aborts, or tries to
            await self.here()
            return await call() if not self._happens(self._world.chances.refused) else None
        if method in ("write", "seal"):
            return await self._near(method, call, DestinationUnavailable)
        return await self._far(method, call, DestinationUnavailable)

    async def _near(self, method: str, call: Call, error: type[PipelineError]) -> Any:
        """A call that changes nothing which others could see."""
        await self._begin()
        if self._world.pace and not self._world.is_quiet:
            await asyncio.sleep(self._choose.uniform(0, self._world.pace))
            await self.here()
        if self._happens(self._world.chances.refused):
            raise error(f"{method} is refused")
        answer = await call()
        await self.here()
        return answer

    async def _far(self, method: str, call: Call, error: type[PipelineError]) -> Any:
        """A call through the network, where it goes on even when nobody waits for it any more."""
        await self._begin()
        chances, note = self._world.chances, self._world.note
        if self._happens(chances.refused):
            note(self.name, f"{method} is refused")
            await asyncio.sleep(self._choose.choice((0.0, self._choose.uniform(0, 2))))
            await self.here()
            raise error(f"{method} is refused")
        late = self._happens(chances.late)
        longest = 3 * LEASE if late else self._choose.choice((0.0, 0.0, self._world.pace))
        on_its_way = self._choose.uniform(0, longest)
        request = asyncio.create_task(self._carried_out(method, call, on_its_way))
        self._world.requests.add(request)
        request.add_done_callback(self._arrived)
        answer = await asyncio.shield(request)
        self._trouble()
        await self.here()
        if self._happens(chances.lost):
            note(self.name, f"{method} loses its reply")
            raise error(f"the reply to {method} is lost")
        return answer

    async def _begin(self) -> None:
        await self.here()
        self._trouble()
        await asyncio.sleep(0)  # a cancellation takes effect here
        await self.here()

    async def _carried_out(self, method: str, call: Call, on_its_way: float) -> Any:
        if on_its_way:
            await asyncio.sleep(on_its_way)
        self._world.note(self.name, method)
        try:
            return await call()
        except AssertionError as error:
            self._world.broken = self._world.broken or error
            raise

    def _arrived(self, request: asyncio.Task[Any]) -> None:
        self._world.requests.discard(request)
        if not request.cancelled():
            request.exception()  # seen, whoever gave it up


class _WorkersClock:
    """The world's clock, by which a paused worker oversleeps."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.now = worker._world.clock.now
        self.monotonic = worker._world.clock.monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._worker.here()


class _ChangingSource:
    """A source whose rows are others in each snapshot."""

    def __init__(self, world: World, around: Callable[[str, Call], Awaitable[Any]]) -> None:
        self._world = world
        self._around = around

    def snapshot(self, datasets: Any) -> Any:
        return MemorySource(self._world.rows(), clock=self._world.clock, around=self._around).snapshot(datasets)
