"""The service's topics: what is created, and for what an existing one is unfit."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline_processing.messaging.service_topics import ServiceTopic, TopicFound, judged, service_topics
from pipeline_processing.settings.settings import KafkaSettings

FIT = {"cleanup.policy": "delete", "retention.ms": "604800000", "max.message.bytes": "5000000"}
REQUESTS = ServiceTopic("r", "requests")
LETTERS = ServiceTopic("l", "dead letters", wraps="r")
LOG = ServiceTopic("e", "entries")
WINDOWS = ServiceTopic("w", "windows", compacted=True, beside="e")


def found(partitions: int = 6, replicas: int = 3, **config: str) -> TopicFound:
    given = {name.replace("_", "."): value for name, value in config.items()}
    return TopicFound(partitions=partitions, replicas=replicas, config={**FIT, **given})


def faults(topic: ServiceTopic, there: TopicFound, *, others: Any = None, **settings: Any) -> list[str]:
    found = {**(others or {}), topic.name: there}
    (result,) = judged([topic], found, KafkaSettings(bootstrap_servers=("a:1", "b:2"), **settings))
    assert result.state == ("unfit" if any(not each.harmless for each in result.deviations) else "ok")
    return [str(each) for each in result.deviations]


def test_a_topic_is_created_with_what_it_needs() -> None:
    """No topic of messages is compacted, and live numbers are kept for a day."""
    requests, completions, progress, letters = service_topics(KafkaSettings())
    week, day = {"cleanup.policy": "delete", "retention.ms": "604800000"}, "86400000"
    assert requests.created_with() == completions.created_with() == week
    assert progress.created_with() == week | {"retention.ms": day}
    assert letters.created_with() == week | {"retention.ms": str(30 * int(day))}
    assert WINDOWS.created_with() == {"cleanup.policy": "compact"}


@pytest.mark.parametrize(
    "config",
    [{}, {"retention_ms": "-1"}, {"retention_ms": "86400000"}, {"max_message_bytes": "400000"}],
    ids=["as created", "for ever", "a day", "no room for more"],
)
def test_what_loses_nothing_is_fit(config: dict[str, str]) -> None:
    """So is a topic with other numbers of partitions."""
    assert faults(REQUESTS, found(partitions=1, **config)) == []
    assert faults(REQUESTS, found(partitions=60, **config)) == []


def test_a_missing_topic_is_named_and_judged_no_further() -> None:
    """It will be created."""
    (result,) = judged([REQUESTS], {}, KafkaSettings())
    assert (result.state, result.found, result.deviations) == ("missing", None, ())


def test_a_configuration_that_brokers_do_not_tell_is_no_fault() -> None:
    """Some implementations of Kafka know fewer."""
    assert faults(REQUESTS, TopicFound(partitions=1, replicas=1, config={})) == []


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compaction_would_delete_requests(policy: str) -> None:
    """All requests of an agency have the same key. The remedy is a command."""
    (fault,) = faults(REQUESTS, found(cleanup_policy=policy))
    assert fault == (
        f"cleanup.policy is {policy}, not delete: of an agency's requests, all but the last are deleted, sent or not "
        "yet read. Run `kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name r "
        "--add-config cleanup.policy=delete`."
    )


def test_states_of_windows_must_be_compacted() -> None:
    """Else retention deletes them."""
    (fault,) = faults(WINDOWS, found(), others={"e": found()})
    assert "deleted while they are needed" in fault
    assert "cleanup.policy=compact" in fault
    assert faults(WINDOWS, found(cleanup_policy="compact", retention_ms="1"), others={"e": found()}) == []


def test_a_short_retention_loses_what_an_outage_leaves_unread() -> None:
    """Only where nothing repeats the messages."""
    (fault,) = faults(REQUESTS, found(retention_ms="3600000"))
    assert fault.startswith("retention.ms is 3600000, which is 1h: an outage that lasts longer loses requests.")
    assert "--add-config retention.ms=604800000`" in fault
    assert faults(ServiceTopic("p", "progress", shortest=None), found(retention_ms="1")) == []
    (fault,) = faults(ServiceTopic("x", "y", retention=timedelta(days=30)), found(retention_ms="1"))
    assert "--add-config retention.ms=2592000000`" in fault


def test_the_largest_messages_must_fit() -> None:
    """A dead letter is larger than its request."""
    (fault,) = faults(REQUESTS, found(max_message_bytes="1000"))
    assert "the brokers refuse the largest requests" in fault
    (fault,) = faults(LETTERS, found(max_message_bytes="1048588"), others={"r": found(max_message_bytes="1048588")})
    assert "max.message.bytes is 1048588, and must be at least 3145740" in fault
    assert "which the history's database keeps instead" in fault  # so nothing is lost
    assert faults(LETTERS, found(max_message_bytes="3145740")) == []  # that of the requests isn't known


def test_too_few_replicas() -> None:
    """For what the brokers demand, or for the setting."""
    (fault,) = faults(REQUESTS, found(replicas=1, min_insync_replicas="2"))
    assert "there is 1 replica: the brokers refuse every message" in fault
    (fault,) = faults(REQUESTS, found(replicas=2), replication_factor=3)
    assert "PIPELINE_KAFKA__REPLICATION_FACTOR is 3" in fault


def test_windows_need_as_many_partitions_as_their_log() -> None:
    """Or `triggers` can't start."""
    compacted = found(partitions=3, cleanup_policy="compact")
    (fault,) = faults(WINDOWS, compacted, others={"e": found(partitions=6)})
    assert "it has 3 partitions, and e has 6" in fault
