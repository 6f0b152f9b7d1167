"""Live progress: the latest of each run, not too often, and never in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import orjson

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.serving.progress_events import ProgressEvents
from tests.unit.virtual_clock import VirtualClock, in_virtual_time


class Sent:
    """Keeps what is sent, and when."""

    def __init__(self, clock: VirtualClock) -> None:
        self.messages: list[tuple[float, Outgoing]] = []
        self.away = False
        self._clock = clock

    async def send(self, messages: Sequence[Outgoing]) -> None:
        if self.away:
            await self._clock.sleep(10)
            raise KafkaUnavailable("gone")
        self.messages += [(self._clock.monotonic(), message) for message in messages]

    def rows(self, run_id: str) -> list[tuple[float, int]]:
        """When a run was told of, and with how many rows."""
        told = [(at, orjson.loads(message.value or b"")) for at, message in self.messages]
        return [(at, value["rows_read"]) for at, value in told if value["run_id"] == run_id]


def progress(clock: VirtualClock, rows: int, *, run_id: str = "r") -> RunProgress:
    return RunProgress(
        run_id=run_id,
        agency_id=7,
        attempt=1,
        state=RunState.RUNNING,
        dataset="records",
        stage="read",
        rows_read=rows,
        rows_written=rows,
        bytes_written=rows * 10,
        at=clock.now(),
    )


@asynccontextmanager
async def telling(clock: VirtualClock, sent: Sent) -> AsyncIterator[ProgressEvents]:
    stop = asyncio.Event()
    events = ProgressEvents(events=sent, topic="progress", clock=clock)
    task = asyncio.create_task(events.run(stop))
    try:
        yield events
    finally:
        stop.set()
        await task


@in_virtual_time
async def test_at_most_one_a_second_for_each_run() -> None:
    """The first at once, then the latest once a second, however many batches there are."""
    clock = VirtualClock()
    sent = Sent(clock)
    async with telling(clock, sent) as events:
        for rows in range(350):
            events.tell(progress(clock, rows))
            await clock.sleep(0.01)

    times = [at for at, _ in sent.rows("r")]
    assert len(times) == 4
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))
    assert sent.rows("r")[-1][1] >= 300


@in_virtual_time
async def test_runs_do_not_wait_for_each_other() -> None:
    """A second is counted for each run."""
    clock = VirtualClock()
    sent = Sent(clock)
    async with telling(clock, sent) as events:
        events.tell(progress(clock, 1, run_id="one"))
        await clock.sleep(0.1)
        events.tell(progress(clock, 2, run_id="two"))
        await clock.sleep(0.1)

    assert sent.rows("one") == [(0.0, 1)]
    assert sent.rows("two") == [(0.1, 2)]


@in_virtual_time
async def test_the_last_of_a_run_that_has_ended_is_no_news() -> None:
    """Progress doesn't come after the completion."""
    clock = VirtualClock()
    sent = Sent(clock)
    async with telling(clock, sent) as events:
        events.tell(progress(clock, 1))
        await clock.sleep(0.1)
        events.tell(progress(clock, 2))
        events.forget("r")
        await clock.sleep(5)

    assert sent.rows("r") == [(0.0, 1)]


@in_virtual_time
async def test_an_outage_loses_progress_and_nothing_else() -> None:
    """Telling never waits, nothing piles up, and when Kafka is back the latest is told."""
    clock = VirtualClock()
    sent = Sent(clock)
    sent.away = True
    async with telling(clock, sent) as events:
        for rows in range(300):
            events.tell(progress(clock, rows))
            await clock.sleep(0.1)
        assert clock.monotonic() < 31
        sent.away = False
        events.tell(progress(clock, 300))
        await clock.sleep(12)

    assert [rows for _, rows in sent.rows("r")] == [300]


@in_virtual_time
async def test_it_is_a_cloud_event() -> None:
    """With the run's agency as its key, and an id of its own."""
    clock = VirtualClock()
    sent = Sent(clock)
    async with telling(clock, sent) as events:
        events.tell(progress(clock, 1))
        await clock.sleep(1.5)
        events.tell(progress(clock, 2))
        await clock.sleep(1)

    first, second = (message for _, message in sent.messages)
    headers = dict(first.headers)
    assert (first.topic, first.key, headers["ce_type"]) == ("progress", b"7", b"agency.run.progress")
    assert headers["ce_id"] != dict(second.headers)["ce_id"]
    RunProgress.model_validate_json(first.value or b"")


@in_virtual_time
async def test_nothing_happens_while_there_are_no_runs() -> None:
    """An idle process isn't woken; the first progress after an hour is sent at once, and the sender rests after it."""
    clock = VirtualClock()
    sent = Sent(clock)
    async with telling(clock, sent) as events:
        looks = 0
        look = events._due

        def counted() -> list[RunProgress]:
            nonlocal looks
            looks += 1
            return look()

        events._due = counted  # type: ignore[method-assign]
        await clock.sleep(3600)
        assert looks <= 1
        events.tell(progress(clock, 5))
        await clock.sleep(3600)

    assert sent.rows("r") == [(3600.0, 5)]
    assert looks <= 10
