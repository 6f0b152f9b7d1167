"""Open clients of Kafka. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline_processing.messaging.kafka.creation import TopicAdmin
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Topics
from pipeline_processing.messaging.service_topics import TopicResult, judged, service_topics
from pipeline_processing.settings.settings import Settings
from pipeline_processing.triggers.topics import triggers_topics


@asynccontextmanager
async def events(settings: Settings) -> AsyncIterator[Events]:
    """Open a sender of messages. It connects with the first message."""
    async with KafkaEvents(settings=settings.kafka) as opened:
        yield opened


@asynccontextmanager
async def topics(settings: Settings) -> AsyncIterator[Topics]:
    """Open a client that reads and creates topics. It connects for each call."""
    yield KafkaTopics(settings=settings.kafka)


async def check_topics(settings: Settings, *, create: bool = False) -> list[TopicResult]:
    """
    Compare this service's topics with those that the brokers have. With `create`, create the missing ones first.

    The topics of `triggers` count if a triggers file is set. Raises KafkaUnavailable, AccessDenied, or SettingsError if
    the brokers refuse the number of partitions or replicas.
    """
    topics = service_topics(settings.kafka)
    if settings.triggers_file is not None:
        topics += triggers_topics(settings.kafka)
    names = [topic.name for topic in topics]
    async with TopicAdmin.open(settings.kafka) as admin:
        missing = await admin.missing(names) if create else []
        if missing:
            await admin.create([topic for topic in topics if topic.name in missing])
        return judged(topics, await admin.found(names), settings.kafka, created=missing)
