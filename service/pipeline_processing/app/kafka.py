"""Open clients of Kafka. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from pipeline_processing.messaging.kafka.creation import TopicAdmin
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Topics
from pipeline_processing.messaging.service_topics import ServiceTopic, TopicResult, judged, service_topics
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


def topic_admin(settings: Settings) -> AbstractAsyncContextManager[TopicAdmin]:
    """Open a client that creates and describes topics. Raises KafkaUnavailable, AccessDenied or SettingsError."""
    return TopicAdmin.open(settings.kafka)


def needed_topics(settings: Settings) -> list[ServiceTopic]:
    """Return this service's topics; those of `triggers` count if a triggers file is set."""
    topics = service_topics(settings.kafka)
    return topics if settings.triggers_file is None else topics + triggers_topics(settings.kafka)


async def check_topics(settings: Settings, *, create: bool = False) -> list[TopicResult]:
    """
    Compare this service's topics with those that the brokers have. With `create`, create the missing ones first.

    Raises KafkaUnavailable, AccessDenied, or SettingsError if the brokers refuse the number of partitions or replicas.
    """
    topics = needed_topics(settings)
    names = [topic.name for topic in topics]
    async with topic_admin(settings) as admin:
        missing = await admin.missing(names) if create else []
        if missing:
            await admin.create([topic for topic in topics if topic.name in missing])
        return judged(topics, await admin.found(names), settings.kafka, created=missing)
