"""
Watch runs: look at the history again and again, and read live numbers from the progress topic.

The history is the truth. Without Kafka, only the live numbers are missing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from pydantic import ValidationError

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import give_up
from pipeline_processing.errors import PipelineError, RunUnknown, TopicMissing, TransientError
from pipeline_processing.messaging.port import Topics
from pipeline_processing.model import Run, RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.run_filter import RunFilter, RunPlace
from pipeline_processing.runs.store import RunHistory

_LOOK_SECONDS = 1.0
_IDLE_SHARE = 10
"""A history that takes long to answer is asked less often: the pause is at least so many times the answer's time."""
_KAFKA_PAUSE_SECONDS = 5.0
_ACCEPTED_SECONDS = 5.0
"""How long a run may be unknown: a request becomes a run when a worker has read it."""
_MOST_RUNS = 2_000
"""How many runs' progress is kept."""
_NOT_YET = (
    "If it was just requested, no worker has accepted it yet: `pipeline-processing workers` shows who listens, and "
    "`dead-letters list` which requests were refused. Follow it again then."
)
_MOST_FOLLOWED = 1_000
"""Runs of one look."""
_RATE_EVENTS = 10
"""The rate is that of the last so many events, of which a run sends one a second at most."""


@dataclass(frozen=True, slots=True)
class Live:
    """The latest numbers of a running attempt."""

    progress: RunProgress
    rows_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the history found."""

    at: datetime
    listed: Sequence[Run]
    """The newest runs that match, newest first."""
    changed: Sequence[Run]
    """Runs that are new or have changed since the last look, oldest first."""
    live: Mapping[str, Live]
    """Run id → live numbers, for runs that have some."""
    problem: str | None = None
    """Why the history didn't answer; the runs are then those of the last look."""
    kafka_problem: str | None = None
    """Why there are no live numbers."""


class LiveProgress:
    """Keeps the latest progress of each run, from the progress topic."""

    def __init__(
        self, *, topics: Topics, topic: str, clock: Clock, on_event: Callable[[str], None] = lambda run_id: None
    ) -> None:
        """`on_event` gets the run id of each event that is newer than those before."""
        self.problem: str | None = None
        """Why Kafka can't be read at the moment."""
        self._topics = topics
        self._topic = topic
        self._clock = clock
        self._on_event = on_event
        self._events: dict[str, deque[RunProgress]] = {}

    def of(self, run: Run) -> Live | None:
        """Return the live numbers of the run's current attempt, or None if it isn't running or has sent none."""
        events = self._events.get(run.run_id)
        held = run.state in (RunState.RUNNING, RunState.PREPARED)
        if events is None or not held or events[-1].attempt != run.attempt:
            return None
        seconds = (events[-1].at - events[0].at).total_seconds()
        rows = events[-1].rows_read - events[0].rows_read
        return Live(events[-1], rows_per_second=rows / seconds if seconds > 0 else None)

    async def read(self) -> None:
        """Read until cancelled, with retries while Kafka is away. Give up on errors that waiting can't fix."""
        while True:
            try:
                async with self._topics.following([self._topic]) as records:
                    self.problem = None
                    async for record in records:
                        try:
                            self._take(RunProgress.model_validate_json(record.value or b"", extra="ignore"))
                        except ValidationError:
                            continue
            except (TransientError, TopicMissing) as error:
                self.problem = str(error)
            except PipelineError as error:
                self.problem = str(error)
                return
            await self._clock.sleep(_KAFKA_PAUSE_SECONDS)

    def _take(self, progress: RunProgress) -> None:
        # Insert it again, so that the first entry is the one that was silent for longest.
        events = self._events.pop(progress.run_id, None)
        if events is None or events[-1].attempt < progress.attempt:
            events = deque(maxlen=_RATE_EVENTS)
        newer = not events or (events[-1].attempt == progress.attempt and events[-1].at < progress.at)
        if newer:
            events.append(progress)
        self._events[progress.run_id] = events
        if len(self._events) > _MOST_RUNS:
            del self._events[next(iter(self._events))]
        if newer:
            self._on_event(progress.run_id)


