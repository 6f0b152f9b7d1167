"""
Up to which moment the events of each upstream topic have entries in the windows' log.

A window is quiet only if its topic has been read: without this, a pause of the readers, such as after a crash, would
look like a pause of the events, and would split a window in two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import TopicMissing
from pipeline_processing.messaging.port import Offsets, Topics

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Mark:
    at: datetime = _NEVER
    waiting: tuple[datetime, Offsets] | None = None
    """A moment, and the ends of the topic's partitions at that moment."""
    topics: Topics | None = None


class Watermarks:
    """One watermark per topic. `reader_of` returns a client with the consumer group of a topic's readers."""

    def __init__(self, reader_of: Callable[[str], Topics], *, clock: Clock) -> None:
        self._reader_of = reader_of
        self._clock = clock
        self._marks: dict[str, _Mark] = {}

    def of(self, topic: str) -> datetime:
        """Return the moment up to which all events of the topic have entries, as far as `advance` has found out."""
        return self._marks[topic].at if topic in self._marks else _NEVER

    async def advance(self, topic: str) -> None:
        """
        Look how far the topic has been read. Raises KafkaUnavailable or AccessDenied.

        While events keep coming, the readers never reach the topic's end, so the end of one moment is kept until they
        have passed it.
        """
        mark = self._marks.setdefault(topic, _Mark())
        mark.topics = mark.topics or self._reader_of(topic)
        now = self._clock.now()
        try:
            if mark.waiting is None:
                mark.waiting = now, await mark.topics.ends(topic)
            moment, ends = mark.waiting
            committed = await mark.topics.committed(topic)
        except TopicMissing:
            mark.at, mark.waiting = now, None  # there is nothing to read
            return
        if all(committed.get(partition, 0) >= end for partition, end in ends.items()):
            mark.at, mark.waiting = moment, None
