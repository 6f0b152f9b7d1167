"""One partition of a topic in memory."""

from pipeline_processing.messaging.port import Outgoing, Record


class MemoryPartition:
    """Records with rising offsets, of which some may be missing."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.records: list[Record] = []
        self.start = 0
        self.end = 0

    def append(self, message: Outgoing, *, timestamp_ms: int) -> Record:
        record = Record(
            topic=self.topic,
            partition=self.number,
            offset=self.end,
            timestamp_ms=timestamp_ms,
            key=message.key,
            value=message.value,
            headers=message.headers,
        )
        self.records.append(record)
        self.end += 1
        return record

    def skip(self) -> None:
        """Use up an offset for no record, as the mark of a transaction does."""
        self.end += 1

    def expire(self, start: int) -> None:
        """Remove what is older than this offset, as retention does."""
        self.start = start
        self.records = [record for record in self.records if record.offset >= start]

    def between(self, first: int, after: int) -> list[Record]:
        """Records from the one offset up to, but not including, the other."""
        return [record for record in self.records if first <= record.offset < after]
