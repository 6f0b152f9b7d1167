"""The Kafkas that the contract suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.messaging.kafka.creation import ensure_topics
from pipeline_processing.messaging.kafka.events import KafkaEvents
from tests.contract.messaging.messaging_backends import Backend, KafkaBackend, MemoryBackend, own_settings


@pytest.fixture
async def real(kafka: KafkaServer) -> AsyncIterator[KafkaBackend]:
    settings = own_settings(kafka.bootstrap_servers)
    await ensure_topics(settings)
    async with KafkaEvents(settings=settings) as events:
        yield KafkaBackend(settings, events)


@pytest.fixture(params=["memory", "kafka"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
        return
    settings = own_settings(request.getfixturevalue("kafka").bootstrap_servers)
    await ensure_topics(settings)
    async with KafkaEvents(settings=settings) as events:
        yield KafkaBackend(settings, events)
