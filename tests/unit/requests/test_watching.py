"""Watching: what has changed in the history, with live numbers while Kafka answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline_processing.errors import AccessDenied, HistoryUnavailable, RunUnknown
from pipeline_processing.history.memory.reads import MemoryHistory
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import Run, RunFailure, RunState
from pipeline_processing.requests import watching
from pipeline_processing.requests.watching import LiveProgress, Look, Watch, follow, watch
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter
from pipeline_processing.runs.store import Claim
from tests.memory.broker import MemoryBroker
from tests.unit.in_memory import incoming
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

TOPIC = "progress"
FAILURE = RunFailure(kind="query_failed", message="no", retryable=False, exit_code=1)


class Scene:
    """A history and Kafka, and somebody who watches."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.table = RunTable(clock=self.clock)
        self.runs = memory_run_store(self.table)
        self.kafka = MemoryBroker(clock=self.clock, topics=(TOPIC,), partitions=2)
        self.looks: list[Look] = []

    async def accept(self, *run_ids: str, **request: Any) -> None:
        await self.runs.intake.accept_all([incoming(run_id, **request) for run_id in run_ids])

    async def claim(self, run_id: str) -> Claim:
        claim = await self.runs.queue.claim(worker="w", lease=timedelta(hours=1), max_runs_per_agency=99, run_id=run_id)
        assert claim is not None
        return claim

    async def fail(self, run_id: str) -> None:
        await self.runs.attempts.fail(await self.claim(run_id), FAILURE)

    def progress(self, run_id: str, rows: int, *, attempt: int = 1) -> None:
        """A worker tells how far a run is."""
        value = RunProgress(
            run_id=run_id,
            agency_id=7,
            attempt=attempt,
            state=RunState.RUNNING,
            dataset="records",
            stage="load",
            rows_read=rows,
            rows_written=rows,
            bytes_written=0,
            at=self.clock.now(),
        )
        self.kafka.put(Outgoing(TOPIC, b"7", value.model_dump_json().encode()))

    @asynccontextmanager
    async def watching(self, wanted: RunFilter = EVERY_RUN, *, limit: int = 50) -> AsyncIterator[None]:
        """Watches inside the block."""
        progress = LiveProgress(topics=self.kafka, topic=TOPIC, clock=self.clock)
        watched = Watch(self.runs.history, wanted, limit=limit, follow=True)
        task = asyncio.create_task(watch(watched, progress=progress, clock=self.clock, show=self.looks.append))
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def states(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(run.run_id, str(run.state)) for run in runs]


# -- changes -------------------------------------------------------------------------------------


async def test_each_change_is_found_once() -> None:
    """Oldest first: at the first look all runs that are there, later those that are new or have another state."""
    scene = Scene()
    watched = Watch(scene.runs.history, EVERY_RUN, limit=50, follow=True)
    await scene.accept("a", "b")
    assert states(await watched.changes()) == [("a", "queued"), ("b", "queued")]
    assert await watched.changes() == []

    await scene.claim("a")
    await scene.accept("c")
    assert states(await watched.changes()) == [("a", "running"), ("c", "queued")]
    assert [run.run_id for run in watched.listed] == ["c", "b", "a"]


async def test_a_run_is_followed_to_its_end() -> None:
    """Also when it no longer matches, or newer ones fill the list."""
    scene = Scene()
    watched = Watch(scene.runs.history, RunFilter(states=(RunState.QUEUED,)), limit=2, follow=True)
    await scene.accept("a")
    await watched.changes()
    await scene.accept("b", "c")
    await scene.fail("a")

    assert states(await watched.changes()) == [("a", "failed"), ("b", "queued"), ("c", "queued")]
    assert [run.run_id for run in watched.listed] == ["c", "b"]
    assert await watched.changes() == []


async def test_more_new_runs_than_the_list_holds_are_all_found() -> None:
    """The first look alone is limited."""
    scene = Scene()
    watched = Watch(scene.runs.history, EVERY_RUN, limit=2, follow=True)
    await scene.accept(*(f"old-{n}" for n in range(5)))
    assert len(await watched.changes()) == 2

    await scene.accept(*(f"new-{n}" for n in range(5)))
    assert [run.run_id for run in await watched.changes()] == [f"new-{n}" for n in range(5)]
    assert await watched.changes() == []


async def test_a_table_needs_one_query_per_look() -> None:
    """Nothing outside of it is followed, however many runs there are."""
    scene = Scene()
    watched = Watch(scene.runs.history, EVERY_RUN, limit=2, follow=False)
    await scene.accept("old")
    await watched.changes()
    scene.table.records.clear()
    await scene.accept(*(f"new-{n}" for n in range(5)))

    assert [run.run_id for run in await watched.changes()] == ["new-3", "new-4"]
    assert [run.run_id for run in watched.listed] == ["new-4", "new-3"]


