"""
What all open pages see live. One loop per process looks at the run table, however many pages are open.

Each page has a `Subscription`, which holds only the latest state of everything that the page hasn't read yet. So a slow
reader costs no more memory than a fast one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import HistoryClock
from pipeline_processing.aio.tasks import first_of
from pipeline_processing.board import models as m
from pipeline_processing.board.figures import TopicFigures
from pipeline_processing.board.views import Views, estimate
from pipeline_processing.errors import PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.model import Run, RunState
from pipeline_processing.requests.watching import LiveProgress
from pipeline_processing.runs.board_reads import BoardReads, Typical
from pipeline_processing.telemetry.health import Pulse

log = get_logger(__name__)

_POLL_SECONDS = 1.0
_IDLE_SHARE, _LONGEST_PAUSE_SECONDS = 5, 5.0
"""A history that takes long to answer is asked less often: the pause is at least so many times the answer's time."""
_IDLE_SECONDS = 15.0
"""Between two looks while no page is open: for /readyz."""
_OVERLAP = timedelta(seconds=5)
"""Each look reaches back before the last one: a transaction's times are older than its commit."""
_MOST_RUNS = 500
"""Runs of each kind in one look. If more have changed, pages fetch their lists again."""
_MOST_PENDING = 2_000
_TYPICAL_SECONDS = 60.0
_OVERVIEW_SECONDS = 10.0
"""Send an unchanged overview this often."""


class Subscription:
    """The latest events that one page hasn't read yet."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], bytes] = {}
        self._ready = asyncio.Event()
        self.closed = False

    def put(self, event: str, key: str, message: bytes) -> None:
        """Add an event. It replaces an unread one of the same kind and key."""
        if len(self._pending) >= _MOST_PENDING:
            self._pending = {("refetch", ""): REFETCH}
        self._pending[event, key] = message
        self._ready.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._ready.set()

    async def take(self, *, seconds: float) -> bytes:
        """Return all pending events as the stream's bytes; nothing if none comes within `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        pending, self._pending = self._pending, {}
        if not self.closed:
            self._ready.clear()
        return b"".join(pending.values())


def sse(event: str, data: BaseModel) -> bytes:
    """Return one server-sent event. JSON has no line ends."""
    return f"event: {event}\ndata: {data.model_dump_json()}\n\n".encode()


REFETCH = b"event: refetch\ndata: {}\n\n"
"""Tells a page to fetch its lists again."""


