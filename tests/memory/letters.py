"""An in-memory store of the dead letters that Kafka refuses for good."""

from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import datetime

from pipeline_processing.aio.clock import Clock
from pipeline_processing.messaging.dead_letters import STORED, DeadLetter
from pipeline_processing.messaging.port import Outgoing, Record


class MemoryLetters:
    """An in-memory `LetterStore`."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._letters: dict[tuple[str, int, int, int | None], Record] = {}
        """Letters by place and time of the request."""

    async def keep(self, letters: Sequence[Outgoing]) -> None:
        for letter in letters:
            record = Record(
                topic=letter.topic,
                partition=STORED,
                offset=len(self._letters) + 1,
                timestamp_ms=round(self._clock.now().timestamp() * 1000),
                key=letter.key,
                value=letter.value,
                headers=letter.headers,
            )
            read = DeadLetter.of(record)
            assert read is not None, letter
            self._letters.setdefault((read.topic, read.partition, read.offset, read.timestamp_ms), record)

    async def kept(self, *, since: datetime | None = None) -> AsyncGenerator[Record, None]:
        for record in reversed(list(self._letters.values())):
            if since is None or record.timestamp_ms >= since.timestamp() * 1000:
                yield record

    async def numbered(self, numbers: Collection[int]) -> dict[int, Record]:
        return {record.offset: record for record in self._letters.values() if record.offset in numbers}