async def test_so_many_runs_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones, so that a look stays cheap in front of a long queue."""
    monkeypatch.setattr(watching, "_MOST_FOLLOWED", 4)
    scene = Scene()
    watched = Watch(scene.runs.history, EVERY_RUN, limit=2, follow=True)
    await watched.changes()
    await scene.accept(*(f"r-{n}" for n in range(9)))
    assert [run.run_id for run in await watched.changes()] == ["r-3", "r-4", "r-5", "r-6", "r-7", "r-8"]

    for run_id in ("r-3", "r-5", "r-8"):
        await scene.runs.queue.cancel(run_id)
    assert states(await watched.changes()) == [("r-5", "cancelled"), ("r-8", "cancelled")]


async def test_a_run_that_is_pruned_is_forgotten() -> None:
    """It can't be followed any further."""
    scene = Scene()
    watched = Watch(scene.runs.history, RunFilter(states=(RunState.QUEUED,)), limit=2, follow=True)
    await scene.accept("a")
    await watched.changes()
    scene.table.records.clear()

    assert await watched.changes() == []


# -- live numbers --------------------------------------------------------------------------------


@in_virtual_time
async def test_a_running_run_has_live_numbers() -> None:
    """Those of its own attempt, with a rate once there are two; none before it runs and after it has ended."""
    scene = Scene()
    await scene.accept("a")
    async with scene.watching():
        scene.progress("a", 1)
        await asyncio.sleep(2)
        assert scene.looks[-1].live == {}

        claim = await scene.claim("a")
        await asyncio.sleep(1)
        first = scene.looks[-1].live["a"]
        assert (first.progress.rows_read, first.rows_per_second) == (1, None)

        await asyncio.sleep(1)
        scene.progress("a", 401)
        await asyncio.sleep(1)
        assert scene.looks[-1].live["a"].rows_per_second == pytest.approx(100)

        scene.progress("a", 5, attempt=2)
        await asyncio.sleep(1)
        assert scene.looks[-1].live == {}

        await scene.runs.attempts.fail(claim, FAILURE)
        scene.kafka.put(Outgoing(TOPIC, b"7", b"not JSON"))
        await asyncio.sleep(1.5)
        assert states(scene.looks[-1].listed) == [("a", "failed")]
        assert scene.looks[-1].live == {}


@in_virtual_time
async def test_without_kafka_only_the_live_numbers_are_missing() -> None:
    """They come back with it."""
    scene = Scene()
    await scene.accept("a")
    scene.kafka.outage = True
    async with scene.watching():
        assert states(scene.looks[-1].changed) == [("a", "queued")]
        await scene.claim("a")
        await asyncio.sleep(2)
        assert states(scene.looks[-1].listed) == [("a", "running")]
        assert "can't be reached" in str(scene.looks[-1].kafka_problem)

        scene.kafka.outage = False
        await asyncio.sleep(10)
        scene.progress("a", 5)
        await asyncio.sleep(2)
        assert scene.looks[-1].kafka_problem is None
        assert scene.looks[-1].live["a"].progress.rows_read == 5


@in_virtual_time
async def test_an_error_that_no_waiting_mends_ends_only_the_live_numbers() -> None:
    """Such as a wrong password, which should not be tried again and again."""
    scene = Scene()
    asked = []

    def refuse(*topics: str) -> None:
        asked.append(topics)
        raise AccessDenied("no")

    scene.kafka.check = refuse  # type: ignore[method-assign]
    async with scene.watching():
        await asyncio.sleep(20)
        assert (scene.looks[-1].kafka_problem, len(asked)) == ("no", 1)


# -- outages of the history ----------------------------------------------------------------------


class Flaky(MemoryHistory):
    """A history that may be away."""

    away = False

    async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
        if self.away:
            raise HistoryUnavailable("away")
        return await super().newest(wanted, limit=limit)


@in_virtual_time
async def test_an_outage_of_the_history_is_shown_and_waited_for() -> None:
    """With the runs of the last look; nothing that happened meanwhile is missed."""
    scene = Scene()
    flaky = Flaky(scene.table)
    scene.runs = replace(scene.runs, history=flaky)
    await scene.accept("a")
    async with scene.watching():
        flaky.away = True
        await scene.fail("a")
        await asyncio.sleep(3)
        last = scene.looks[-1]
        assert (last.problem, states(last.listed), last.changed) == ("away", [("a", "queued")], [])

        flaky.away = False
        await asyncio.sleep(1)
        assert (scene.looks[-1].problem, states(scene.looks[-1].changed)) == (None, [("a", "failed")])


