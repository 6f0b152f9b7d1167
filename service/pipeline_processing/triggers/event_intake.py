"""
Read one upstream topic, and write an entry to the windows' log for each trigger that an event matches.

An event's offset is committed once its entries, or its dead letter, are stored. After an earlier failure the event is
delivered again, and the windows ignore its repeated entries. For this, the entries of a partition's events are written
in the order of these events.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import Stopped, first_of
from pipeline_processing.errors import InvalidEvent, KafkaUnavailable, TopicMissing, TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Events, Outgoing, Record, RequestStream
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.requests.job_messages import run_id_of_place
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.telemetry.metrics import IntakeMetrics, Metrics
from pipeline_processing.triggers.config import Debounce, EventTrigger
from pipeline_processing.triggers.job_requests import request_of_event, run_id_of_window
from pipeline_processing.triggers.matching import NO_TERMS, Occurrence, Terms, occurrences
from pipeline_processing.triggers.windows import Happened, Origin, Pace, write_entry

log = get_logger(__name__)

T = TypeVar("T")

_PAUSE_SECONDS = 1.0
_MISSING = "it doesn't exist. Let the upstream service create it, or correct the triggers file."
_MOST_STATE_BYTES = 900_000
"""Of an agency's windows, one per trigger, which are stored in one message."""
_MOST_ENTRY_BYTES, _LEAST_ENTRY_BYTES = 64 * 1024, 2 * 1024
"""What an entry may have with few triggers, and with hundreds."""
_BESIDES_BYTES = 2 * 1024
"""Of a window, besides its request: the traces of its events, and offsets."""
_TRACEPARENT = 55
"""Characters. Later versions of W3C Trace Context may append more."""
_LAG_SECONDS = 10.0
"""Interval of lag checks."""
_MOST_STALLS = 6
"""If more lag checks in a row find messages but none arrive in between, the consumer has died silently."""


class Aside:
    """Puts messages that can't be used aside, as dead letters. `kafka` is all topics but those of events."""

    def __init__(self, letters: DeadLetters, *, kafka: Server, history: Server) -> None:
        self.kafka = kafka
        self._letters = letters
        self._history = history

    async def put_aside(self, unusable: Sequence[tuple[Record, InvalidEvent]], stop: asyncio.Event) -> None:
        """Return once their letters are stored. Raises Stopped if `stop` is set first."""
        letters = [self._letters.letter(record, error) for record, error in unusable]
        refused = await self.kafka.ask(partial(self._letters.send, letters), by=self, stop=stop)
        if refused:
            await self._history.ask(partial(self._letters.keep, refused), by=self, stop=stop)


class EventReader:
    """Turns records of upstream topics into entries of the windows' log."""

    def __init__(
        self,
        triggers: Sequence[EventTrigger],
        *,
        triggers_id: str,
        entries_topic: str,
        clock: Clock,
        terms: Terms = NO_TERMS,
    ) -> None:
        """`terms` are those of the job config, if known."""
        self._triggers = {trigger.name: trigger for trigger in triggers}
        self._triggers_id = triggers_id
        self._topic = entries_topic
        self._clock = clock
        self._terms = terms
        share = _MOST_STATE_BYTES // max(1, len(triggers)) - _BESIDES_BYTES
        self._most_bytes = min(max(share, _LEAST_ENTRY_BYTES), _MOST_ENTRY_BYTES)

    def read(self, record: Record, *, topic_id: str | None) -> list[Outgoing]:
        """Return an entry for each trigger that the event matches. Raises InvalidEvent if one can't use the event."""
        found = occurrences(record, self._triggers.values(), now=self._clock.now(), terms=self._terms)
        return [self._entry(record, each, topic_id) for each in found]

    def _entry(self, record: Record, occurrence: Occurrence, topic_id: str | None) -> Outgoing:
        trigger = self._triggers[occurrence.trigger]
        request = request_of_event(trigger, occurrence, window=run_id_of_place(record), now=self._clock.now())
        if trigger.debounce is None and occurrence.source is not None:
            # Each event is a run: one that its sender has repeated is the same run. With another request, such as one
            # with another `since`, it can't be.
            window = f"{occurrence.source}\0{occurrence.event_id}\0{request.digest()}"
            run_id = run_id_of_window(trigger.name, occurrence.agency_id, window)
            request = request.model_copy(update={"run_id": run_id})
        entry = Happened(
            kind="event",
            trigger=trigger.name,
            request=request,
            pace=None if trigger.debounce is None else _pace(trigger.debounce),
            origin=Origin(topic=record.topic, topic_id=topic_id, partition=record.partition, offset=record.offset),
            trace=_bounded(occurrence.trace),
            triggers_id=self._triggers_id,
        )
        key, value = write_entry(entry)
        if len(value) > self._most_bytes:
            raise InvalidEvent(
                f"What trigger {trigger.name!r} takes from the event has {len(value):,} bytes, and may have "
                f"{self._most_bytes:,} at most with {len(self._triggers)} event trigger(s). Send shorter params."
            )
        return Outgoing(topic=self._topic, key=key, value=value)


