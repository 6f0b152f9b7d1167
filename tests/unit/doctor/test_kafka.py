"""What Kafka may lack is found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.doctor.checking import Finding, examined
from pipeline_processing.doctor.kafka import CHECKS, Cluster
from pipeline_processing.errors import AccessDenied, KafkaUnavailable, MessageRefused
from pipeline_processing.messaging.port import Offsets, Outgoing, Record
from pipeline_processing.messaging.service_topics import TopicFound, TopicResult, judged, service_topics
from pipeline_processing.settings.settings import KafkaSettings
from tests.memory.broker import MemoryBroker

BOTH = frozenset({"read", "write"})


@dataclass
class Brokers:
    """Healthy brokers, of which a test changes something."""

    settings: KafkaSettings = field(default_factory=KafkaSettings)
    config: Mapping[str, str] = field(default_factory=lambda: {"cleanup.policy": "delete", "retention.ms": "-1"})
    lacking: Sequence[str] = ()
    may: frozenset[str] | Mapping[str, frozenset[str]] = BOTH
    error: Exception | None = None
    topics_denied: bool = False

    @property
    def names(self) -> list[str]:
        return [topic.name for topic in service_topics(self.settings)]

    async def missing(self, names: Sequence[str]) -> list[str]:
        if self.error is not None:
            raise self.error
        return [name for name in names if name in self.lacking]

    async def judged(self) -> Sequence[TopicResult]:
        if self.topics_denied:
            raise AccessDenied("no")
        found = {name: TopicFound(6, 3, self.config) for name in self.names}
        return judged(service_topics(self.settings), found, self.settings)

    async def allowed(self, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
        may = self.may if isinstance(self.may, Mapping) else dict.fromkeys(names, self.may)
        return {name: may.get(name, BOTH) for name in names}

    async def examine(self, **others: Any) -> dict[str, Finding]:
        broker = MemoryBroker(clock=SystemClock(), topics=self.names)
        cluster = Cluster(
            settings=self.settings,
            names=self.names,
            topics=broker,
            events=broker,
            missing=self.missing,
            judged=self.judged,
            allowed=self.allowed,
        )
        cluster = replace(cluster, **{name: kind(broker) for name, kind in others.items()})
        return {each.check: each for each in await examined("Kafka", CHECKS, cluster)}


def missing(found: Mapping[str, Finding]) -> dict[str, int]:
    wrong = [each for each in found.values() if each.state == "missing"]
    assert all(each.cost for each in wrong)
    return {each.check: each.exit_code for each in wrong}


async def test_healthy_brokers() -> None:
    """Only one message is sent, to the progress topic."""
    found = await Brokers().examine()
    assert {each.state for each in found.values()} == {"ok"}, found


async def test_topics_that_are_missing() -> None:
    """If `serve` may create them, it will."""
    topic = KafkaSettings().progress_topic
    found = await Brokers(lacking=[topic]).examine()
    assert missing(found) == {}
    assert (found["topics"].state, found["produce and consume"].state) == ("skipped", "skipped")

    found = await Brokers(lacking=[topic], settings=KafkaSettings(create_topics=False)).examine()
    assert missing(found) == {"topics": 78}
    assert topic in found["topics"].detail
    assert "topics --execute" in found["topics"].remedy


async def test_policies_that_lose_messages() -> None:
    """With the command that corrects them. A dead letter that is refused is lost nowhere."""
    found = await Brokers(config={"cleanup.policy": "compact"}).examine()
    assert missing(found) == {"topic policies": 78}
    assert "--add-config cleanup.policy=delete" in found["topic policies"].remedy

    found = await Brokers(config={"cleanup.policy": "delete", "max.message.bytes": "1048588"}).examine()
    assert (found["topic policies"].state, found["topic policies"].exit_code) == ("advice", 0)

    found = await Brokers(topics_denied=True).examine()
    assert found["topic policies"].state == "skipped"


async def test_an_identity_that_may_not_send() -> None:
    """77, with each topic. What only other commands need is told, and no reason to fail."""
    found = await Brokers(may=frozenset({"read"})).examine()
    assert missing(found) == {"permissions": 77}
    requests, *others = Brokers().names
    assert all(f"write on {name}" in found["permissions"].detail for name in others)
    assert requests not in found["permissions"].detail

    found = await Brokers(may={requests: frozenset({"read"})}).examine()
    assert (found["permissions"].state, found["permissions"].exit_code) == ("advice", 0)
    assert found["permissions"].detail.endswith(f"also need write on {requests}")


async def test_brokers_that_lose_or_change_a_message() -> None:
    """What is acknowledged must be there, as it was sent."""

    class Changed(MemoryBroker):
        def __init__(self, broker: MemoryBroker) -> None:
            self._broker = broker

        async def ends(self, topic: str) -> Offsets:
            return await self._broker.ends(topic)

        async def committed(self, topic: str) -> Offsets:
            return await self._broker.committed(topic)

        async def read(
            self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None
        ) -> AsyncIterator[Record]:
            async for record in self._broker.read(topic, start=start, stop=stop):
                yield replace(record, headers=record.headers[1:])

    class Lost(Changed):
        async def read(
            self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None
        ) -> AsyncIterator[Record]:
            for record in list[Record]():
                yield record

    class Refusing(MemoryBroker):
        def __init__(self, _: MemoryBroker) -> None:
            super().__init__(clock=SystemClock(), topics=Brokers().names)

        async def send(self, messages: Sequence[Outgoing]) -> None:
            raise MessageRefused("no valid schema")

    found = await Brokers().examine(events=Refusing)
    assert missing(found) == {"produce and consume": 78}
    assert "no valid schema" in found["produce and consume"].detail
    for kind, words in ((Changed, "other headers"), (Lost, "can't be read")):
        found = await Brokers().examine(topics=kind)
        assert missing(found) == {"produce and consume": 78}
        assert words in found["produce and consume"].detail


async def test_a_group_that_belongs_to_others() -> None:
    """Its offsets can't be read, so no request can."""

    class Denied(MemoryBroker):
        def __init__(self, broker: MemoryBroker) -> None:
            self.ends, self.read = broker.ends, broker.read  # type: ignore[method-assign]

        async def committed(self, topic: str) -> Offsets:
            raise AccessDenied("not yours")

    assert missing(await Brokers().examine(topics=Denied)) == {"consumer group": 77}


async def test_brokers_that_do_not_answer() -> None:
    """Said once."""
    found = await Brokers(error=KafkaUnavailable("gone")).examine()
    assert missing(found) == {"connects": 69}
    assert [each.state for each in found.values()].count("skipped") == len(CHECKS) - 1
