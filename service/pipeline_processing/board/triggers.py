"""The triggers, and the windows that are open: in which events of an agency are being collected for one run."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from heapq import nsmallest
from typing import Any

from pydantic import ValidationError

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import give_up
from pipeline_processing.board import models as m
from pipeline_processing.errors import KafkaUnavailable, PipelineError, TopicMissing
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.triggers.config import EventTrigger, Trigger
from pipeline_processing.triggers.describing import next_ticks, when_asked
from pipeline_processing.triggers.windows import AgencyWindows, Window

log = get_logger(__name__)

_PAUSE_SECONDS = 2.0
_FIRST_SECONDS = 8.0
"""How long a page waits for the first reading of all windows."""
_MOST_SHOWN = 200
"""Windows of one trigger."""


class OpenWindows:
    """
    Keeps the open windows of all agencies, from the topic of their states.

    Reading begins when a page first asks, because most boards have no triggers.
    """

    def __init__(self, *, topics: Topics, topic: str, server: Server) -> None:
        self._topics = topics
        self._topic = topic
        self._server = server
        self._open: dict[bytes, AgencyWindows] = {}
        self._reading: asyncio.Task[None] | None = None
        self._complete = asyncio.Event()
        """Whether all states have been read."""

    async def all(self) -> Iterator[tuple[str, AgencyId, Window]]:
        """
        Return all open windows, each with the names of its trigger and agency.

        Raises KafkaUnavailable if they can't be read.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await self._complete.wait()
        except TimeoutError:
            why = self._server.problem or f"Kafka hasn't returned the windows within {_FIRST_SECONDS:.0f} s."
            raise KafkaUnavailable(why) from None
        return (
            (name, state.agency_id, of.window)
            for state in self._open.values()
            for name, of in state.triggers.items()
            if of.window is not None
        )

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            give_up(self._reading)

    async def _read(self) -> None:
        while True:
            try:
                async with self._topics.following([self._topic]) as changes:
                    self._open = {}
                    # What is sent from now on is in `changes`, and may be read twice.
                    async for record in self._topics.read(self._topic):
                        self._take(record)
                    self._complete.set()
                    self._server.back(by=self)
                    async for record in changes:
                        self._take(record)
            except TopicMissing:  # no `triggers` has run yet
                self._open = {}
                self._complete.set()
            except PipelineError as error:
                self._complete.clear()
                self._server.away(error, by=self)
            await self._server.clock.sleep(_PAUSE_SECONDS)

    def _take(self, record: Record) -> None:
        if record.key is None:
            return
        self._open.pop(record.key, None)
        if record.value is None:
            return
        try:
            state = AgencyWindows.read(record.value)
        except ValidationError:
            log.debug("skipping an invalid state", partition=record.partition, offset=record.offset)
            return
        if state.is_open:
            self._open[record.key] = state


class TriggerList:
    """The triggers of the triggers file, with their open windows."""

    def __init__(self, triggers: Sequence[Trigger], *, windows: OpenWindows) -> None:
        self._triggers = triggers
        self._windows = windows

    async def view(self, *, now: datetime) -> m.TriggerList:
        """Return all triggers in the file's order, then others that have windows. Raises KafkaUnavailable."""
        found = defaultdict[str, list[tuple[AgencyId, Window]]](list)
        for name, agency_id, window in await self._windows.all():
            found[name].append((agency_id, window))
        listed = {trigger.name: _view(trigger, found, now=now) for trigger in self._triggers}
        # Of another file, or of one that has been changed since.
        others = {
            name: m.TriggerView(name=name, **_windows(found, name)) for name in sorted(found.keys() - listed.keys())
        }
        return m.TriggerList(triggers=[*listed.values(), *others.values()])


def _view(trigger: Trigger, found: Mapping[str, list[tuple[AgencyId, Window]]], *, now: datetime) -> m.TriggerView:
    windows = _windows(found, trigger.name)
    if isinstance(trigger, EventTrigger):
        about: dict[str, Any] = {"topic": trigger.topic, "debounce": when_asked(trigger.debounce)}
    else:
        schedule = trigger.schedule
        about = {
            "schedule": f"{schedule.cron} in {schedule.time_zone}",
            "next_at": next(iter(next_ticks(schedule, now=now)), None),
        }
    return m.TriggerView(name=trigger.name, datasets=list(trigger.datasets or ()), **about, **windows)


def _windows(found: Mapping[str, list[tuple[AgencyId, Window]]], name: str) -> dict[str, object]:
    """Return the windows that close first, and how many there are."""
    windows = found.get(name, [])
    first = nsmallest(_MOST_SHOWN, windows, key=lambda each: (each[1].due_at, str(each[0])))
    return {
        "windows_open": len(windows),
        "windows": [
            m.view(
                m.WindowView,
                window,
                agency_id=str(agency_id),
                run_id=window.id,
                last_event_at=window.last_at,
                fires_at=window.due_at,
            )
            for agency_id, window in first
        ],
    }
