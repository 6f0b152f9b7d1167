"""
Run all parts of `serve`.

Requests are taken only after the history and the destinations are verified. Before the service stops, it finishes its
runs or hands them back.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import Stopped, first_of, unless_stopped
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Offsets, Topics
from pipeline_processing.runs.executor import DataPath
from pipeline_processing.runs.store import RunStore
from pipeline_processing.serving.backlog import BacklogWatch
from pipeline_processing.serving.intake import Intake
from pipeline_processing.serving.outbox import Outbox
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.serving.webhooks import Webhooks
from pipeline_processing.serving.worker import Worker
from pipeline_processing.telemetry.health import Health, Servers

log = get_logger(__name__)

T = TypeVar("T")

_ONCE_LOOK_SECONDS = 0.2
_ONCE_OUTAGE_SECONDS = 60.0
"""How long `--once` waits for a server that doesn't answer."""
_OTHERS_SECONDS = 10.0
_OTHERS = (
    "{} run(s) wait for a worker with another job config than this one's; "
    "`pipeline-processing history --state queued` shows them"
)
_ME = "serve"


@dataclass(frozen=True, slots=True)
class Parts:
    """The concurrent parts of the service. They share state only through the run table."""

    intake: Intake
    worker: Worker
    outbox: Outbox
    progress: ProgressEvents
    webhooks: Webhooks
    backlog: BacklogWatch


class Service:
    """Runs the parts of `serve`. They are stopped by events, and cancelled only if one of them fails."""

    def __init__(
        self,
        *,
        parts: Parts,
        runs: RunStore,
        path: DataPath,
        topics: Topics,
        requests_topic: str,
        servers: Servers,
        health: Health,
    ) -> None:
        self._parts = parts
        self._runs = runs
        self._path = path
        self._topics = topics
        self._requests_topic = requests_topic
        self._servers = servers
        self._health = health

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event, *, once: bool) -> None:
        """
        Serve until `stop` is set or, with `once`, until all work present at the start is done.

        `hurry` ends the drain early. Raises errors that waiting can't fix (wrong settings, access denied) and, with
        `once`, outages that last for a minute.
        """
        try:
            await self._verify(stop, within=_ONCE_OUTAGE_SECONDS if once else math.inf)
        except Stopped:
            return
        out = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(self._parts.intake.run(stop))
            working = group.create_task(self._parts.worker.run(stop, hurry))
            group.create_task(self._parts.outbox.run(out))
            group.create_task(self._parts.progress.run(out))
            group.create_task(self._parts.webhooks.run(out))
            group.create_task(self._parts.backlog.run(out))
            group.create_task(self._watch_others(out))
            self._health.state = "serving"
            if once:
                group.create_task(self._stop_when_done(stop))
            await stop.wait()
            self._health.state = "stopping"
            log.info("stopping")
            await asyncio.wait((taking, working))
            out.set()  # last, so that the last runs' events are sent and POSTed, too
        log.info("stopped")

    async def _verify(self, stop: asyncio.Event, *, within: float) -> None:
        """
        Check that the history is set up and that the destinations belong to this installation, and store the webhooks
        before any run finishes. Raises Stopped.
        """
        history, destination = self._servers.history, self._servers.destination
        installation = await self._ask(history, self._runs.history.installation_id, stop, within=within)
        await self._ask(history, self._parts.webhooks.configure, stop, within=within)
        verify = self._path.destinations.verify_installation
        await self._ask(destination, lambda: verify(installation), stop, within=within)

    async def _watch_others(self, stop: asyncio.Event) -> None:
        """Report in the readiness how many due runs are pinned to another job config."""
        waiting = 0
        while not stop.is_set():
            try:
                before, waiting = waiting, await self._runs.queue.waiting_for_another_config(self._path.config_id)
            except HistoryUnavailable:
                pass  # the other parts log it
            else:
                self._health.note("other job configs", _OTHERS.format(waiting) if waiting else None)
                if waiting and not before:
                    log.warning(_OTHERS.format(waiting))
            await first_of(stop, seconds=_OTHERS_SECONDS)

    async def _stop_when_done(self, stop: asyncio.Event) -> None:
        kafka, history = self._servers.kafka, self._servers.history
        try:
            ends = await self._ask(kafka, self._ends, stop)
            # In this order, because accepted requests become runs.
            while not await self._ask(kafka, lambda: self._accepted(ends), stop):
                await first_of(stop, seconds=_ONCE_LOOK_SECONDS)
            while not await self._ask(history, lambda: self._runs.queue.idle(config_id=self._path.config_id), stop):
                await first_of(stop, seconds=_ONCE_LOOK_SECONDS)
            while not await self._ask(history, self._parts.webhooks.done_for_now, stop):
                await first_of(stop, seconds=_ONCE_LOOK_SECONDS)
        except Stopped:
            return
        log.info("all work present at the start is done")
        stop.set()

    async def _ends(self) -> Offsets:
        await self._topics.ensure()
        return await self._topics.ends(self._requests_topic)

    async def _accepted(self, ends: Offsets) -> bool:
        committed = await self._topics.committed(self._requests_topic)
        return all(committed.get(partition, 0) >= end for partition, end in ends.items())

    async def _ask(
        self,
        server: Server,
        call: Callable[[], Coroutine[Any, Any, T]],
        stop: asyncio.Event,
        *,
        within: float = _ONCE_OUTAGE_SECONDS,
    ) -> T:
        """Call until the server answers. Raises Stopped as soon as `stop` is set, even during a call."""
        return await server.ask(lambda: unless_stopped(call(), stop), by=_ME, stop=stop, within=within)