class EventIntake:
    """
    Takes the events of one topic. `subscribe` joins the topic's consumer group until its block ends; `topic_id` returns
    the id of the topic that is being read.
    """

    def __init__(
        self,
        *,
        subscribe: Callable[[], AbstractAsyncContextManager[RequestStream]],
        topic_id: Callable[[], str | None],
        reader: EventReader,
        events: Events,
        aside: Aside,
        pulse: Pulse,
        source: Server,
        metrics: IntakeMetrics | None = None,
    ) -> None:
        """`source` is the topic."""
        self._subscribe = subscribe
        self._topic_id = topic_id
        self._reader = reader
        self._events = events
        self._aside = aside
        self._pulse = pulse
        self._source = source
        self._kafka = aside.kafka
        self._clock = source.clock
        self._metrics = metrics or IntakeMetrics(Metrics(), topic="")

    async def run(self, stop: asyncio.Event) -> None:
        """
        Take events until `stop` is set. A topic that is missing is waited for.

        Raises errors that waiting can't fix, such as AccessDenied.
        """
        while not stop.is_set():
            self._pulse.beat()
            try:
                async with self._subscribe() as stream:
                    self._source.back(by=self)
                    await self._take(stream, stop)
            except (TransientError, TopicMissing) as error:
                # Nothing is lost: the next subscription starts at the committed offsets.
                missing = isinstance(error, TopicMissing)
                self._metrics.lags(None)
                self._source.away(KafkaUnavailable(_MISSING) if missing else error, by=self)
                await first_of(stop, seconds=_PAUSE_SECONDS)
            except Stopped:
                break  # what isn't settled stays uncommitted
        self._pulse.stop()

    async def _take(self, stream: RequestStream, stop: asyncio.Event) -> None:
        checked_at, stalls = self._clock.monotonic(), 0
        while not stop.is_set():
            records = await stream.poll()
            self._pulse.beat()
            if records:
                await self._settle(records, stop)
                self._pulse.moving()
                stalls = 0
            await stream.commit()
            if (now := self._clock.monotonic()) - checked_at >= _LAG_SECONDS:
                checked_at = now
                left = await stream.lag()
                self._metrics.lags(left)
                stalls = stalls + 1 if left else 0
                if stalls > _MOST_STALLS:
                    log.error("the consumer gets no events although there are some; rejoining the group", lag=left)
                    self._pulse.stuck(f"the consumer gets no events although there are {left}")
                    return

    async def _settle(self, records: Sequence[Record], stop: asyncio.Event) -> None:
        topic_id = self._topic_id()
        entries: list[Outgoing] = []
        unusable: list[tuple[Record, InvalidEvent]] = []
        for record in records:
            try:
                entries += self._reader.read(record, topic_id=topic_id)
            except InvalidEvent as error:
                unusable.append((record, error))
        if entries:
            await self._ask(lambda: self._events.send(entries), stop)
        if unusable:
            await self._aside.put_aside(unusable, stop)
        self._metrics.settled("dead_letter", len(unusable))
        self._metrics.settled("taken", len(records) - len(unusable))

    async def _ask(self, call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        is_asked = False

        def beating() -> Awaitable[T]:
            nonlocal is_asked
            self._pulse.beat()
            if is_asked:
                self._metrics.lags(None)  # it grows, and isn't looked up meanwhile
            is_asked = True
            return call()

        return await self._kafka.ask(beating, by=self, stop=stop)


def _bounded(trace: Mapping[str, str]) -> dict[str, str]:
    """Return what a link needs, without the tracestate, whose length senders choose."""
    return {name: text[:_TRACEPARENT] for name, text in trace.items() if name == "traceparent"}


def _pace(debounce: Debounce) -> Pace:
    return Pace(
        quiet_for=None if debounce.quiet_for is None else debounce.quiet_for.total_seconds(),
        at_latest_after=None if debounce.latest is None else debounce.latest.total_seconds(),
        at_most_every=None if debounce.at_most_every is None else debounce.at_most_every.total_seconds(),
    )
