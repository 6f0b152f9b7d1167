"""
Up to which moment the events of each upstream topic are in the windows.

A window is quiet only up to that moment. Otherwise a pause of this service, such as after a crash, would look like a
pause of the events, and would split a window in two.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import TopicMissing
from pipeline_processing.messaging.port import Offsets, Topics

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_Ends = tuple[datetime, Offsets]
"""A moment, and the ends of a topic's partitions."""


@dataclass(slots=True)
class _Mark:
    topics: Topics
    at: dict[int, datetime] = field(default_factory=dict)
    """By partition of the log."""
    of_events: _Ends | None = None
    """The topic's ends at a moment, until its readers have passed them."""
    of_entries: _Ends | None = None
    """The log's ends once they have, until the log's entries are applied."""


class Watermarks:
    """
    One watermark per topic and partition of the log.

    Events keep coming, so nobody ever stands at a topic's end. The ends of one moment are kept until they are passed.
    """

    def __init__(
        self, reader_of: Callable[[str], Topics], *, entries: Callable[[], Awaitable[Offsets]], clock: Clock
    ) -> None:
        """
        `reader_of` returns a client with the consumer group of a topic's readers, and `entries` the ends of the log.
        """
        self._reader_of = reader_of
        self._entries = entries
        self._clock = clock
        self._marks: dict[str, _Mark] = {}

    def of(self, topic: str, partition: int) -> datetime:
        """Return the watermark, as far as `advance` has found out."""
        return _NEVER if topic not in self._marks else self._marks[topic].at.get(partition, _NEVER)

    async def advance(self, topic: str, applied: Mapping[int, int]) -> None:
        """
        Look how far the topic has been read. `applied`: the offset after the last applied entry, by partition.

        Raises KafkaUnavailable or AccessDenied.
        """
        if topic not in self._marks:
            self._marks[topic] = _Mark(self._reader_of(topic))
        mark = self._marks[topic]
        if mark.of_entries is None:
            await self._advance_events(topic, mark)
        if mark.of_entries is not None:
            moment, ends = mark.of_entries
            reached = [partition for partition, offset in applied.items() if offset >= ends.get(partition, 0)]
            mark.at.update(dict.fromkeys(reached, moment))
            if len(reached) == len(applied):
                mark.of_entries = None

    def forget(self) -> None:
        """Begin anew, for other partitions of the log."""
        self._marks.clear()

    async def _advance_events(self, topic: str, mark: _Mark) -> None:
        now = self._clock.now()
        try:
            current = await mark.topics.ends(topic)
            if mark.of_events is None:
                mark.of_events = now, current
            moment, kept = mark.of_events
            # A topic that was recreated since ends earlier.
            ends = {partition: min(end, current.get(partition, 0)) for partition, end in kept.items()}
            committed = await mark.topics.committed(topic)
        except TopicMissing:
            moment, ends, committed = now, {}, {}  # there is nothing to read
        if all(committed.get(partition, 0) >= end for partition, end in ends.items()):
            mark.of_events, mark.of_entries = None, (moment, await self._entries())
