"""What pages see live: every change once, the latest state for slow readers, and one look for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

from pipeline_processing.board.live import Subscription
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import Run
from pipeline_processing.runs.board_reads import Changes, QueueState, Typical
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.run_filter import RunFilter
from tests.unit.board.asking import Stream, ask, streaming
from tests.unit.board.conftest import NAMES, Parts
from tests.unit.board.history import at, run
from tests.unit.virtual_clock import VirtualClock, in_virtual_time


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[asyncio.Event]:
    """Run the board's loops. Yields the event that ends them."""
    stop = asyncio.Event()
    looking = asyncio.create_task(parts.live.run(stop))
    reading = asyncio.create_task(parts.progress.read())
    await asyncio.sleep(0.01)
    try:
        yield stop
    finally:
        stop.set()
        await looking
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await asyncio.sleep(1)  # a look at the topics ends


async def until(stream: Stream, name: str, **fields: Any) -> Any:
    """Read until an event with these fields comes, and return it."""
    async with asyncio.timeout(60):
        while True:
            for event, data in await stream.next():
                if event == name and all(data.get(field) == value for field, value in fields.items()):
                    return data


def tell(parts: Parts, run_id: str, *, rows: int, seconds: float, attempt: int = 1) -> None:
    """Send a progress event."""
    event = RunProgress(
        run_id=run_id,
        agency_id=7,
        attempt=attempt,
        state="running",
        dataset="records",
        stage="steps",
        rows_read=rows,
        rows_written=rows,
        bytes_written=rows * 10,
        at=at(seconds),
    )
    parts.broker.put(Outgoing(NAMES.progress_topic, b"7", event.model_dump_json().encode()))


@in_virtual_time
async def test_a_run_is_seen_from_queued_to_succeeded(parts: Parts) -> None:
    """Each state within two seconds."""
    async with running(parts), streaming(parts.app()) as stream:
        assert (await until(stream, "overview"))["states"] == {"queued": 0, "running": 0, "prepared": 0}
        for state in ("queued", "running", "prepared", "succeeded"):
            now = VirtualClock().now()
            parts.history.put(run("r", state, queued_at=now, finished_at=now if state == "succeeded" else None))
            await until(stream, "run", run_id="r", state=state)
            assert (VirtualClock().now() - now).total_seconds() < 2


@in_virtual_time
async def test_a_run_that_goes_back_to_the_queue_is_seen(parts: Parts) -> None:
    """It is neither held, nor new, nor finished."""
    parts.history.put(run("r", "running", queued_at=at(-500)))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r", state="running")
        parts.history.put(run("r", "queued", attempt=1, queued_at=at(-500)))
        await until(stream, "run", run_id="r", state="queued")


@in_virtual_time
async def test_nothing_is_told_twice(parts: Parts) -> None:
    """An unchanged run only once; an unchanged overview every ten seconds; a comment every fifteen."""
    parts.history.put(run("r", "running"))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r")
        await asyncio.sleep(3)
        while not stream.chunks.empty():
            await stream.next()
        await asyncio.sleep(60)
        seen = []
        while not stream.chunks.empty():
            seen += [name for name, _ in await stream.next()]
        assert set(seen) <= {"overview", ""}
        assert 5 <= seen.count("overview") <= 7


@in_virtual_time
async def test_twenty_pages_cost_what_one_costs(parts: Parts) -> None:
    """Two queries a second, however many pages. Without a page, one in fifteen seconds."""
    parts.history.put(run("r", "running"))
    async with running(parts):
        async with asyncio.TaskGroup() as group:

            async def page() -> None:
                async with streaming(parts.app()):
                    await asyncio.sleep(30)

            for _ in range(20):
                group.create_task(page())
        assert len(parts.history.calls) <= 2 * 32
        parts.history.calls.clear()
        await asyncio.sleep(60)
        assert set(parts.history.calls) == {"queue_state"}
        assert len(parts.history.calls) <= 5


