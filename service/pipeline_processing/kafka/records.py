"""aiokafka's records, as the core knows them."""

from typing import Any

from pipeline_processing.messaging import Record


def record_of(message: Any) -> Record:
    """
    A ConsumerRecord as a Record.

    A header may have no value at all in Kafka; the few that have none are given an empty one.
    """
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=message.timestamp,
        key=message.key,
        value=message.value,
        headers=tuple((name, value if value is not None else b"") for name, value in message.headers),
    )
