"""Read past requests from the requests topic, within its retention, or from the run history."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.errors import PlaceUnknown, RequestError, RunUnknown
from pipeline_processing.messaging.port import Offsets, Outgoing, Record, Topics
from pipeline_processing.messaging.topic_reading import Place, reading
from pipeline_processing.model import Run, RunState
from pipeline_processing.requests.job_messages import received, resent
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter, RunPlace
from pipeline_processing.runs.store import RunHistory

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Selects past requests, all within `since` and `until`.

    Requests of one run, of failed runs, and of runs with something in common, such as the agency, come from the
    history. Otherwise they come from the topic, starting at a place or a time.
    """

    since: datetime | None = None
    until: datetime | None = None
    place: Place | None = None
    run_id: str | None = None
    agency_id: AgencyId | None = None
    failed: bool = False
    """Only failed runs without a replay, so that the command can be repeated."""
    wanted: RunFilter = EVERY_RUN
    """What else the runs have in common."""

    @property
    def reads_topic(self) -> bool:
        """Whether requests come from the topic (oldest first) or from the history (newest first)."""
        return self.run_id is None and self.agency_id is None and not self.failed and self.wanted == EVERY_RUN


@dataclass(frozen=True, slots=True)
class Candidate:
    """A past request."""

    run_id: str
    agency_id: AgencyId
    requested_at: datetime | None
    replay_of: str | None
    request: bytes | None = None
    """JSON, if it was read from the topic; None if it is in the history."""
    message: Outgoing | None = None
    """The message for sending again, if it was read from the topic."""
    waiting: bool = False
    """Whether the consumer group hasn't taken it yet."""


async def requests_in_topic(
    selection: Selection, *, topics: Topics, topic: str, same_run: bool
) -> AsyncGenerator[list[Candidate | None], None]:
    """
    Yield pages of requests from the topic, with None for each invalid message. Runs may occur more than once.

    Candidates have their messages only if `same_run`. Raises PlaceUnknown if there is no such partition.
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
    # Producers set the time by their own clocks, so records aren't sorted by it.
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
    """Convert a record's time, or return None if the producer set an invalid one."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms >= 0 else None
    except (OverflowError, OSError, ValueError):
        return None


async def requests_in_history(
    selection: Selection, *, runs: RunHistory
) -> AsyncGenerator[list[Candidate | None], None]:
    """Yield pages of requests from the history. Raises RunUnknown if there is no such run."""
    if selection.run_id is not None:
        run = await runs.get(selection.run_id)
        if run is None:
            raise RunUnknown(selection.run_id)
        yield [_recorded(run)]
        return
    wanted = replace(
        selection.wanted,
        agency_id=selection.agency_id,
        states=(RunState.FAILED,) if selection.failed else selection.wanted.states,
        since=selection.since,
        until=selection.until,
    )
    while True:
        page = await runs.newest(wanted, limit=PAGE)
        yield [_recorded(run) for run in (await _unreplayed(page, runs) if selection.failed else page)]
        if len(page) < PAGE:
            return
        wanted = replace(wanted, after=RunPlace.of(page[-1]))


async def _unreplayed(failed: Sequence[Run], runs: RunHistory) -> list[Run]:
    replays = await runs.replays([run.run_id for run in failed])
    return [run for run in failed if not replays.get(run.run_id)]


def _recorded(run: Run) -> Candidate:
    return Candidate(run_id=run.run_id, agency_id=run.agency_id, requested_at=run.queued_at, replay_of=run.replay_of)
