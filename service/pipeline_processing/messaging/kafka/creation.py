"""Create the service's topics, describe them, or report which are missing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline_processing.errors import PipelineError, TopicMissing
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, translate, translated
from pipeline_processing.messaging.kafka.lifecycle import running
from pipeline_processing.messaging.kafka.metadata import Found, look_up
from pipeline_processing.messaging.service_topics import CHECKED, SIZE, ServiceTopic, TopicFound, least_size
from pipeline_processing.messaging.service_topics import service_topics as four_topics
from pipeline_processing.settings.settings import KafkaSettings

log = get_logger(__name__)

_ANSWER_SECONDS = 15.0
_PAUSE_SECONDS = 0.2
_BROKERS_DEFAULT = -1
_NO_CONFIG: Mapping[str, str] = {}
_OPERATIONS = {"read": 3, "write": 4}
"""Kafka's numbers of operations, org.apache.kafka.common.acl.AclOperation."""


async def ensure_topics(settings: KafkaSettings, *, others: Sequence[ServiceTopic] = ()) -> None:
    """
    Create those of the four topics that are missing, or, without `create_topics`, raise TopicMissing listing them.

    `others` are created as well. Safe to run in several processes at once. Raises KafkaUnavailable, AccessDenied, or
    SettingsError if the brokers refuse the number of partitions or replicas.
    """
    topics = [*four_topics(settings), *others]
    async with TopicAdmin.open(settings) as admin:
        missing = await admin.missing([topic.name for topic in topics])
        if not missing:
            return
        if not settings.create_topics:
            raise TopicMissing(missing)
        await admin.create([topic for topic in topics if topic.name in missing])


@dataclass(frozen=True, slots=True)
class TopicAdmin:
    """Creates and describes topics. Every method raises KafkaUnavailable or AccessDenied."""

    _client: Any
    _settings: KafkaSettings
    _where: Where

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: KafkaSettings) -> AsyncIterator[Self]:
        """Connect. Raises KafkaUnavailable, AccessDenied or SettingsError."""
        connection = Connection.of(settings)
        client = AIOKafkaAdminClient(**connection.options(), request_timeout_ms=round(_ANSWER_SECONDS * 1000))
        async with running(client, connection=connection):
            yield cls(client, settings, connection.where)

    async def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of the topics that don't exist."""
        return (await self._look_up(names)).missing

    async def found(self, names: Sequence[str]) -> dict[str, TopicFound]:
        """Describe those of the topics that exist."""
        looked_up = await self._look_up(names)
        there = [name for name in names if name not in looked_up.missing]
        configs = await self._configs(there, CHECKED)
        partitions = [at.topic for at in looked_up.partitions]
        return {
            name: TopicFound(
                partitions=partitions.count(name), replicas=looked_up.replicas[name], config=configs.get(name, {})
            )
            for name in there
        }

    async def allowed(self, names: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return what this identity may do with the topics that exist, `read` and `write`, if the brokers tell."""
        looked_up = await self._look_up(names)
        return {
            topic: frozenset(name for name, bit in _OPERATIONS.items() if bits >> bit & 1)
            for topic, bits in looked_up.allowed.items()
        }

    async def create(self, topics: Sequence[ServiceTopic]) -> None:
        """
        Create the topics, none of which exists unless another process has just created it.

        Raises SettingsError if the brokers refuse the number of partitions or replicas.
        """
        # A topic beside one that exists has as many partitions, whatever the setting is today.
        beside = await self._look_up([topic.beside for topic in topics if topic.beside])
        there = Counter(at.topic for at in beside.partitions)

        def new(topic: ServiceTopic, config: Mapping[str, str] = _NO_CONFIG) -> Any:
            replicas = self._settings.replication_factor
            return NewTopic(
                topic.name,
                there[topic.beside or ""] or self._settings.partitions,
                _BROKERS_DEFAULT if replicas is None else replicas,
                # aiokafka accepts the brokers' default replication only together with an (empty) replica assignment.
                {} if replicas is None else None,
                {**topic.created_with(), **config},
            )

        await self._create([new(topic) for topic in topics if topic.wraps is None])
        for topic in topics:
            if topic.wraps is not None:  # created after that topic, as its message limit must be larger
                size = least_size(topic, await self._sized(topic.wraps))
                await self._create([new(topic, {SIZE: str(size)})])
        # Wait until the topics are known to all brokers, and their partitions have leaders.
        names = [topic.name for topic in topics]
        with translated(self._where):
            async with asyncio.timeout(_ANSWER_SECONDS):
                while True:
                    if not await self.missing(names):
                        return
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _look_up(self, names: Sequence[str]) -> Found:
        return await look_up(self._client._client, names, where=self._where, seconds=_ANSWER_SECONDS)

    async def _sized(self, topic: str) -> dict[str, TopicFound]:
        """Return the topic with only its size; nothing if the brokers don't tell it."""
        try:
            configs = await self._configs([topic], [SIZE])
        except PipelineError as error:
            log.debug("the size of messages can't be read", topic=topic, error=str(error))
            return {}
        return {topic: TopicFound(partitions=0, replicas=0, config=configs.get(topic, {}))}

    async def _configs(self, topics: Collection[str], names: Collection[str]) -> dict[str, dict[str, str]]:
        """Return the configurations in force: topic → name → value."""
        if not topics:
            return {}
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names)) for topic in topics]
        found = {}
        with translated(self._where):
            async with asyncio.timeout(_ANSWER_SECONDS):
                answers = await self._client.describe_configs(asked)
        for answer in answers:
            for code, message, _type, topic, entries in answer.resources:
                self._check(code, message, topic)
                found[topic] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return found

    async def _create(self, topics: Sequence[Any]) -> None:
        waiting = list(topics)
        with translated(self._where):
            async with asyncio.timeout(_ANSWER_SECONDS):
                while waiting:
                    answer = await self._client.create_topics(waiting)
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
                            self._check(code, message, name)
                    waiting = [topic for topic in waiting if topic.name in again]
                    if waiting:
                        await asyncio.sleep(_PAUSE_SECONDS)

    def _check(self, code: int, message: str | None, topic: str) -> None:
        if code:
            raise translate(kafka.for_code(code)(message or topic), where=Where(self._where.brokers, topics=(topic,)))
