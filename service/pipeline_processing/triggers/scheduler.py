"""
Ask for runs by the clock.

A tick becomes an entry of the windows' log for each agency, like an event that is a run of its own. The log takes only
the first of equal entries, so it is harmless if two processes ask for the same tick, or one asks twice.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import Stopped, first_of, unless_stopped
from pipeline_processing.errors import PipelineError, TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Events, Outgoing
from pipeline_processing.model import JobRequest
from pipeline_processing.triggers.config import ScheduleTrigger
from pipeline_processing.triggers.job_requests import requests_of_tick
from pipeline_processing.triggers.schedule import due_tick
from pipeline_processing.triggers.windows import Happened, Origin, write_entry

log = get_logger(__name__)

_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 5.0
"""How long to wait after a failed query that may soon succeed."""
_LONG_PAUSE_SECONDS = 60.0
"""The same for one that somebody must correct."""
_BATCH = 500
_ORIGIN = ":schedule"
"""Stands for a topic, none of which can have this name."""


class AgencyIds(Protocol):
    """Reads the agencies of a schedule."""

    def listed(self, query: str) -> Coroutine[Any, Any, Sequence[AgencyId]]:
        """Return the ids that the query returns. Raises a TransientError, or others if the query can't be used."""


class Scheduler:
    """Asks for the ticks of all schedules, each in its own task, so that a slow query delays no other."""

    def __init__(
        self,
        schedules: Sequence[ScheduleTrigger],
        *,
        agency_ids: AgencyIds | None,
        leads: Callable[[], bool],
        triggers_id: str,
        entries_topic: str,
        events: Events,
        source: Server,
        kafka: Server,
    ) -> None:
        """
        `agency_ids` is needed by schedules with a query, and `source` is where it reads them. `leads` returns whether
        this process is the one that asks.
        """
        self._schedules = schedules
        self._agency_ids = agency_ids
        self._leads = leads
        self._triggers_id = triggers_id
        self._entries_topic = entries_topic
        self._events = events
        self._source = source
        self._kafka = kafka
        self._clock = kafka.clock

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            for trigger in self._schedules:
                group.create_task(self._follow(trigger, stop))

    async def _follow(self, trigger: ScheduleTrigger, stop: asyncio.Event) -> None:
        asked: datetime | None = None
        unread: datetime | None = None
        """The tick whose agencies couldn't be read."""
        while not stop.is_set():
            pause = _LOOK_SECONDS
            leads = self._leads()
            tick = due_tick(trigger.schedule, after=asked, now=self._clock.now()) if leads else None
            if unread is not None and tick != unread:
                self._source.back(by=trigger.name)
                if leads:
                    log.error("a tick is given up: its agencies can't be read", trigger=trigger.name, tick=str(unread))
                unread = None
            if tick is not None:
                try:
                    agencies = await self._agencies(trigger, stop)
                except Stopped:
                    break
                except PipelineError as error:
                    self._source.away(error, by=trigger.name)
                    unread = tick
                    pause = _PAUSE_SECONDS if isinstance(error, TransientError) else _LONG_PAUSE_SECONDS
                else:
                    self._source.back(by=trigger.name)
                    unread = None
                    try:
                        await self._ask(trigger, tick, agencies, stop)
                    except Stopped:
                        break
                    asked = tick
            await first_of(stop, seconds=pause)

    async def _agencies(self, trigger: ScheduleTrigger, stop: asyncio.Event) -> Sequence[AgencyId]:
        agencies = trigger.schedule.agencies
        if isinstance(agencies, tuple):
            return agencies
        assert self._agency_ids is not None
        return await unless_stopped(self._agency_ids.listed(agencies.query), stop)

    async def _ask(
        self, trigger: ScheduleTrigger, tick: datetime, agencies: Sequence[AgencyId], stop: asyncio.Event
    ) -> None:
        log.info("asking for the runs of a tick", trigger=trigger.name, tick=str(tick), agencies=len(agencies))
        messages = [
            self._entry(trigger, tick, request) for request in requests_of_tick(trigger, tick, agencies=agencies)
        ]
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            await self._kafka.ask(partial(self._events.send, batch), by=trigger.name, stop=stop)

    def _entry(self, trigger: ScheduleTrigger, tick: datetime, request: JobRequest) -> Outgoing:
        entry = Happened(
            kind="event",
            trigger=trigger.name,
            request=request,
            pace=None,
            origin=Origin(topic=_ORIGIN, partition=0, offset=int(tick.timestamp())),
            triggers_id=self._triggers_id,
        )
        key, value = write_entry(entry)
        return Outgoing(topic=self._entries_topic, key=key, value=value)
