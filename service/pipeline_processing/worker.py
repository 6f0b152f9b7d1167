"""Several runs at once: claims those that are due, and works on them until it is time to stop."""

import asyncio
from collections.abc import Callable

import structlog

from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.executor import Executor
from pipeline_processing.health import Pulse
from pipeline_processing.lease import Held
from pipeline_processing.outage import Outage
from pipeline_processing.ports import Clock
from pipeline_processing.stopping import first_of

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
"""What becomes due without this process knowing (handed back elsewhere, a retry, a lease that ends) waits so long."""
_PAUSE_SECONDS = 1.0
_HAND_BACK_SECONDS = 10.0
_ME = "worker"


class Worker:
    """Keeps up to `concurrency` attempts going. `on_ended` is told the run id after each."""

    def __init__(
        self,
        *,
        executor: Executor,
        concurrency: int,
        drain_seconds: float,
        clock: Clock,
        pulse: Pulse,
        history: Outage,
        on_ended: Callable[[str], None],
    ) -> None:
        self._executor = executor
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._pulse = pulse
        self._history = history
        self._on_ended = on_ended
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be a run that is due: look at once."""
        self._woken.set()

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """
        Work until told to stop; then finish what is in progress, or hand it back when the drain time is over or it is
        told to hurry.
        """
        working: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                self._pulse.beat()
                self._woken.clear()  # before looking: what comes while it looks isn't missed
                if len(working) < self._concurrency and (held := await self._claim(stop)) is not None:
                    task = group.create_task(self._work(held))
                    working.add(task)
                    task.add_done_callback(working.discard)
                else:
                    await first_of(stop, self._woken, seconds=_POLL_SECONDS)
            await self._drain(working, hurry)
        self._pulse.stop()

    async def _claim(self, stop: asyncio.Event) -> Held | None:
        try:
            held = await self._executor.claim()
        except HistoryUnavailable as error:
            self._history.began(error, by=_ME)
            await first_of(stop, seconds=_PAUSE_SECONDS)
            return None
        self._history.ended(by=_ME)
        return held

    async def _work(self, held: Held) -> None:
        try:
            await self._executor.execute(held)
        except HistoryUnavailable as error:
            log.warning(
                "the outcome of an attempt could not be written; the run goes on when its lease has ended",
                run_id=held.claim.run.run_id,
                error=str(error),
            )
        except Exception:
            # One run's bug is no reason to break off the others; its lease ends, and its tries are counted.
            log.exception("unexpected error", run_id=held.claim.run.run_id)
        finally:
            self._woken.set()
            self._on_ended(held.claim.run.run_id)

    async def _drain(self, working: set[asyncio.Task[None]], hurry: asyncio.Event) -> None:
        # Handing back is part of the drain: whoever gave it so much time ends the process when it is over.
        reserve = min(_HAND_BACK_SECONDS, self._drain_seconds / 4)
        ends_at = self._clock.monotonic() + self._drain_seconds - reserve
        if working:
            log.info("finishing the runs in progress", runs=len(working), seconds=self._drain_seconds)
        while working and not hurry.is_set() and (left := ends_at - self._clock.monotonic()) > 0:
            self._pulse.beat()
            self._woken.clear()
            await first_of(hurry, self._woken, seconds=min(left, _POLL_SECONDS))
        for task in working:
            task.cancel()  # which hands its run back
