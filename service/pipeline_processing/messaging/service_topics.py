"""
The service's topics: how they are created, and what must hold for those that exist already.

A topic is unfit only for what loses messages, or refuses them. Other differences, such as more partitions, are fine.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pipeline_processing.options.durations import duration_in_words
from pipeline_processing.settings.settings import KafkaSettings

KAFKAS_DEFAULT_SIZE = 1_048_588
HEADERS_SIZE = 2 * 1024 * 1024
"""Bytes by which a dead letter can be larger than its request."""
_REQUEST_SIZE = 320 * 1024
"""Bytes: the largest request that isn't a dead letter, with its headers."""
_SHORTEST = timedelta(days=1)
"""A service that is down over night must find its messages."""

CLEANUP, RETENTION, SIZE, IN_SYNC = "cleanup.policy", "retention.ms", "max.message.bytes", "min.insync.replicas"
CHECKED = (CLEANUP, RETENTION, SIZE, IN_SYNC)
"""The configurations that are checked."""


@dataclass(frozen=True, slots=True)
class ServiceTopic:
    """A topic of this service, as it is created."""

    name: str
    content: str
    """What it holds: `requests`."""
    retention: timedelta | None = timedelta(days=7)
    """None for the brokers' default. Ignored by a compacted topic."""
    shortest: timedelta | None = _SHORTEST
    """The shortest retention that is fit; None for any."""
    compacted: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    """Further configurations at creation."""
    size: int = _REQUEST_SIZE
    """Bytes of the largest message that it must take."""
    wraps: str | None = None
    """The topic whose messages it must take, each with up to HEADERS_SIZE more."""
    beside: str | None = None
    """The topic that must have as many partitions."""

    @property
    def policy(self) -> str:
        return "compact" if self.compacted else "delete"

    def created_with(self) -> dict[str, str]:
        """Return the configuration with which it is created, except its size."""
        kept = None if self.retention is None or self.compacted else _milliseconds(self.retention)
        return {CLEANUP: self.policy, **({} if kept is None else {RETENTION: kept}), **self.config}


@dataclass(frozen=True, slots=True)
class TopicFound:
    """A topic as the brokers describe it."""

    partitions: int
    replicas: int
    """Of the partition with the fewest."""
    config: Mapping[str, str]
    """Values in force, the brokers' defaults included, of those in CHECKED that the brokers know."""

    def number(self, name: str) -> int | None:
        """Return the value of a numeric configuration."""
        value = self.config.get(name)
        return None if value is None else int(value)


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something that a topic lacks. It is unfit for it unless it is `harmless`, as nothing is lost."""

    what: str
    cost: str
    remedy: str
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.cost}. {self.remedy}"


@dataclass(frozen=True, slots=True)
class TopicResult:
    """The state of one topic: `ok`, `missing`, `created` or `unfit`."""

    topic: ServiceTopic
    state: str
    found: TopicFound | None = None
    deviations: Sequence[Deviation] = ()


def service_topics(settings: KafkaSettings) -> list[ServiceTopic]:
    """Return the four topics that `serve` needs."""
    return [
        ServiceTopic(settings.requests_topic, "requests"),
        ServiceTopic(settings.completions_topic, "completion events"),
        ServiceTopic(settings.progress_topic, "progress events", retention=timedelta(days=1), shortest=None),
        ServiceTopic(
            settings.dead_letters_topic, "dead letters", retention=timedelta(days=30), wraps=settings.requests_topic
        ),
    ]


def judged(
    topics: Sequence[ServiceTopic],
    found: Mapping[str, TopicFound],
    settings: KafkaSettings,
    *,
    created: Sequence[str] = (),
) -> list[TopicResult]:
    """Compare the topics with what the brokers have."""
    results = []
    for topic in topics:
        there = found.get(topic.name)
        if there is None:
            results.append(TopicResult(topic, "missing"))
            continue
        deviations = list(_deviations(topic, there, found, settings))
        unfit = not all(each.harmless for each in deviations)
        state = "unfit" if unfit else "created" if topic.name in created else "ok"
        results.append(TopicResult(topic, state, there, deviations))
    return results


def _deviations(
    topic: ServiceTopic, found: TopicFound, others: Mapping[str, TopicFound], settings: KafkaSettings
) -> Iterator[Deviation]:
    def set_to(name: str, value: object) -> str:
        return _altered(settings, "kafka-configs.sh", f"--entity-type topics --entity-name {topic.name}", name, value)

    policy = found.config.get(CLEANUP)
    if policy is not None and policy != topic.policy:
        cost = (
            f"{topic.content} are deleted while they are needed"
            if topic.compacted
            else f"of an agency's {topic.content}, all but the last are deleted, sent or not yet read"
        )
        yield Deviation(f"{CLEANUP} is {policy}, not {topic.policy}", cost, set_to(CLEANUP, topic.policy))
    kept = found.number(RETENTION)
    if (
        not topic.compacted
        and topic.shortest is not None
        and kept is not None
        and 0 <= kept < topic.shortest / timedelta(milliseconds=1)
    ):
        yield Deviation(
            f"{RETENTION} is {kept}, which is {duration_in_words(timedelta(milliseconds=kept))}",
            f"an outage that lasts longer loses {topic.content}",
            set_to(RETENTION, _milliseconds(topic.retention or topic.shortest)),
        )
    size, least = found.number(SIZE), least_size(topic, others)
    if size is not None and size < least:
        yield Deviation(
            f"{SIZE} is {size}, and must be at least {least}",
            f"the brokers refuse the largest {topic.content}"
            + (", which the history's database keeps instead" if topic.wraps else ""),
            set_to(SIZE, least),
            harmless=topic.wraps is not None,
        )
    in_sync = found.number(IN_SYNC)
    if in_sync is not None and in_sync > found.replicas:
        yield Deviation(
            f"{IN_SYNC} is {in_sync}, and there is {found.replicas} replica" + "s" * (found.replicas != 1),
            "the brokers refuse every message",
            set_to(IN_SYNC, found.replicas),
        )
    if settings.replication_factor is not None and found.replicas < settings.replication_factor:
        yield Deviation(
            f"it has {found.replicas} replicas, and PIPELINE_KAFKA__REPLICATION_FACTOR is "
            f"{settings.replication_factor}",
            f"fewer brokers may be lost before {topic.content} are",
            "Add replicas with kafka-reassign-partitions.sh, or correct the setting.",
        )
    pair = others.get(topic.beside or "")
    if pair is not None and pair.partitions != found.partitions:
        yield Deviation(
            f"it has {found.partitions} partitions, and {topic.beside} has {pair.partitions}",
            "`triggers` doesn't start",
            f"Delete {topic.name} while no `triggers` runs, and create it again: it is rebuilt.",
        )


def least_size(topic: ServiceTopic, others: Mapping[str, TopicFound]) -> int:
    """Return the size in bytes of the largest message that the topic must take."""
    if topic.wraps is None:
        return topic.size
    wrapped = others.get(topic.wraps)
    size = None if wrapped is None else wrapped.number(SIZE)
    return (KAFKAS_DEFAULT_SIZE if size is None else size) + HEADERS_SIZE


def _altered(settings: KafkaSettings, tool: str, what: str, name: str, value: object) -> str:
    brokers = ",".join(settings.bootstrap_servers)
    return f"Run `{tool} --bootstrap-server {brokers} --alter {what} --add-config {name}={value}`."


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
