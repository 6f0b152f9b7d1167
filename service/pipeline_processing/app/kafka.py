"""Open clients of Kafka. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Topics
from pipeline_processing.settings.settings import Settings


@asynccontextmanager
async def events(settings: Settings) -> AsyncIterator[Events]:
    """Open a sender of messages. It connects with the first message."""
    async with KafkaEvents(settings=settings.kafka) as opened:
        yield opened


@asynccontextmanager
async def topics(settings: Settings) -> AsyncIterator[Topics]:
    """Open a client that reads and creates topics. It connects for each call."""
    yield KafkaTopics(settings=settings.kafka)