@in_virtual_time
async def test_a_slow_history_is_asked_less_often(parts: Parts) -> None:
    """It has five seconds between two answers, or five times the answer's time if that is less."""
    queue_state = parts.history.queue_state

    async def slow() -> QueueState:
        await asyncio.sleep(1)
        return await queue_state()

    parts.history.queue_state = slow  # type: ignore[method-assign]
    async with running(parts), streaming(parts.app()):
        await asyncio.sleep(60)
        assert parts.history.calls.count("queue_state") <= 11


@in_virtual_time
async def test_a_page_that_comes_later_misses_nothing(parts: Parts) -> None:
    """It is told what changed in the seconds before, in case its lists are older."""
    parts.history.put(run("r", "running"))
    async with running(parts), streaming(parts.app()) as first:
        await until(first, "run", run_id="r")
        async with streaming(parts.app()) as second:
            await until(second, "run", run_id="r")


@in_virtual_time
async def test_the_first_overview_is_current(parts: Parts) -> None:
    """Although nobody has looked for seconds, as no page was open."""
    async with running(parts):
        await asyncio.sleep(10)
        now = VirtualClock().now()
        async with streaming(parts.app()) as first:
            assert datetime.fromisoformat((await until(first, "overview"))["now"]) >= now
            await asyncio.sleep(5)
            now = VirtualClock().now()
            async with streaming(parts.app()) as second:
                told = datetime.fromisoformat((await until(second, "overview"))["now"])
                assert (now - told).total_seconds() < 2


@in_virtual_time
async def test_a_run_that_cannot_be_read_does_not_end_the_board(parts: Parts) -> None:
    """The overview stays live, and so do the runs once it has gone."""
    changes = parts.history.changes

    async def broken(**_: Any) -> Changes:
        raise ValueError("priority must be a number")

    async with running(parts), streaming(parts.app()) as stream:
        parts.history.changes = broken  # type: ignore[method-assign,assignment]
        parts.history.put(run("r"))
        assert (await until(stream, "overview", history="ok"))["states"]["queued"] == 1
        parts.history.changes = changes  # type: ignore[method-assign]
        await until(stream, "run", run_id="r")


@in_virtual_time
async def test_searches_leave_a_connection_free(parts: Parts) -> None:
    """At most two read the history at once, and what pages see stays live meanwhile."""
    newest, searching, most = parts.history.newest, 0, 0

    async def slow(wanted: RunFilter, *, limit: int | None) -> list[Run]:
        nonlocal searching, most
        searching += 1
        most = max(most, searching)
        await asyncio.sleep(9)
        searching -= 1
        return await newest(wanted, limit=limit)

    parts.history.newest = slow  # type: ignore[method-assign,assignment]
    async with running(parts), streaming(parts.app()) as stream, asyncio.TaskGroup() as group:
        for text in "abcdefgh":
            group.create_task(ask(parts.app(), f"/api/v1/runs?q={text}"))
        await asyncio.sleep(1)
        parts.history.put(run("r", queued_at=VirtualClock().now()))
        async with asyncio.timeout(2):
            await until(stream, "run", run_id="r")
    assert most == 2


@in_virtual_time
async def test_a_slow_reader_gets_the_latest_state(parts: Parts) -> None:
    """However long it reads nothing, and without costing memory."""
    parts.history.put(run("r", "running"))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r")
        stream.reading.clear()
        for attempt in range(2, 60):
            parts.history.put(run("r", "running", attempt=attempt))
            await asyncio.sleep(1.5)
        stream.reading.set()
        told = []
        while not told or told[-1] != 59:
            told += [data["attempt"] for name, data in await stream.next() if name == "run"]
        assert len(told) <= 3  # the one that was being sent, and the latest


@in_virtual_time
async def test_too_many_changes_are_summed_up(parts: Parts) -> None:
    """The page fetches its lists again."""
    parts.history.complete = False
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "refetch")


async def test_pending_events_are_bounded() -> None:
    """A page that reads nothing while thousands of runs change is told to fetch its lists again."""
    page = Subscription()
    for number in range(10_000):
        page.put("run", str(number), b"x" * 100)
    taken = await page.take(seconds=1)
    assert taken.startswith(b"event: refetch\n")
    assert len(taken) < 250_000


