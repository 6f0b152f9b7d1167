"""Claim due runs and work on several at once, until told to stop."""

import asyncio
from collections.abc import Callable

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import first_of, give_up, shielded
from pipeline_processing.errors import HistoryUnavailable, PipelineError, TooManyConnections
from pipeline_processing.log import get_logger
from pipeline_processing.model import RunState
from pipeline_processing.runs.executor import Executor
from pipeline_processing.runs.lease import Lease
from pipeline_processing.serving.breaker import Breaker
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.telemetry.metrics import Metrics

log = get_logger(__name__)

_POLL_SECONDS = 0.5
"""Longest delay of a run that becomes due without a wake-up: by a retry, a hand-back elsewhere, or an ended lease."""
_QUIET_POLL_SECONDS = 1.0
"""The same after a quiet time, to save CPU. Workers go on within 2 s with what another one hands back."""
_QUIET_AFTER_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
_CLAIM_SECONDS = 1.0
_ME = "worker"


def hand_back_seconds(drain_seconds: float) -> float:
    """Return the part of the drain time reserved for handing back unfinished runs, cleaning up and closing."""
    return min(10.0, drain_seconds / 4)


def leave_seconds(drain_seconds: float) -> float:
    """Return the part of `hand_back_seconds` that each run may take."""
    return max(1.0, hand_back_seconds(drain_seconds) / 2)


class Concurrency:
    """
    The number of runs to work on at once: `most`, or fewer while a database has no connections left.

    The limit is halved when an attempt finds no free connection, and rises by one with each attempt that succeeds, so
    that several workers converge on what the database can serve.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._halved_at = float("-inf")

    def learn(self, error: PipelineError | None, *, began_at: float, now: float) -> None:
        """Adapt the limit to the result of an attempt. Both times are monotonic seconds."""
        if isinstance(error, TooManyConnections):
            # Attempts that began before the last halving say nothing about the new limit.
            if began_at >= self._halved_at and self.limit > 1:
                self.limit //= 2
                self._halved_at = now
                log.warning("a database has no connections left; taking fewer runs at once", runs=self.limit)
        elif error is None and self.limit < self._most:
            self.limit += 1
            if self.limit == self._most:
                log.info("taking the maximum number of runs at once again", runs=self.limit)


class Worker:
    """
    Works on up to `concurrency` runs at once, fewer while a database has no connections left or `breaker` admits none.
    `on_ended` gets the run id after each attempt.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        concurrency: int,
        drain_seconds: float,
        pulse: Pulse,
        history: Server,
        breaker: Breaker,
        on_ended: Callable[[str], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._executor = executor
        self._concurrency = Concurrency(concurrency)
        self._drain_seconds = drain_seconds
        self._clock = history.clock
        self._pulse = pulse
        self._history = history
        self._breaker = breaker
        self._on_ended = on_ended
        self._woken = asyncio.Event()
        self._busy_at = self._clock.monotonic()
        self._leaving = False
        metrics = metrics or Metrics()
        metrics.start_attempts()
        metrics.active.watch(lambda: [(len(executor.attempts), ())])
        metrics.concurrency.watch(lambda: [(self._concurrency.limit, ())])

    def wake(self) -> None:
        """Try to claim a run at once."""
        self._woken.set()

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """
        Work until `stop` is set. Then finish the runs in progress, or hand them back when the drain time is over or
        `hurry` is set.
        """
        working: set[asyncio.Task[None]] = set()
        # In a separate task, so that a hanging claim doesn't delay the drain.
        taking = asyncio.create_task(self._take(working, stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()  # raises errors that waiting can't fix
            await self._drain(taking, working, hurry)
        finally:
            stopping.cancel()
            await shielded(self._leave(taking, working))
        self._pulse.stop()

    async def _take(self, working: set[asyncio.Task[None]], stop: asyncio.Event) -> None:
        while not (stop.is_set() or self._leaving):
            self._pulse.beat()
            self._woken.clear()  # before claiming, so that no wake-up is missed
            is_free = len(working) < self._concurrency.limit and self._breaker.admits()
            if is_free and (lease := await self._claim(stop)) is not None:
                task = asyncio.create_task(self._work(lease))
                try:
                    await asyncio.sleep(0)  # let the task start: if it is cancelled before that, it hands nothing back
                finally:
                    working.add(task)
                    task.add_done_callback(working.discard)
            else:
                if working or self._woken.is_set():
                    self._busy_at = self._clock.monotonic()
                quiet = self._clock.monotonic() - self._busy_at >= _QUIET_AFTER_SECONDS
                await first_of(stop, self._woken, seconds=_QUIET_POLL_SECONDS if quiet else _POLL_SECONDS)

    async def _claim(self, stop: asyncio.Event) -> Lease | None:
        try:
            lease = await self._executor.claim()
        except HistoryUnavailable as error:
            self._history.away(error, by=_ME)
            await first_of(stop, seconds=_PAUSE_SECONDS)
            return None
        self._history.back(by=_ME)
        return lease

    async def _work(self, lease: Lease) -> None:
        began_at, tries = self._clock.monotonic(), self._breaker.started()
        attempted = None
        try:
            attempted = await self._executor.execute(lease)
            if attempted.error is not None or attempted.run.state is RunState.SUCCEEDED:
                self._concurrency.learn(attempted.error, began_at=began_at, now=self._clock.monotonic())
        except HistoryUnavailable as error:
            log.warning(
                "the outcome of an attempt could not be written; the run continues when its lease has ended",
                run_id=lease.claim.run.run_id,
                error=str(error),
            )
        except Exception:
            # A bug must not end the other runs. This one's lease expires, and its attempts are counted.
            log.exception("unexpected error", run_id=lease.claim.run.run_id)
        finally:
            self._breaker.ended(attempted, tries=tries, decided=lease.claim.run.state is RunState.PREPARED)
            self._woken.set()
            self._on_ended(lease.claim.run.run_id)

    async def _drain(self, taking: asyncio.Task[None], working: set[asyncio.Task[None]], hurry: asyncio.Event) -> None:
        # Leave time to hand back: the orchestrator kills the process when the drain time is over.
        ends_at = self._clock.monotonic() + self._drain_seconds - hand_back_seconds(self._drain_seconds)
        if working:
            log.info("finishing the runs in progress", runs=len(working), seconds=self._drain_seconds)
        while not (taking.done() and not working) and not hurry.is_set():
            if (left := ends_at - self._clock.monotonic()) <= 0:
                break
            self._pulse.beat()
            self._woken.clear()
            await first_of(hurry, self._woken, seconds=min(left, _POLL_SECONDS))

    async def _leave(self, taking: asyncio.Task[None], working: set[asyncio.Task[None]]) -> None:
        """Hand back the unfinished runs."""
        self._leaving = True
        self._woken.set()
        for task in working:
            task.cancel()  # hands its run back
        await asyncio.wait([taking], timeout=_CLAIM_SECONDS)  # so that a run being claimed is handed back, too
        give_up(taking)
        while working:
            for task in working:
                task.cancel()
            await asyncio.wait(working)