async def test_a_history_that_is_away_from_the_start_is_an_error() -> None:
    """There is nothing to show."""
    scene = Scene()
    flaky = Flaky(scene.table)
    flaky.away = True

    with pytest.raises(ExceptionGroup) as raised:
        await watch(
            Watch(flaky, EVERY_RUN, limit=1, follow=True), progress=None, clock=scene.clock, show=scene.looks.append
        )
    assert raised.group_contains(HistoryUnavailable)
    assert scene.looks == []


@in_virtual_time
async def test_a_slow_history_is_asked_less_often() -> None:
    """Watching takes a tenth of its time at most."""
    scene = Scene()

    class Slow(MemoryHistory):
        async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
            await asyncio.sleep(2)
            return await super().newest(wanted, limit=limit)

    scene.runs = replace(scene.runs, history=Slow(scene.table))
    async with scene.watching():
        await asyncio.sleep(88)
        assert len(scene.looks) == 4


# -- following -----------------------------------------------------------------------------------


class Following:
    """Somebody who follows runs of a scene."""

    def __init__(self, scene: Scene) -> None:
        self.rows: list[int] = []
        self.ended: list[tuple[str, str]] = []
        self.looks: list[tuple[list[str], str | None]] = []
        self._scene = scene

    async def follow(self, *run_ids: str) -> None:
        async def look(left: Sequence[Run], problem: str | None) -> None:
            self.looks.append(([run.run_id for run in left], problem))

        scene = self._scene
        async with asyncio.timeout(60):
            await follow(
                scene.runs.history,
                run_ids,
                progress=LiveProgress(topics=scene.kafka, topic=TOPIC, clock=scene.clock),
                clock=scene.clock,
                on_progress=lambda progress: self.rows.append(progress.rows_read),
                on_finished=lambda run: self.ended.append((run.run_id, str(run.state))),
                on_look=look,
            )


@in_virtual_time
async def test_following_runs_to_their_ends() -> None:
    """Each progress once, and each end, as soon as the history tells it."""
    scene = Scene()
    await scene.accept("a", "b", "other")
    await scene.fail("b")
    claim = await scene.claim("a")
    someone = Following(scene)

    following = asyncio.create_task(someone.follow("a", "b", "a"))
    await asyncio.sleep(0.5)
    scene.progress("a", 10)
    await asyncio.sleep(3)
    scene.progress("a", 20)
    await asyncio.sleep(2)
    assert not following.done()
    await scene.runs.attempts.fail(claim, FAILURE)
    await following

    assert someone.rows == [10, 20]
    assert someone.ended == [("b", "failed"), ("a", "failed")]
    assert someone.looks[0] == (["a"], None)


@in_virtual_time
async def test_following_needs_a_history_that_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later outages are told and waited for; without Kafka only the numbers are missing."""
    scene = Scene()
    await scene.accept("a")
    answer = scene.runs.history.get_all
    away = True

    async def get_all(run_ids: Sequence[str]) -> dict[str, Run]:
        if away:
            raise HistoryUnavailable("away")
        return await answer(run_ids)

    monkeypatch.setattr(scene.runs.history, "get_all", get_all)
    someone = Following(scene)
    with pytest.raises(HistoryUnavailable):
        await someone.follow("a")

    away, scene.kafka.outage = False, True
    following = asyncio.create_task(someone.follow("a"))
    await asyncio.sleep(1.5)
    away = True
    await asyncio.sleep(1.5)
    away = False
    await scene.fail("a")
    await following

    problems = [problem for _, problem in someone.looks]
    assert problems[-1] == "away"
    assert any(problem is not None and problem.startswith("No live numbers") for problem in problems)
    assert someone.ended == [("a", "failed")]


@in_virtual_time
async def test_a_run_that_is_not_accepted_yet_is_awaited() -> None:
    """For some seconds, as whoever has just sent a request may follow it."""
    scene = Scene()
    someone = Following(scene)
    following = asyncio.create_task(someone.follow("a"))
    await asyncio.sleep(2.5)
    await scene.accept("a")
    await scene.fail("a")
    await following

    assert someone.looks[0] == ([], "No worker has accepted a yet")
    assert someone.ended == [("a", "failed")]


@in_virtual_time
async def test_a_run_that_stays_unknown_cannot_be_followed() -> None:
    """However the others go on; and what to do is told."""
    scene = Scene()
    await scene.accept("a")
    someone = Following(scene)
    with pytest.raises(RunUnknown, match=r"'typo'.* no worker has accepted it yet: .*workers.*dead-letters list"):
        await someone.follow("a", "typo")
    await asyncio.sleep(0)  # the reading of Kafka ends

    assert 5 < scene.clock.monotonic() < 8
    assert someone.looks[0] == (["a"], "No worker has accepted typo yet")