class Live:
    """Polls the run table while pages are open, and tells them what has changed."""

    def __init__(
        self,
        *,
        reads: BoardReads,
        progress: LiveProgress,
        figures: TopicFigures,
        views: Views,
        clock: HistoryClock,
        history: Server,
        kafka: Server,
        pulse: Pulse,
    ) -> None:
        self._reads = reads
        self._progress = progress
        self._figures = figures
        self._views = views
        self._clock = clock
        self._history = history
        self._kafka = kafka
        self._pulse = pulse
        self._pages: set[Subscription] = set()
        self._woken = asyncio.Event()
        self._known: dict[str, tuple[Any, bytes]] = {}
        """Run id → what the pages know of it, and the event that told them."""
        self._held: dict[str, Run] = {}
        self._typical: dict[AgencyId, tuple[float, Typical | None]] = {}
        self._last: m.Overview | None = None
        self._told: tuple[float, m.Overview] | None = None
        self._since: datetime | None = None
        self._failure: str | None = None

    # -- pages -----------------------------------------------------------------------------------

    @contextmanager
    def subscribed(self) -> Iterator[Subscription]:
        """Open a page's subscription. It starts with the overview and all that changed in the last seconds."""
        page = Subscription()
        self._told = None  # the next look tells the overview, changed or not
        if self._last is not None and self._pages:  # without pages, it may be old
            page.put("overview", "", sse("overview", self._last))
        for run_id, (_, message) in self._known.items():
            page.put("run", run_id, message)
        self._pages.add(page)
        self._woken.set()
        try:
            yield page
        finally:
            self._pages.discard(page)

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    def view(self, run: Run) -> m.RunView:
        """Return a run for lists, with its progress and the estimate of its end."""
        progress = self.progress_of(run)
        return self._views.run(run, now=self._clock.now(), progress=progress, estimate=self.estimate(run, progress))

    def progress_of(self, run: Run) -> m.Progress | None:
        """Return the progress of a run's current attempt."""
        live = self._progress.of(run)
        if live is None:
            return None
        rate = live.rows_per_second
        return m.view(m.Progress, live.progress, rows_per_second=None if rate is None else round(rate, 1))

    def estimate(self, run: Run, progress: m.Progress | None) -> m.Estimate | None:
        """Estimate a run's end from the medians that are known already."""
        _, typical = self._typical.get(run.agency_id, (0.0, None))
        return estimate(run, typical, progress, now=self._clock.now())

    def tell_progress(self, run_id: str) -> None:
        """Tell the pages about a newer progress event of a run."""
        run = self._held.get(run_id)
        if run is None or not self._pages:
            return
        progress = self.progress_of(run)
        if progress is not None:
            update = m.ProgressUpdate(
                run_id=run_id, attempt=run.attempt, progress=progress, estimate=self.estimate(run, progress)
            )
            self._put("progress", run_id, sse("progress", update))

    def _put(self, event: str, key: str, message: bytes) -> None:
        for page in self._pages:
            page.put(event, key, message)

    # -- looking ---------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Look every second while pages are open, until `stop` is set. Then end all streams."""
        while not stop.is_set():
            self._pulse.beat()
            self._woken.clear()
            began_at = self._clock.monotonic()
            await self.look()
            if self._pages:
                took = self._clock.monotonic() - began_at
                pause = min(took * _IDLE_SHARE, _LONGEST_PAUSE_SECONDS)
                await first_of(stop, seconds=max(_POLL_SECONDS, pause))
            else:
                self._since, self._known = None, {}
                await first_of(stop, self._woken, seconds=_IDLE_SECONDS)
        for page in self._pages:
            page.close()

    async def look(self) -> None:
        """Look once. Pages learn of an outage; it isn't raised."""
        overview = None
        try:
            overview = await self.overview()
            if self._pages:
                await self._tell_changes(overview.now)
        except PipelineError as error:
            self._history.away(error, by=self)
            if self._last is not None:
                self._tell_overview(self._last.model_copy(update={"history": "away"}))
            return
        except Exception as error:  # a run that can't be read, say, must not end the board
            if repr(error) != self._failure:
                log.exception("a look at the history failed")
            self._failure = repr(error)
        else:
            self._failure = None
        if overview is not None:
            self._history.back(by=self)
            self._tell_overview(overview)

    async def overview(self) -> m.Overview:
        """Read the overview from the history."""
        self._figures.refresh()
        state = await self._reads.queue_state()
        self._clock.hear(state.now)
        return self._views.overview(
            state,
            kafka="ok" if self._kafka.problem is None else "away",
            lag=self._figures.lag,
            letters=self._figures.dead_letters,
        )

    def _tell_overview(self, overview: m.Overview) -> None:
        self._last = overview
        now = self._clock.monotonic()
        if self._told is not None:
            at, told = self._told
            if now - at < _OVERVIEW_SECONDS and _lasting(told) == _lasting(overview):
                return
        self._told = now, overview
        self._put("overview", "", sse("overview", overview))

    async def _tell_changes(self, now: datetime) -> None:
        since = self._since or now - _OVERLAP
        changes = await self._reads.changes(since=since, watched=list(self._held), limit=_MOST_RUNS)
        self._since = now - _OVERLAP
        self._held = {run.run_id: run for run in changes.runs if run.state in (RunState.RUNNING, RunState.PREPARED)}
        await self.learn_typical(list(self._held.values()))
        if not changes.complete:
            self._put("refetch", "", REFETCH)
        known: dict[str, tuple[Any, bytes]] = {}
        for run in changes.runs:
            mark = (run.state, run.attempt, run.lease_expires_at, run.not_before, run.finished_at)
            before = self._known.get(run.run_id)
            if before is not None and before[0] == mark:
                known[run.run_id] = before
                continue
            message = sse("run", self.view(run))
            known[run.run_id] = mark, message
            self._put("run", run.run_id, message)
        self._known = known

    async def learn_typical(self, runs: Sequence[Run]) -> None:
        """Read the medians of these runs' agencies, unless they are known."""
        now = self._clock.monotonic()
        held = {run.agency_id for run in runs if run.state in (RunState.RUNNING, RunState.PREPARED)}
        unknown = [each for each in held if each not in self._typical or self._typical[each][0] <= now]
        if unknown:
            found = await self._reads.typical(unknown)
            self._typical = {each: known for each, known in self._typical.items() if known[0] > now} | {
                each: (now + _TYPICAL_SECONDS, found.get(each)) for each in unknown
            }


def _lasting(overview: m.Overview) -> Any:
    """Return what changes only when something happens."""
    oldest = overview.oldest_waiting
    unsteady = {"now": None, "oldest_unsent_seconds": None, "oldest_waiting": oldest and oldest.run_id}
    return overview.model_dump() | unsteady
