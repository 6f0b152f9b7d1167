"""A process of `triggers` in memory: an in-memory Kafka, and a table in place of Faust's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.trace import Tracer

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import InvalidEvent
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import JobRequest
from pipeline_processing.telemetry.health import Health, Pulse
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from pipeline_processing.triggers.other_files import OtherFiles
from pipeline_processing.triggers.process import NeededByTriggers
from pipeline_processing.triggers.run_requests import RunRequester
from pipeline_processing.triggers.watermarks import Watermarks
from pipeline_processing.triggers.windowing import EntryLog, Place, Reassigned, WindowKeeper
from pipeline_processing.triggers.windows import Entry, Happened, Origin, Pace, write_entry
from tests.memory.broker import MemoryBroker

EVENTS, ENTRIES, REQUESTS = "events", "entries", "requests"


class MemoryTable:
    """A `WindowTable` whose changelog several processes share."""

    def __init__(self) -> None:
        self.changelog: dict[int, dict[bytes, bytes]] = {}
        self.reassigned = False

    def states(self) -> Mapping[int, Mapping[bytes, bytes]]:
        return {partition: dict(states) for partition, states in self.changelog.items()}

    async def store(self, states: Mapping[Place, bytes]) -> None:
        if self.reassigned:
            raise Reassigned
        for (partition, key), state in states.items():
            self.changelog.setdefault(partition, {})[key] = state


class MemoryLetters:
    """Keeps what is put aside."""

    def __init__(self) -> None:
        self.put: list[tuple[Record, InvalidEvent]] = []

    async def put_aside(self, letters: Iterable[tuple[Record, InvalidEvent]], stop: asyncio.Event) -> None:
        self.put += letters


class Triggered:
    """The log of entries and the changelog, which processes share, and one process: `keeper`."""

    def __init__(self, clock: Clock, *, tracer: Tracer | None = None, partitions: int = 2) -> None:
        self.clock = clock
        self.tracer = tracer or IdsOnlyTracer()
        self.broker = MemoryBroker(clock=clock, topics=(EVENTS, ENTRIES, REQUESTS), partitions=partitions)
        self.partitions = list(range(partitions))
        self.table = MemoryTable()
        self.letters = MemoryLetters()
        self.stop = asyncio.Event()
        self.needed = NeededByTriggers([], clock=clock)
        self.health = Health(pulses=[], servers=self.needed)
        self.keeper = self.another()

    def another(self) -> WindowKeeper:
        """Another process."""
        return WindowKeeper(
            entries=EntryLog(topic=ENTRIES, reader=self.broker, events=self.broker),
            requester=RunRequester(topic=REQUESTS, tracer=self.tracer, clock=self.clock),
            letters=self.letters,
            kafka=self.needed.kafka,
            watermarks=Watermarks(lambda _: self.broker, entries=lambda: self.broker.ends(ENTRIES), clock=self.clock),
            files=OtherFiles("mine", clock=self.clock, health=self.health),
            pulse=Pulse("windows", clock=self.clock),
        )

    async def hold(self) -> None:
        await self.keeper.hold(self.partitions, self.table, self.stop)

    def write(self, *entries: Entry) -> None:
        """Write entries to their log."""
        for entry in entries:
            key, value = write_entry(entry)
            self.broker.put(Outgoing(topic=ENTRIES, key=key, value=value))

    async def take(self, *, since: Mapping[int, int] | None = None, commit: bool = True) -> None:
        """Settle all entries from the committed offsets, or from `since`."""
        start = await self.broker.committed(ENTRIES) if since is None else since
        records = [record async for record in self.broker.read(ENTRIES, start=start)]
        await self.keeper.take(records, self.table, self.stop)
        if commit:
            self.broker.committed_by_member(ENTRIES, await self.broker.ends(ENTRIES))

    async def close_due(self) -> None:
        await self.keeper.close_due(self.stop)

    def requests(self) -> list[dict[str, Any]]:
        """What was asked for."""
        return [json.loads(record.value or b"") for record in self.broker.records(REQUESTS)]


def event(offset: int, *, agency_id: int = 7, pace: Pace | None = Pace(quiet_for=10), file: str = "mine") -> Happened:  # noqa: B008  # it is frozen
    """An upstream event."""
    return Happened(
        kind="event",
        trigger="t",
        request=JobRequest(agency_id=agency_id, run_id=f"run-{agency_id}-{offset}"),
        pace=pace,
        origin=Origin(topic=EVENTS, partition=0, offset=offset),
        triggers_id=file,
    )
