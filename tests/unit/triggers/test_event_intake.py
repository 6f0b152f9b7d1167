"""Events become entries or dead letters, and their offsets are committed only then."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.errors import InvalidEvent, KafkaUnavailable
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.messaging.port import Headers, Outgoing, Record
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.telemetry.health import Health, Pulse
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.triggers.config import EventTrigger, Triggers
from pipeline_processing.triggers.event_intake import Aside, EventIntake, EventReader
from pipeline_processing.triggers.process import NeededByTriggers
from pipeline_processing.triggers.windows import AgencyWindows, Happened, apply, read_entry
from tests.memory.broker import MemoryBroker
from tests.memory.letters import MemoryLetters
from tests.unit.in_memory import Between, Interposed, refused
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

EVENTS, ENTRIES, LETTERS = "agencies.events", "entries", "dead-letters"
TRIGGERS = Triggers.model_validate(
    {
        "triggers": [
            {
                "name": "updated",
                "topic": EVENTS,
                "match": {"type": "agency.updated"},
                "agency_id": "data.agency_id",
                "params": {"region": {"from": "data.region", "default": None}},
                "debounce": {"quiet_for": "10s", "at_most_every": "1m"},
            },
            {"name": "all", "topic": EVENTS, "agency_id": "data.agency_id"},
        ]
    }
)


class Taking:
    """An intake of one topic on an in-memory Kafka."""

    def __init__(self, *, topics: tuple[str, ...] = (EVENTS, ENTRIES, LETTERS)) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(clock=self.clock, topics=topics, partitions=1)
        self.of_kafka = Between()
        events: Any = Interposed(self.broker, self.of_kafka)
        self.needed = NeededByTriggers([EVENTS], clock=self.clock)
        self.pulse = Pulse(EVENTS, clock=self.clock)
        self.health = Health(pulses=[self.pulse], servers=self.needed)
        letters = DeadLetters(
            events=events, topic=LETTERS, store=MemoryLetters(clock=self.clock), clock=self.clock, mask=Mask()
        )
        self.intake = EventIntake(
            subscribe=lambda: self.broker.subscribe(EVENTS),
            topic_id=lambda: "id",
            reader=EventReader(TRIGGERS.events, triggers_id="file", entries_topic=ENTRIES, clock=self.clock),
            events=events,
            aside=Aside(letters, kafka=self.needed.kafka, history=self.needed.history),
            pulse=self.pulse,
            source=self.needed.sources[EVENTS],
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.intake.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    def send(self, body: object, *, type_: str | None = "agency.updated", headers: Headers = ()) -> Record:
        attributes = {"specversion": "1.0", "id": "1", "source": "/crm", "type": type_}
        ce = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items() if text) if type_ else ()
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.broker.put(Outgoing(topic=EVENTS, key=b"any", value=value, headers=(*ce, *headers)))

    def entries(self) -> list[Happened]:
        entries = [read_entry(record.value or b"") for record in self.broker.records(ENTRIES)]
        return [entry for entry in entries if isinstance(entry, Happened)]

    async def committed(self) -> int:
        return sum((await self.broker.committed(EVENTS)).values())


@in_virtual_time
async def test_an_event_becomes_an_entry_for_each_trigger_that_it_matches() -> None:
    """Keyed by agency, with a request of its own, its place and its trace."""
    taking = Taking()
    async with taking.running():
        trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
        taking.send({"agency_id": 7, "region": "eu"}, headers=(("traceparent", trace.encode()),))
        taking.send({"agency_id": 8}, type_=None)
        await taking.clock.sleep(1)

    updated, every, plain = taking.entries()
    assert (updated.trigger, every.trigger, plain.trigger) == ("updated", "all", "all")
    assert updated.pace is not None
    assert (updated.pace.quiet_for, updated.pace.at_latest_after, updated.pace.at_most_every) == (10, 100, 60)
    assert every.pace is None
    assert updated.request.params == {"region": "eu"}
    assert updated.origin.model_dump() == {"topic": EVENTS, "topic_id": "id", "partition": 0, "offset": 0}
    assert updated.trace["traceparent"] == trace
    assert updated.triggers_id == "file"
    assert [record.key for record in taking.broker.records(ENTRIES)] == [b"7", b"7", b"8"]
    assert await taking.committed() == 2


@in_virtual_time
async def test_bad_events_are_put_aside_and_stop_nobody() -> None:
    """Untouched, with all headers, and the reason `invalid_event`."""
    taking = Taking()
    async with taking.running():
        bad = [
            taking.send(b"{", headers=(("x", b"1"), ("x", None))),
            taking.send({"id": 7}),
            taking.send({"agency_id": "x"}),
            taking.send({"agency_id": 7, "region": "x" * 100_000}),
            taking.send(b'{"agency_id": 7, "more": "' + b"x" * 1_200_000 + b'"}'),
        ]
        taking.broker.max_message_bytes = 10_000_000
        taking.send({"agency_id": 7})
        await taking.clock.sleep(1)

    found = [DeadLetter.of(record) for record in taking.broker.records(LETTERS)]
    assert [letter.reason for letter in found if letter] == ["invalid_event"] * len(bad)
    assert [letter.original(timestamp_ms=0) for letter in found if letter] == bad
    assert len(taking.entries()) == 2
    assert await taking.committed() == len(bad) + 1


@in_virtual_time
async def test_nothing_is_committed_before_it_is_stored() -> None:
    """After an outage, the event is delivered again, or sent again."""
    taking = Taking()
    taking.of_kafka.on_next("send", refused(KafkaUnavailable("no route")))
    async with taking.running():
        taking.send({"agency_id": 7})
        await taking.clock.sleep(0.5)
        assert await taking.committed() == 0
        await taking.clock.sleep(5)

    assert len(taking.entries()) == 2
    assert await taking.committed() == 1


@in_virtual_time
async def test_a_missing_topic_is_waited_for() -> None:
    """The readiness names it; it may come, go, and come back."""
    taking = Taking(topics=(ENTRIES, LETTERS))
    taking.health.state = "serving"
    async with taking.running():
        await taking.clock.sleep(5)
        (problem,) = taking.health.not_ready()
        assert problem.startswith(f"the topic {EVENTS}: it doesn't exist")
        taking.broker.create(EVENTS)
        await taking.clock.sleep(5)
        assert taking.health.not_ready() == []
        taking.send({"agency_id": 7})
        await taking.clock.sleep(5)
        taking.broker.delete(EVENTS)
        await taking.clock.sleep(5)
        assert taking.health.not_ready() != []
        taking.broker.create(EVENTS)
        taking.send({"agency_id": 8})
        await taking.clock.sleep(5)

    assert [entry.agency_id for entry in taking.entries()] == [7, 7, 8, 8]


@in_virtual_time
async def test_a_repeated_event_without_debounce_is_the_same_run() -> None:
    """Its sender sent it twice: the run id comes from its source and id."""
    taking = Taking()
    async with taking.running():
        taking.send({"agency_id": 7})
        taking.send({"agency_id": 7})
        await taking.clock.sleep(1)

    of_all = [entry.request.run_id for entry in taking.entries() if entry.trigger == "all"]
    of_updated = [entry.request.run_id for entry in taking.entries() if entry.trigger == "updated"]
    assert len(set(of_all)) == 1
    assert len(set(of_updated)) == 2


def test_a_repeated_event_that_asks_for_something_else_is_another_run() -> None:
    """It has no time, so `since` is the time of its message. With one run id, the requests would conflict."""
    clock = VirtualClock()
    trigger = EventTrigger.model_validate(
        {"name": "t", "topic": EVENTS, "agency_id": "data.agency_id", "since": "event_time"}
    )
    reader = EventReader([trigger], triggers_id="file", entries_topic=ENTRIES, clock=clock)
    asked = [
        asked_by(reader, event_record({"agency_id": 7}, offset=offset, at=clock.now() - timedelta(seconds=age)))
        for offset, age in enumerate([9, 9, 5])
    ]
    assert [(now - asked_since).total_seconds() for now in [clock.now()] for _, asked_since in asked] == [9, 9, 5]
    first, again, later = [run_id for run_id, _ in asked]
    assert first == again != later


@pytest.mark.parametrize("triggers", [1, 20, 150])
def test_the_windows_of_all_triggers_fit_into_one_message(triggers: int) -> None:
    """Whatever the senders of events write: longer params are dead letters, and a tracestate isn't kept."""
    clock = VirtualClock()
    written = {"topic": EVENTS, "agency_id": "data.agency_id", "params": {"p": {"from": "data.p"}}}
    listed = [
        EventTrigger.model_validate({**written, "name": f"t{number}", "debounce": {"quiet_for": "10s"}})
        for number in range(triggers)
    ]
    reader = EventReader(listed, triggers_id="file", entries_topic=ENTRIES, clock=clock)

    def read(length: int, offset: int) -> list[Outgoing]:
        headers = (("traceparent", b"00-" + b"a" * 5000), ("tracestate", b"v=" + b"x" * 5000))
        record = event_record({"agency_id": 7, "p": "x" * length}, offset=offset, at=clock.now(), headers=headers)
        return reader.read(record, topic_id="a" * 32)

    with pytest.raises(InvalidEvent, match="Send shorter params") as refused:
        read(64 * 1024, 0)
    (most,) = re.findall("may have ([0-9,]+) at most", str(refused.value))
    state = AgencyWindows(agency_id=7)
    entries = [entry.value for offset in range(20) for entry in read(int(most.replace(",", "")) - 600, offset)]
    for offset, entry in enumerate(entries):
        state, _ = apply(state, read_entry(entry or b""), offset=offset, at=clock.now())
    assert len(state.write()) < 1_000_000


def event_record(body: object, *, offset: int, at: datetime, headers: Headers = ()) -> Record:
    ce = {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/crm", "ce_type": b"agency.updated"}
    value = json.dumps(body).encode()
    return Record(EVENTS, 0, offset, round(at.timestamp() * 1000), b"any", value, (*ce.items(), *headers))


def asked_by(reader: EventReader, record: Record) -> tuple[str | None, datetime]:
    (entry,) = reader.read(record, topic_id="id")
    happened = read_entry(entry.value or b"")
    assert isinstance(happened, Happened)
    assert happened.request.since is not None
    return happened.request.run_id, happened.request.since
