"""Create the service's topics, or report which are missing."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline_processing.errors import TopicMissing
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, translate, translated
from pipeline_processing.messaging.kafka.lifecycle import started, stopped
from pipeline_processing.messaging.kafka.metadata import look_up
from pipeline_processing.settings.settings import KafkaSettings

log = get_logger(__name__)

_OPEN_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_CLOSE_SECONDS = 2.0
_PAUSE_SECONDS = 0.2
_BROKERS_DEFAULT = -1
_KAFKAS_DEFAULT_SIZE = 1_048_588
_HEADERS_SIZE = 2 * 1024 * 1024
"""Bytes by which a dead letter can be larger than its request."""


async def ensure_topics(settings: KafkaSettings, *, others: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """
    Create those of the four topics that are missing, or, without `create_topics`, raise TopicMissing listing them.

    `others` are created as well: name → configuration. Safe to run in several processes at once. Raises
    KafkaUnavailable, AccessDenied, or SettingsError if the brokers refuse the number of partitions or replicas.
    """
    connection = Connection.of(settings)
    admin = AIOKafkaAdminClient(**connection.options(), request_timeout_ms=round(_ANSWER_SECONDS * 1000))
    await started(admin, connection=connection, seconds=_OPEN_SECONDS)
    try:
        await _ensure(admin, settings, others or {}, where=connection.where)
    finally:
        await stopped(admin, seconds=_CLOSE_SECONDS)


async def _ensure(
    admin: Any, settings: KafkaSettings, others: Mapping[str, Mapping[str, str]], *, where: Where
) -> None:
    dead_letters = settings.dead_letters_topic
    first = [settings.requests_topic, settings.completions_topic, settings.progress_topic, *others]
    names = [*first, dead_letters]
    missing = (await look_up(admin._client, names, where=where, seconds=_ANSWER_SECONDS)).missing
    if not missing:
        return
    if not settings.create_topics:
        raise TopicMissing(missing)
    created = [_topic(settings, name, others.get(name)) for name in first if name in missing]
    await _create(admin, created, where=where)
    if dead_letters in missing:
        # Created after the requests topic, as its message limit must be larger.
        size = await _message_size(admin, settings.requests_topic) + _HEADERS_SIZE
        topic = _topic(settings, dead_letters, {"max.message.bytes": str(size)})
        await _create(admin, [topic], where=where)
    # Wait until the topics are known to all brokers, and their partitions have leaders.
    with translated(where):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while True:
                if not (await look_up(admin._client, names, where=where, seconds=_ANSWER_SECONDS)).missing:
                    return
                await asyncio.sleep(_PAUSE_SECONDS)


def _topic(settings: KafkaSettings, name: str, config: Mapping[str, str] | None = None) -> Any:
    replicas = settings.replication_factor
    return NewTopic(
        name,
        settings.partitions,
        _BROKERS_DEFAULT if replicas is None else replicas,
        # aiokafka accepts the brokers' default replication only together with an (empty) replica assignment.
        {} if replicas is None else None,
        dict(config or {}),
    )


async def _create(admin: Any, topics: Sequence[Any], *, where: Where) -> None:
    waiting = list(topics)
    with translated(where):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while waiting:
                answer = await admin.create_topics(waiting)
                again = []
                for name, code, message in answer.topic_errors:
                    error = kafka.for_code(code)
                    if error is kafka.NoError:
                        log.info("topic created", topic=name)
                    elif error is kafka.TopicAlreadyExistsError:
                        log.debug("topic created by another client", topic=name)
                    elif error.retriable:
                        again.append(name)
                    else:
                        raise translate(error(message or name), where=Where(where.brokers, topics=(name,)))
                waiting = [topic for topic in waiting if topic.name in again]
                if waiting:
                    await asyncio.sleep(_PAUSE_SECONDS)


async def _message_size(admin: Any, topic: str) -> int:
    """Return the topic's maximum message size in bytes, or Kafka's default if the brokers don't report it."""
    name = "max.message.bytes"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})])
    except (kafka.KafkaError, OSError) as error:
        log.debug("the size of messages can't be read", topic=topic, error=str(error))
        return _KAFKAS_DEFAULT_SIZE
    for answer in answers:
        for _code, _message, _type, _name, entries in answer.resources:
            for entry in entries:
                if entry[0] == name:
                    return int(entry[1])
    return _KAFKAS_DEFAULT_SIZE
