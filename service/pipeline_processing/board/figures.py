"""Figures of topics: the lag of the consumer group, and recent dead letters."""

import asyncio
from datetime import timedelta

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import give_up
from pipeline_processing.board import models as m
from pipeline_processing.errors import PipelineError, TopicMissing
from pipeline_processing.messaging.port import Topics
from pipeline_processing.requests.workers import lag_of
from pipeline_processing.settings.settings import KafkaSettings

_REFRESH_SECONDS = 5.0
_RECENT = timedelta(days=1)


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
            lag = await lag_of(self._topics, self._requests)
        except TopicMissing:  # before the first request
            return m.Lag(messages=0, partitions=0)
        return m.Lag(messages=sum(lag.values()), partitions=len(lag))

    async def _recent(self) -> int:
        try:
            first = await self._topics.offsets_at(self._dead_letters, self._clock.now() - _RECENT)
            ends = await self._topics.ends(self._dead_letters)
        except TopicMissing:
            return 0
        return sum(max(0, end - first.get(partition, end)) for partition, end in ends.items())
