"""The topics and consumer groups of `triggers`, in a module of its own because Faust takes a second to import."""

from pipeline_processing.messaging.service_topics import KAFKAS_DEFAULT_SIZE, ServiceTopic
from pipeline_processing.settings.settings import KafkaSettings

TABLE = "windows"

_COMPACTED = {"segment.ms": "14400000", "segment.bytes": "67108864"}
"""
Brokers don't compact the segment that they write to, which by default may last a week and have 1 GiB, and all of which
is read when windows are restored. Some providers of Kafka accept no shorter time than 4 hours.
"""


def app_id_of(kafka: KafkaSettings) -> str:
    """Return the name that the consumer groups and topics of `triggers` begin with."""
    return f"{kafka.group_id}-triggers"


def entries_topic(kafka: KafkaSettings) -> str:
    """Return the topic of the windows' log."""
    return f"{app_id_of(kafka)}-entries"


def changelog_of(app_id: str) -> str:
    """Return the topic of the windows' states, as Faust names it."""
    return f"{app_id}-{TABLE}-changelog"


def triggers_topics(kafka: KafkaSettings) -> list[ServiceTopic]:
    """Return the topics that `triggers` needs besides those of `serve`."""
    entries = entries_topic(kafka)
    return [
        ServiceTopic(entries, "entries", size=KAFKAS_DEFAULT_SIZE),
        ServiceTopic(
            changelog_of(app_id_of(kafka)),
            "windows",
            compacted=True,
            config=_COMPACTED,
            size=KAFKAS_DEFAULT_SIZE,
            beside=entries,
        ),
    ]
