"""Where past requests are found: in the requests topic, as far as retention goes, or in the run history."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from pipeline_processing.errors import PlaceUnknown, RequestError, RunUnknown
from pipeline_processing.messaging.port import Headers, Record, Topics
from pipeline_processing.messaging.topic_reading import Place, reading
from pipeline_processing.model import Run, RunState
from pipeline_processing.requests.job_messages import received, resent
from pipeline_processing.runs.store import RunHistory

PAGE = 500
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent just as it is."""

    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Candidate:
    """A past request."""

    run_id: str
    agency_id: int
    requested_at: datetime | None
    replay_of: str | None
    request: bytes | None = None
    """As JSON, for one from the topic; the history's own are looked up there."""
    message: Message | None = None
    """To be sent for the same run, if that was asked for."""
    waiting: bool = False
    """Whether it still stands in front of the consumer group, which is about to take it."""


class RequestSource(Protocol):
    """Some of the past requests. To be read once."""

    newest_first: bool
    unreadable: int
    """Messages so far that are no requests."""

    def pages(self, *, same_run: bool) -> AsyncGenerator[list[Candidate], None]:
        """Page by page; a run may come more than once. With what is to be sent for `same_run`, if that is wanted."""


class TopicRequests:
    """
    Requests as the topic has them, those among them that the history has lost: from a moment on, or from a place on in
    its partition, and before `until`.
    """

    newest_first = False

    def __init__(
        self,
        *,
        topics: Topics,
        topic: str,
        since: datetime | None = None,
        place: Place | None = None,
        until: datetime | None = None,
    ) -> None:
        assert (since is None) != (place is None)
        self._topics = topics
        self._topic = topic
        self._since = since
        self._place = place
        self._until = until
        self.unreadable = 0

    async def pages(self, *, same_run: bool) -> AsyncGenerator[list[Candidate], None]:
        """Raises PlaceUnknown if there is no such partition."""
        stop = await self._topics.ends(self._topic)
        committed = await self._topics.committed(self._topic)
        if self._since is not None:
            start = await self._topics.offsets_at(self._topic, self._since)
        elif self._place is not None:
            partition, offset = self._place
            if partition not in stop:
                raise PlaceUnknown(
                    f"{self._topic} has no partition {partition}. It has {', '.join(map(str, sorted(stop)))}."
                )
            start = {partition: min(offset, stop[partition])}
        page: list[Candidate] = []
        async with reading(self._topics, self._topic, start=start, stop=stop) as records:
            async for record in records:
                if not self._in_time(record):
                    continue
                try:
                    candidate = _candidate(record, topic=self._topic if same_run else None)
                except RequestError:
                    self.unreadable += 1
                    continue
                waiting = record.offset >= committed.get(record.partition, 0)
                page.append(replace(candidate, waiting=waiting))
                if len(page) == PAGE:
                    yield page
                    page = []
        yield page

    def _in_time(self, record: Record) -> bool:
        # Producers set the time, each by its own clock: records aren't in its order.
        return (self._since is None or record.timestamp_ms >= self._since.timestamp() * 1000) and (
            self._until is None or record.timestamp_ms < self._until.timestamp() * 1000
        )


class RecordedRequests:
    """Requests as the history has them: one run's, or those of an agency, or of failed runs, within a time."""

    newest_first = True
    unreadable = 0

    def __init__(
        self,
        *,
        runs: RunHistory,
        run_id: str | None = None,
        agency_id: int | None = None,
        failed: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self._runs = runs
        self._run_id = run_id
        self._agency_id = agency_id
        self._failed = failed
        self._since = since
        self._until = until

    async def pages(self, *, same_run: bool) -> AsyncGenerator[list[Candidate], None]:
        """Raises RunUnknown."""
        if self._run_id is not None:
            run = await self._runs.get(self._run_id)
            if run is None:
                raise RunUnknown(self._run_id)
            yield [_recorded(run)]
            return
        until, limit = self._until, PAGE
        seen: set[str] = set()
        while True:
            page = await self._runs.newest(
                agency_id=self._agency_id,
                state=RunState.FAILED if self._failed else None,
                since=self._since,
                until=until,
                limit=limit,
            )
            new = [run for run in page if run.run_id not in seen]
            yield [_recorded(run) for run in await self._without_replayed(new)]
            if len(page) < limit:
                return
            if not new:
                limit *= 2  # so many were accepted at the same moment
                continue
            # Those of the oldest moment may go on behind the page: read them once more, and know them.
            oldest = page[-1].queued_at
            until = oldest + _TICK
            seen = {run.run_id for run in page if run.queued_at == oldest}

    async def _without_replayed(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Of failed runs only those that nobody has replayed: so that it can be done again and again."""
        if not self._failed:
            return runs
        replays = await self._runs.replays([run.run_id for run in runs])
        return [run for run in runs if not replays.get(run.run_id)]


def _candidate(record: Record, *, topic: str | None) -> Candidate:
    """With a message to that topic, if there is one. Raises RequestError."""
    asked = received(record)
    again = None if topic is None else resent(record, topic=topic)
    return Candidate(
        run_id=asked.run_id,
        agency_id=asked.request.agency_id,
        requested_at=_moment(record.timestamp_ms),
        replay_of=asked.request.replay_of,
        request=asked.request.model_dump_json(exclude_defaults=True).encode(),
        message=None if again is None else Message(again.key, again.value, again.headers),
    )


def _recorded(run: Run) -> Candidate:
    return Candidate(run_id=run.run_id, agency_id=run.agency_id, requested_at=run.queued_at, replay_of=run.replay_of)


def _moment(timestamp_ms: int) -> datetime | None:
    """None for what a producer may have set that is no time."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms >= 0 else None
    except (OverflowError, OSError, ValueError):
        return None
