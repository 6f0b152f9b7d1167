"""Past requests: in the requests topic, as far as its retention goes, or in the run history."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline_processing.errors import PlaceUnknown, RequestError, RunUnknown
from pipeline_processing.messaging.port import Offsets, Outgoing, Record, Topics
from pipeline_processing.messaging.topic_reading import Place, reading
from pipeline_processing.model import Run, RunState
from pipeline_processing.requests.job_messages import received, resent
from pipeline_processing.runs.store import RunHistory

PAGE = 500
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Some of the past requests. Those of one run, of an agency's runs, or of failed runs come from the history; without
    any of these, those from a place or a time on come from the topic. All within `since` and `until`.
    """

    since: datetime | None = None
    until: datetime | None = None
    place: Place | None = None
    run_id: str | None = None
    agency_id: int | None = None
    failed: bool = False
    """Only failed runs that nobody has replayed, so that a replay of them can be repeated."""

    @property
    def reads_topic(self) -> bool:
        """Whether the requests come from the topic, oldest first, rather than from the history, newest first."""
        return self.run_id is None and self.agency_id is None and not self.failed


@dataclass(frozen=True, slots=True)
class Candidate:
    """A past request."""

    run_id: str
    agency_id: int
    requested_at: datetime | None
    replay_of: str | None
    request: bytes | None = None
    """As JSON, if it was read from the topic. The history has its own."""
    message: Outgoing | None = None
    """The same message once more, if it was read from the topic."""
    waiting: bool = False
    """Whether the consumer group has yet to take it."""


async def requests_in_topic(
    selection: Selection, *, topics: Topics, topic: str, same_run: bool
) -> AsyncGenerator[list[Candidate | None], None]:
    """
    Page by page; None stands for a message that is no request. A run may come more than once. Only for `same_run` do
    candidates hold their messages.

    Raises PlaceUnknown if there is no such partition.
    """
    stop = await topics.ends(topic)
    committed = await topics.committed(topic)
    if selection.place is not None:
        partition, offset = selection.place
        if partition not in stop:
            raise PlaceUnknown(f"{topic} has no partition {partition}. It has {', '.join(map(str, sorted(stop)))}.")
        start: Offsets = {partition: min(offset, stop[partition])}
    else:
        assert selection.since is not None
        start = await topics.offsets_at(topic, selection.since)
    page: list[Candidate | None] = []
    async with reading(topics, topic, start=start, stop=stop) as records:
        async for record in records:
            if _in_time(record, selection):
                waiting = record.offset >= committed.get(record.partition, 0)
                page.append(_candidate(record, resent_to=topic if same_run else None, waiting=waiting))
            if len(page) == PAGE:
                yield page
                page = []
    yield page


def _in_time(record: Record, selection: Selection) -> bool:
    # Producers set the time, each by its own clock: records aren't in its order.
    since, until = selection.since, selection.until
    return (since is None or record.timestamp_ms >= since.timestamp() * 1000) and (
        until is None or record.timestamp_ms < until.timestamp() * 1000
    )


def _candidate(record: Record, *, resent_to: str | None, waiting: bool) -> Candidate | None:
    try:
        asked = received(record)
    except RequestError:
        return None
    return Candidate(
        run_id=asked.run_id,
        agency_id=asked.request.agency_id,
        requested_at=_moment(record.timestamp_ms),
        replay_of=asked.request.replay_of,
        request=asked.request.model_dump_json(exclude_defaults=True).encode(),
        message=None if resent_to is None else resent(record, topic=resent_to),
        waiting=waiting,
    )


def _moment(timestamp_ms: int) -> datetime | None:
    """None for what a producer may have set that is no time."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms >= 0 else None
    except (OverflowError, OSError, ValueError):
        return None


async def requests_in_history(
    selection: Selection, *, runs: RunHistory
) -> AsyncGenerator[list[Candidate | None], None]:
    """Page by page. Raises RunUnknown."""
    if selection.run_id is not None:
        run = await runs.get(selection.run_id)
        if run is None:
            raise RunUnknown(selection.run_id)
        yield [_recorded(run)]
        return
    until, limit = selection.until, PAGE
    seen: set[str] = set()
    while True:
        page = await runs.newest(
            agency_id=selection.agency_id,
            state=RunState.FAILED if selection.failed else None,
            since=selection.since,
            until=until,
            limit=limit,
        )
        new = [run for run in page if run.run_id not in seen]
        yield [_recorded(run) for run in (await _unreplayed(new, runs) if selection.failed else new)]
        if len(page) < limit:
            return
        if not new:
            limit *= 2  # so many were accepted at the same moment
            continue
        # More runs of the oldest moment may follow this page: read those once more, and skip the known ones.
        oldest = page[-1].queued_at
        until = oldest + _TICK
        seen = {run.run_id for run in page if run.queued_at == oldest}


async def _unreplayed(failed: Sequence[Run], runs: RunHistory) -> list[Run]:
    replays = await runs.replays([run.run_id for run in failed])
    return [run for run in failed if not replays.get(run.run_id)]


def _recorded(run: Run) -> Candidate:
    return Candidate(run_id=run.run_id, agency_id=run.agency_id, requested_at=run.queued_at, replay_of=run.replay_of)
