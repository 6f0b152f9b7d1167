"""
The long-running service: requests in, runs done, events out. Starting and stopping are in order: nothing is taken
before the history and the destination are known to be right, and what was taken is finished or handed back.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.stopping import Stopped, first_of, unless_stopped
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import HistoryUnavailable, KafkaUnavailable, TransientError
from pipeline_processing.messaging.port import Offsets, Topics
from pipeline_processing.runs.store import RunStore
from pipeline_processing.serving.intake import Intake
from pipeline_processing.serving.outbox import Outbox
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.serving.worker import Worker
from pipeline_processing.telemetry.health import Health
from pipeline_processing.telemetry.outage import Outage

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PAUSE_SECONDS = 1.0
_ONCE_LOOK_SECONDS = 0.2
_ONCE_PATIENCE_SECONDS = 60.0
_OTHERS_SECONDS = 10.0
_OTHERS = (
    "{} run(s) wait for a worker with another job config than this one's; "
    "`pipeline-processing history --state queued` shows them"
)
_ME = "serve"


class Service:
    """All parts of `serve` together. The parts are told to stop by events, never cancelled, unless one of them dies."""

    def __init__(
        self,
        *,
        intake: Intake,
        worker: Worker,
        outbox: Outbox,
        progress: ProgressEvents,
        runs: RunStore,
        config_id: str,
        destinations: Destinations,
        topics: Topics,
        requests_topic: str,
        clock: Clock,
        health: Health,
        kafka: Outage,
        history: Outage,
        storage: Outage,
    ) -> None:
        self._intake = intake
        self._worker = worker
        self._outbox = outbox
        self._progress = progress
        self._runs = runs
        self._config_id = config_id
        self._destinations = destinations
        self._topics = topics
        self._requests_topic = requests_topic
        self._clock = clock
        self._health = health
        self._kafka = kafka
        self._history = history
        self._storage = storage

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event, *, once: bool) -> None:
        """
        Serve until `stop` is set, or, with `once`, until all that was there at the start is done; `hurry` cuts the
        draining short.

        Raises what no waiting mends (wrong settings, access denied) and, with `once`, what isn't mended in a minute.
        """
        try:
            await self._patiently(self._verify, stop, limited=once)
        except Stopped:
            return
        out = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(self._intake.run(stop))
            working = group.create_task(self._worker.run(stop, hurry))
            group.create_task(self._outbox.run(out))
            group.create_task(self._progress.run(out))
            group.create_task(self._watch_others(out))
            self._health.state = "serving"
            if once:
                group.create_task(self._stop_when_done(stop))
            await stop.wait()
            self._health.state = "stopping"
            log.info("stopping")
            await asyncio.wait((taking, working))
            out.set()  # last, so that the events of the last runs go out as well
        log.info("stopped")

    async def _verify(self) -> None:
        """That the history is set up, and the destination this installation's."""
        installation = await self._runs.history.installation_id()
        self._history.ended(by=_ME)
        await self._destinations.verify_installation(installation)
        self._storage.ended(by=_ME)

    async def _watch_others(self, stop: asyncio.Event) -> None:
        """Keep readiness up to date about runs that this worker must leave alone. They are no fault of its own."""
        waiting = 0
        while not stop.is_set():
            try:
                before, waiting = waiting, await self._runs.queue.waiting_for_another_config(self._config_id)
            except HistoryUnavailable:
                pass  # whoever needs the history says so
            else:
                self._health.notes = [_OTHERS.format(waiting)] if waiting else []
                if waiting and not before:
                    log.warning(_OTHERS.format(waiting))
            await first_of(stop, seconds=_OTHERS_SECONDS)

    async def _stop_when_done(self, stop: asyncio.Event) -> None:
        try:
            ends = await self._patiently(self._ends, stop, limited=True)
            for done in (lambda: self._accepted(ends), self._idle):  # in this order: what is accepted is work
                while not await self._patiently(done, stop, limited=True):
                    await first_of(stop, seconds=_ONCE_LOOK_SECONDS)
        except Stopped:
            return
        log.info("all that was there is done")
        stop.set()

    async def _ends(self) -> Offsets:
        await self._topics.ensure()
        return await self._topics.ends(self._requests_topic)

    async def _accepted(self, ends: Offsets) -> bool:
        committed = await self._topics.committed(self._requests_topic)
        self._kafka.ended(by=_ME)
        return all(committed.get(partition, 0) >= end for partition, end in ends.items())

    async def _idle(self) -> bool:
        idle = await self._runs.queue.idle(config_id=self._config_id)
        self._history.ended(by=_ME)
        return idle

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]], stop: asyncio.Event, *, limited: bool) -> T:
        """Ask until the servers answer; for a minute if `limited`. Raises Stopped."""
        asked_at = self._clock.monotonic()
        while not stop.is_set():
            try:
                return await unless_stopped(ask(), stop)
            except TransientError as error:
                if limited and self._clock.monotonic() - asked_at > _ONCE_PATIENCE_SECONDS:
                    raise
                self._server(error).began(error, by=_ME)
            await first_of(stop, seconds=_PAUSE_SECONDS)
        raise Stopped

    def _server(self, error: TransientError) -> Outage:
        match error:
            case KafkaUnavailable():
                return self._kafka
            case HistoryUnavailable():
                return self._history
            case _:
                return self._storage
