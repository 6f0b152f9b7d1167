"""The JSON API: a method per endpoint, and the list of all of them, from which the OpenAPI document is made."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.clock import Clock, HistoryClock
from pipeline_processing.aio.tasks import in_time
from pipeline_processing.board import models as m
from pipeline_processing.board.live import Live
from pipeline_processing.board.parameters import (
    WIDTHS,
    WINDOWS,
    AgencyPath,
    DeadLettersQuery,
    DurationsQuery,
    FailuresQuery,
    NoParameters,
    Parameters,
    RunsQuery,
    ThroughputQuery,
    cursor_of,
)
from pipeline_processing.board.triggers import TriggerList
from pipeline_processing.board.views import Views
from pipeline_processing.errors import KafkaUnavailable, RunUnknown, TopicMissing
from pipeline_processing.model import Run
from pipeline_processing.requests.redrive import DeadLetters, Filter
from pipeline_processing.runs.board_reads import BoardReads
from pipeline_processing.runs.run_filter import RunPlace
from pipeline_processing.runs.store import RunHistory

_DURATIONS = 30
"""Finished runs of an agency's spark line."""
_LETTERS_SECONDS = 8.0
_MOST_READS = 2
"""Requests that read the history at once. One connection stays free for what pages see live."""

_MOST_SHARED = 64
"""Answers held at once."""


class Shared:
    """
    Answers that all pages share for a moment.

    Calls a function at most once per key and time to live, however many pages ask.

    Callers that come while an answer is under way wait for it. Errors aren't kept.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[Hashable, tuple[float, asyncio.Future[bytes]]] = {}

    async def get(self, key: Hashable, seconds: float, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer for `key`, made by `make` unless there is one that is younger than `seconds`."""
        now = self._clock.monotonic()
        until, answer = self._answers.get(key, (0.0, None))
        if answer is None or (answer.done() and (until <= now or _failed(answer))):
            answer = asyncio.ensure_future(make())
            answer.add_done_callback(_failed)  # retrieves an error that nobody waits for any more
            if len(self._answers) >= _MOST_SHARED:
                self._answers = {each: held for each, held in self._answers.items() if held[0] > now}
            if len(self._answers) < _MOST_SHARED:
                self._answers[key] = now + seconds, answer
        return await asyncio.shield(answer)


def _failed(answer: "asyncio.Future[bytes]") -> bool:
    return answer.cancelled() or answer.exception() is not None


