"""
The process behind `triggers`: it reads the events of all topics, and keeps the windows of its share of the agencies.

Before it stops, it settles what it has read. Everything else is left to the other processes, or to the next one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import Stopped, unless_stopped
from pipeline_processing.errors import SettingsError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Topics
from pipeline_processing.telemetry.health import Health
from pipeline_processing.telemetry.metrics import Reading

log = get_logger(__name__)

_START_SECONDS = 60.0
"""How long to wait for the brokers at the start."""


class NeededByTriggers:
    """The servers and topics that `triggers` needs."""

    def __init__(self, sources: Sequence[str], *, clock: Clock) -> None:
        self.kafka = Server("Kafka", clock=clock)
        self.history = Server("the history", clock=clock)
        self.agencies = Server("the agencies of a schedule", clock=clock)
        self.sources = {topic: Server(f"the topic {topic}", clock=clock) for topic in sources}

    def problems(self) -> list[str]:
        """Which of them can't be used, and why."""
        each = (self.kafka, self.history, self.agencies, *self.sources.values())
        return [f"{server.name}: {problem}" for server in each if (problem := server.problem) is not None]

    def readings(self) -> list[Reading]:
        """Return whether each of them can be used, for the metrics."""
        each = {"kafka": self.kafka, "history": self.history, "agencies": self.agencies}
        topics = {f"topic {topic}": server for topic, server in self.sources.items()}
        return [(float(server.problem is None), (name,)) for name, server in (each | topics).items()]


Part = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event is set."""


class TriggersProcess:
    """Runs the parts of `triggers`. They are stopped by events, and cancelled only if one of them fails."""

    def __init__(
        self,
        *,
        writers: Sequence[Part],
        windows: Part,
        topics: Topics,
        paired: tuple[str, str],
        kafka: Server,
        health: Health,
    ) -> None:
        """
        `writers` write to the windows' log: the intakes of topics, and the schedules. `windows` keeps this process's
        share of the windows. `paired`: the topics of entries and of the windows' changelog.
        """
        self._writers = writers
        self._windows = windows
        self._topics = topics
        self._paired = paired
        self._kafka = kafka
        self._health = health

    async def run(self, stop: asyncio.Event) -> None:
        """
        Run until `stop` is set. Raises KafkaUnavailable if no broker answers for a minute at the start, and errors that
        waiting can't fix, such as AccessDenied.
        """
        try:
            await self._kafka.ask(
                lambda: unless_stopped(self._prepare(), stop), by=self, stop=stop, within=_START_SECONDS
            )
        except Stopped:
            return
        out = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(each(stop)) for each in self._writers]
            group.create_task(self._windows(out))
            await stop.wait()
            self._health.state = "stopping"
            log.info("stopping")
            if writing:
                await asyncio.wait(writing)
            out.set()
        log.info("stopped")

    async def _prepare(self) -> None:
        """Create the topics. Raises SettingsError if two that belong together differ in their partitions."""
        await self._topics.ensure()
        entries, changelog = self._paired
        counts = {topic: len(await self._topics.ends(topic)) for topic in self._paired}
        if counts[entries] != counts[changelog]:
            raise SettingsError(
                f"The topics {entries} and {changelog} need the same number of partitions, and have "
                f"{counts[entries]} and {counts[changelog]}. Stop all `triggers` processes, delete both topics once no "
                "window is open, and start again."
            )