@in_virtual_time
async def test_progress_is_live(parts: Parts) -> None:
    """With rows a second from the second event on, and the estimate that follows from it."""
    parts.history.put(run("r", "running"))
    parts.history.typical_of[7] = Typical(runs=3, duration_ms=100_000, rows_read=1000)
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r", progress=None)
        tell(parts, "r", rows=100, seconds=2)
        first = await until(stream, "progress", run_id="r")
        assert first["progress"]["rows_per_second"] is None
        tell(parts, "r", rows=200, seconds=3)
        second = await until(stream, "progress", run_id="r")
        assert (second["progress"]["rows_read"], second["progress"]["rows_per_second"]) == (200, 100)
        assert second["estimate"] == {"finishes_at": "2026-01-18T12:00:11Z", "from_runs": 3}
        found = (await ask(parts.app(), "/api/v1/runs")).json["runs"][0]
        assert found["progress"] == second["progress"]


@in_virtual_time
async def test_only_the_current_attempt_has_progress(parts: Parts) -> None:
    """Events that are late, of an earlier attempt, invalid or of unknown runs change nothing."""
    parts.history.put(run("r", "running", attempt=2))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r")
        tell(parts, "r", rows=900, seconds=1, attempt=1)
        tell(parts, "other", rows=1, seconds=1)
        parts.broker.put(Outgoing(NAMES.progress_topic, b"7", b"not json"))
        tell(parts, "r", rows=50, seconds=3, attempt=2)
        tell(parts, "r", rows=40, seconds=2, attempt=2)
        assert (await until(stream, "progress"))["progress"]["rows_read"] == 50


@in_virtual_time
async def test_an_outage_of_the_history_is_told_and_passes(parts: Parts) -> None:
    """The last overview stays, marked; then it is current again."""
    parts.history.put(run("r"))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "overview", history="ok")
        parts.history.away = True
        away = await until(stream, "overview", history="away")
        assert away["states"]["queued"] == 1
        async with streaming(parts.app()) as another:
            await until(another, "overview", history="away")
        parts.history.away = False
        parts.history.put(run("r", "succeeded", finished_at=VirtualClock().now()))
        await until(stream, "overview", history="ok")


@in_virtual_time
async def test_without_kafka_it_says_so(parts: Parts) -> None:
    """Runs are shown; lag and dead letters come back with Kafka."""
    parts.broker.outage = True
    parts.history.put(run("r", "running"))
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "run", run_id="r")
        told = await until(stream, "overview", kafka="away")
        assert (told["lag"], told["dead_letters_recent"]) == (None, None)
        parts.broker.outage = False
        parts.broker.put(Outgoing(NAMES.requests_topic, b"7", b"{}"))
        await until(stream, "overview", kafka="ok", lag={"messages": 1, "partitions": 6}, dead_letters_recent=2)


@in_virtual_time
async def test_missing_topics_are_no_outage(parts: Parts) -> None:
    """Before the first `serve`, there is nothing to read."""
    for topic in (NAMES.requests_topic, NAMES.progress_topic, NAMES.dead_letters_topic):
        parts.broker.delete(topic)
    async with running(parts), streaming(parts.app()) as stream:
        await until(stream, "overview", kafka="ok", lag={"messages": 0, "partitions": 0}, dead_letters_recent=2)


@in_virtual_time
async def test_streams_end_with_the_process(parts: Parts) -> None:
    async with running(parts) as stop, streaming(parts.app()) as stream:
        await until(stream, "overview")
        stop.set()
        async with asyncio.timeout(5):
            while not stream.ended:
                await stream.next()


@in_virtual_time
async def test_there_is_room_for_so_many_pages(parts: Parts) -> None:
    """One more is refused, until another leaves."""
    async with running(parts):
        async with AsyncExitStack() as stack:
            for _ in range(200):
                await stack.enter_async_context(streaming(parts.app()))
            assert (await ask(parts.app(), "/api/v1/live")).status == 503
        assert parts.live.pages == 0
