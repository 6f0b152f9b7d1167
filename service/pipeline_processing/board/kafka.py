"""What the board reads from Kafka: progress events, the lag of the consumer group, and recent dead letters."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from pydantic import ValidationError

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import give_up
from pipeline_processing.board import models as m
from pipeline_processing.errors import PipelineError, TopicMissing
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.model import Run, RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.settings.settings import KafkaSettings

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 2.0
_REFRESH_SECONDS = 5.0
_RECENT = timedelta(days=1)
_MOST_RUNS = 10_000
_OLD = timedelta(hours=1)
_SMOOTHING = 0.3
"""Weight of the newest interval in the rate of rows."""


@dataclass(slots=True)
class _Latest:
    event: RunProgress
    rate: float | None = None


class ProgressReader:
    """Keeps the latest progress of every running attempt, from all partitions of the progress topic."""

    def __init__(self, *, topics: Topics, topic: str, server: Server, on_progress: Callable[[str], None]) -> None:
        """`on_progress` gets the run id of each newer event."""
        self._topics = topics
        self._topic = topic
        self._server = server
        self._on_progress = on_progress
        self._latest: dict[str, _Latest] = {}

    def of(self, run: Run) -> m.Progress | None:
        """Return the progress of the run's current attempt; None if it isn't running or hasn't sent any."""
        latest = self._latest.get(run.run_id)
        if latest is None or run.state is not RunState.RUNNING or latest.event.attempt != run.attempt:
            return None
        event = latest.event
        return m.Progress(
            rows_read=event.rows_read,
            rows_written=event.rows_written,
            bytes_written=event.bytes_written,
            dataset=event.dataset,
            stage=event.stage,
            rows_per_second=None if latest.rate is None else round(latest.rate, 1),
            at=event.at,
        )

    def forget(self, run_id: str) -> None:
        """Drop the progress of a finished run."""
        self._latest.pop(run_id, None)

    async def run(self) -> None:
        """Read until cancelled. While Kafka is away, try again and again."""
        while True:
            try:
                async with self._topics.following([self._topic]) as records:
                    self._server.back(by=self)
                    async for record in records:
                        self._take(record)
            except TopicMissing:  # before the first `serve`
                self._server.back(by=self)
            except PipelineError as error:
                self._server.away(error, by=self)
            await self._server.clock.sleep(_PAUSE_SECONDS)

    def _take(self, record: Record) -> None:
        try:
            event = RunProgress.model_validate_json(record.value or b"", extra="ignore")
        except ValidationError:
            log.debug("skipping an invalid record", partition=record.partition, offset=record.offset)
            return
        known = self._latest.get(event.run_id)
        if known is None or known.event.attempt < event.attempt:
            self._make_room(event)
            self._latest[event.run_id] = _Latest(event)
        elif known.event.attempt == event.attempt and known.event.at < event.at:
            seconds = (event.at - known.event.at).total_seconds()
            rate = max(0, event.rows_read - known.event.rows_read) / seconds
            known.rate = rate if known.rate is None else known.rate + _SMOOTHING * (rate - known.rate)
            known.event = event
        else:
            return
        self._on_progress(event.run_id)

    def _make_room(self, event: RunProgress) -> None:
        if len(self._latest) >= _MOST_RUNS:
            self._latest = {
                run_id: latest for run_id, latest in self._latest.items() if event.at - latest.event.at < _OLD
            }
        if len(self._latest) >= _MOST_RUNS:
            self._latest.clear()


class TopicFigures:
    """
    The consumer group's lag, and the number of recent dead letters. All pages share one look every few seconds.

    `refresh` starts a look if the last one is too old, and never waits.
    """

    def __init__(self, *, topics: Topics, names: KafkaSettings, server: Server, clock: Clock) -> None:
        """`names` provides the topics' names."""
        self._topics = topics
        self._requests = names.requests_topic
        self._dead_letters = names.dead_letters_topic
        self._server = server
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._looked_at: float | None = None
        self.lag: m.Lag | None = None
        self.dead_letters: int | None = None

    def refresh(self) -> None:
        """Start a look unless one is under way, or the last one has just ended."""
        if self._looking is not None and not self._looking.done():
            return
        if self._looked_at is None or self._clock.monotonic() - self._looked_at >= _REFRESH_SECONDS:
            self._looking = asyncio.create_task(self._look())

    def close(self) -> None:
        """Give up a look that is under way."""
        if self._looking is not None:
            give_up(self._looking)

    async def _look(self) -> None:
        try:
            self.lag = await self._lag()
            self.dead_letters = await self._recent()
            self._server.back(by=self)
        except PipelineError as error:
            self.lag = self.dead_letters = None
            self._server.away(error, by=self)
        finally:
            self._looked_at = self._clock.monotonic()

    async def _lag(self) -> m.Lag:
        try:
            # In this order, so that a request accepted between the two calls isn't counted as lag.
            ends = await self._topics.ends(self._requests)
            committed = await self._topics.committed(self._requests)
        except TopicMissing:  # before the first request
            return m.Lag(messages=0, partitions=0)
        behind = [max(0, end - committed.get(partition, 0)) for partition, end in ends.items()]
        return m.Lag(messages=sum(behind), partitions=len(behind))

    async def _recent(self) -> int:
        try:
            first = await self._topics.offsets_at(self._dead_letters, self._clock.now() - _RECENT)
            ends = await self._topics.ends(self._dead_letters)
        except TopicMissing:
            return 0
        return sum(max(0, end - first.get(partition, end)) for partition, end in ends.items())
