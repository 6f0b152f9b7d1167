"""Topics are looked up in the newest way that the brokers know."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from pipeline_processing.errors import TopicMissing
from pipeline_processing.messaging.kafka.errors import Where
from pipeline_processing.messaging.kafka.metadata import Found, look_up, partitions_of

ID = UUID(int=7)
WHERE = Where(brokers="a.example:9092")
UNKNOWN_TOPIC = 3
PARTITION = (0, 0, 1)
"""Error, number and leader, which all versions begin with."""


class Client:
    """As AIOKafkaClient, of one broker."""

    def __init__(self, *, newest: int) -> None:
        self.newest = newest
        self.request: Any = None

    def get_random_node(self) -> int:
        return 1

    async def send(self, node: int, request: Any) -> Any:
        self.request = request.prepare({3: (0, self.newest)})
        if self.request.API_VERSION == 5:
            topics = [(0, "there", False, [(*PARTITION, [], [], [])]), (UNKNOWN_TOPIC, "gone", False, [])]
        else:
            nobody = UUID(int=0)
            topics = [
                (0, "there", ID, False, [(*PARTITION, 5, [], [], [], {})], 0, {}),
                (UNKNOWN_TOPIC, "gone", nobody, False, [], 0, {}),
            ]
        return SimpleNamespace(API_VERSION=self.request.API_VERSION, topics=topics)


@pytest.mark.parametrize(("newest", "version", "ids"), [(9, 5, {}), (10, 10, {"there": ID}), (13, 10, {"there": ID})])
async def test_ids_come_from_brokers_that_have_them(newest: int, version: int, ids: dict[str, UUID]) -> None:
    """Those of Kafka 2.8 and later; of others the partitions are known all the same."""
    client = Client(newest=newest)
    found = await look_up(client, ["there", "gone"], where=WHERE, seconds=5)
    assert version == client.request.API_VERSION
    numbers = {"there": 0}
    assert found == Found(
        [TopicPartition("there", 0)], ["gone"], ids, replicas=numbers, allowed=numbers if version == 10 else {}
    )


@pytest.mark.parametrize("newest", [9, 10])
async def test_no_topic_is_created_by_looking(newest: int) -> None:
    """Whatever the brokers do by default; and what is missing is named."""
    client = Client(newest=newest)
    with pytest.raises(TopicMissing, match="gone"):
        await partitions_of(client, ["there", "gone"], where=WHERE, seconds=5)
    assert client.request.to_object()["allow_auto_topic_creation"] is False
