"""aiokafka's records, as the core knows them."""

from typing import Any

from pipeline_processing.messaging.port import Record


def record_of(message: Any) -> Record:
    """A ConsumerRecord as a Record."""
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=message.timestamp,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers),
    )