class Watch:
    """Remembers what the last look at the history found."""

    def __init__(self, history: RunHistory, wanted: RunFilter, *, limit: int, follow: bool) -> None:
        """
        Watch the newest `limit` runs that match.

        With `follow`, `changes` also finds new runs beyond the limit, and how listed runs end that have dropped out of
        the list. So that every look stays cheap, this holds for the newest 1,000 runs.
        """
        self._history = history
        self._wanted = wanted
        self._limit = limit
        self._follow = follow
        self._known: dict[str, Run] | None = None
        """The runs of the last look."""
        self.listed: list[Run] = []

    async def changes(self) -> list[Run]:
        """
        Look again. Return the runs that are new or have changed, oldest first.

        That is one query, unless there is something to follow.
        """
        self.listed = await self._history.newest(self._wanted, limit=self._limit)
        found = {run.run_id: run for run in self.listed}
        known = self._known or {}
        if self._follow and self._known is not None:
            found |= {run.run_id: run for run in await self._more_new_runs(self._known)}
            left = [run_id for run_id, run in known.items() if run_id not in found and not run.state.finished]
            if left := left[: max(0, _MOST_FOLLOWED - len(found))]:
                found |= await self._history.get_all(left)
        changed = [run for run in found.values() if run.run_id not in known or _mark(run) != _mark(known[run.run_id])]
        self._known = found
        return sorted(changed, key=lambda run: (run.queued_at, run.run_id))

    async def _more_new_runs(self, known: Mapping[str, Run]) -> list[Run]:
        """Return the runs after those listed, if all listed ones are new."""
        if len(self.listed) < self._limit or any(run.run_id in known for run in self.listed):
            return []
        wanted = replace(self._wanted, after=RunPlace.of(self.listed[-1]))
        page = await self._history.newest(wanted, limit=_MOST_FOLLOWED)
        return list(takewhile(lambda run: run.run_id not in known, page))


def _mark(run: Run) -> tuple[object, ...]:
    return run.state, run.attempt


async def watch(watched: Watch, *, progress: LiveProgress | None, clock: Clock, show: Callable[[Look], None]) -> None:
    """
    Look every second or so, and pass what was found to `show`, until cancelled.

    Raises the history's error if the first look fails. Later, an error that may pass is shown and the look repeated.
    """
    async with asyncio.TaskGroup() as tasks:
        if progress is not None:
            tasks.create_task(progress.read())
        first, problem = True, None
        while True:
            changed: list[Run] = []
            asked_at = clock.monotonic()
            try:
                changed = await watched.changes()
                first, problem = False, None
            except TransientError as error:
                if first:
                    raise
                problem = str(error)
            took = clock.monotonic() - asked_at
            numbers = {run.run_id: progress.of(run) for run in watched.listed} if progress is not None else {}
            show(
                Look(
                    at=clock.now(),
                    listed=watched.listed,
                    changed=changed,
                    live={run_id: live for run_id, live in numbers.items() if live is not None},
                    problem=problem,
                    kafka_problem=None if progress is None else progress.problem,
                )
            )
            await clock.sleep(max(_LOOK_SECONDS, took * _IDLE_SHARE))


async def follow(
    history: RunHistory,
    run_ids: Sequence[str],
    *,
    progress: LiveProgress,
    clock: Clock,
    on_progress: Callable[[RunProgress], None],
    on_finished: Callable[[Run], None],
    on_look: Callable[[Sequence[Run], str | None], Awaitable[None]],
) -> None:
    """
    Look at these runs every second or so, until all have finished.

    `on_look` gets the unfinished ones, and which aren't known yet, or why the history or Kafka doesn't answer. Raises
    RunUnknown for an id that the history doesn't know after some seconds, and the history's error if the first look
    fails.
    """
    left, told, began_at = list(dict.fromkeys(run_ids)), dict[str, RunProgress](), clock.monotonic()
    reading = asyncio.create_task(progress.read())
    try:
        first = True
        while True:
            asked_at = clock.monotonic()
            try:
                runs = await history.get_all(left)
                first, problem = False, progress.problem and f"No live numbers: {progress.problem}"
                if unknown := [run_id for run_id in left if run_id not in runs]:
                    if clock.monotonic() - began_at > _ACCEPTED_SECONDS:
                        raise RunUnknown(unknown[0], remedy=_NOT_YET)
                    problem = f"No worker has accepted {', '.join(unknown[:3])} yet"
            except TransientError as error:
                if first:
                    raise
                runs, problem = {}, str(error)
            for run in runs.values():
                if (live := progress.of(run)) is not None and live.progress != told.get(run.run_id):
                    told[run.run_id] = live.progress
                    on_progress(live.progress)
            for run in [runs[run_id] for run_id in left if run_id in runs]:
                if run.state.finished:
                    left.remove(run.run_id)
                    on_finished(run)
            if not left:
                return
            await on_look([runs[run_id] for run_id in left if run_id in runs], problem)
            await clock.sleep(max(_LOOK_SECONDS, (clock.monotonic() - asked_at) * _IDLE_SHARE))
    finally:
        give_up(reading)