class Api:
    """Answers the endpoints. Every page shares the answers of the last second or so."""

    def __init__(
        self,
        *,
        reads: BoardReads,
        agency_key: AgencyKey = AgencyKey.INTEGER,
        history: RunHistory,
        live: Live,
        letters: DeadLetters,
        triggers: TriggerList,
        views: Views,
        clock: HistoryClock,
    ) -> None:
        self._reads = reads
        self._agency_key = agency_key
        self._history = history
        self._live = live
        self._letters = letters
        self._triggers = triggers
        self._views = views
        self._clock = clock
        self._shared = Shared(clock=clock)
        self._reading = asyncio.Semaphore(_MOST_READS)

    async def body(self, endpoint: "Endpoint", request: Request) -> bytes:
        """
        Return an endpoint's answer as JSON.

        Raises InvalidParameters, RunUnknown, or the errors of the servers.
        """
        # Faults first: they aren't worth sharing.
        parsed = endpoint.parameters.of(request.query_params, self._agency_key)

        async def make() -> bytes:
            async with self._reading if endpoint.reads_history else nullcontext():
                return (await endpoint.respond(self, request)).model_dump_json().encode()

        key = (endpoint.path, tuple(request.path_params.items()), parsed.model_dump_json())
        return await self._shared.get(key, endpoint.shared_seconds, make)

    # -- the endpoints ---------------------------------------------------------------------------

    async def overview(self, _: Request) -> m.Overview:
        return await self._live.overview()

    async def runs(self, request: Request) -> m.RunPage:
        query = RunsQuery.of(request.query_params, self._agency_key)
        found = [
            run
            for wanted in query.filters(self._agency_key)
            for run in await self._history.newest(wanted, limit=query.limit + 1)
        ]
        runs = sorted({run.run_id: run for run in found}.values(), key=_age, reverse=True)
        page = runs[: query.limit]
        await self._live.learn_typical(page)
        more = len(runs) > query.limit
        return m.RunPage(
            runs=[self._live.view(run) for run in page],
            next_cursor=cursor_of(RunPlace.of(page[-1])) if more else None,
        )

    async def run(self, request: Request) -> m.RunDetails:
        run_id = request.path_params["run_id"]
        story = await self._reads.story(run_id) if "\0" not in run_id else None
        if story is None:
            raise RunUnknown(run_id)
        await self._live.learn_typical([story.run])
        progress = self._live.progress_of(story.run)
        expected = self._live.estimate(story.run, progress)
        return self._views.details(story, now=self._clock.now(), progress=progress, estimate=expected)

    async def agency_durations(self, request: Request) -> m.AgencyDurations:
        agency_id = AgencyPath.of(QueryParams(request.path_params), self._agency_key).agency_id
        found = await self._reads.durations([agency_id], limit=_DURATIONS)
        return self._views.durations(agency_id, found.get(agency_id, []))

    async def durations(self, request: Request) -> m.DurationsList:
        agency_ids = DurationsQuery.of(request.query_params, self._agency_key).agency_id
        found = await self._reads.durations(agency_ids, limit=_DURATIONS)
        return m.DurationsList(agencies=[self._views.durations(each, found.get(each, [])) for each in agency_ids])

    async def failures(self, request: Request) -> m.Failures:
        window = FailuresQuery.of(request.query_params).window
        groups = await self._reads.failures(window=WINDOWS[window])
        return self._views.failures(groups, window=window, since=self._clock.now() - WINDOWS[window])

    async def throughput(self, request: Request) -> m.ThroughputView:
        window = ThroughputQuery.of(request.query_params).window
        found = await self._reads.throughput(window=WINDOWS[window], width=WIDTHS[window])
        return self._views.throughput(found, window=window)

    async def dead_letters(self, request: Request) -> m.DeadLetterList:
        limit = DeadLettersQuery.of(request.query_params).limit
        try:
            letters = await in_time(self._letters.newest(Filter(), limit=limit), seconds=_LETTERS_SECONDS)
        except TopicMissing:  # before the first letter
            letters = []
        except TimeoutError:
            raise KafkaUnavailable(f"Kafka hasn't returned the dead letters within {_LETTERS_SECONDS:.0f} s.") from None
        return m.DeadLetterList(dead_letters=[self._views.dead_letter(letter) for letter in letters])

    async def triggers(self, _: Request) -> m.TriggerList:
        return await self._triggers.view(now=self._clock.now())


def _age(run: Run) -> tuple[datetime, str]:
    return run.queued_at, run.run_id


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: how it is described, and how it is answered."""

    path: str
    summary: str
    parameters: type[Parameters]
    answer: type[BaseModel]
    respond: Callable[[Api, Request], Awaitable[BaseModel]]
    shared_seconds: float = 1.0
    """How long pages share an answer."""
    reads_history: bool = True


ENDPOINTS = (
    Endpoint("/overview", "The state of the whole service", NoParameters, m.Overview, Api.overview),
    Endpoint("/runs", "Runs, newest first", RunsQuery, m.RunPage, Api.runs),
    # Pages ask for it because the run has just changed.
    Endpoint("/runs/{run_id}", "One run in full", NoParameters, m.RunDetails, Api.run, shared_seconds=0),
    Endpoint(
        "/agencies/{agency_id}/runs/durations",
        "The last 30 finished runs of an agency",
        NoParameters,
        m.AgencyDurations,
        Api.agency_durations,
        shared_seconds=5,
    ),
    Endpoint(
        "/durations",
        "The last 30 finished runs of several agencies",
        DurationsQuery,
        m.DurationsList,
        Api.durations,
        shared_seconds=5,
    ),
    Endpoint("/failures", "Failed runs by kind of error", FailuresQuery, m.Failures, Api.failures, shared_seconds=3),
    Endpoint(
        "/throughput", "Finished runs over time", ThroughputQuery, m.ThroughputView, Api.throughput, shared_seconds=5
    ),
    Endpoint(
        "/dead-letters",
        "The newest dead letters",
        DeadLettersQuery,
        m.DeadLetterList,
        Api.dead_letters,
        shared_seconds=5,
        reads_history=False,  # mostly Kafka, which may take seconds
    ),
    Endpoint(
        "/triggers",
        "Triggers and their open windows",
        NoParameters,
        m.TriggerList,
        Api.triggers,
        reads_history=False,
    ),
)
