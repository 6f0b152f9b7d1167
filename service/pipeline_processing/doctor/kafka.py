"""Whether Kafka keeps what requests and events rely on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from pipeline_processing.doctor.checking import Advice, Check, Shortfall, Skipped
from pipeline_processing.errors import AccessDenied, MessageRefused
from pipeline_processing.messaging.port import Events, Outgoing, Topics
from pipeline_processing.messaging.service_topics import TopicResult
from pipeline_processing.settings.settings import KafkaSettings

PROBE_TYPE = "pipeline.doctor.probe"
"""The CloudEvents type of what is sent to the progress topic, whose readers pass over what they don't know."""
_BOTH = ("read", "write")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The brokers, and what the checks need to ask them."""

    settings: KafkaSettings
    names: Sequence[str]
    """The topics that must exist."""
    topics: Topics
    events: Events
    missing: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    """Returns those of the topics that don't exist."""
    judged: Callable[[], Awaitable[Sequence[TopicResult]]]
    """Compares the service's topics with what they should be."""
    allowed: Callable[[Sequence[str]], Awaitable[Mapping[str, frozenset[str]]]]
    """Topic → what this identity may do with it: `read`, `write`. Without a topic whose brokers don't tell."""


async def _connects(cluster: Cluster) -> str:
    await cluster.missing([])
    return "a broker answers"


async def _topics(cluster: Cluster) -> str:
    missing = await cluster.missing(cluster.names)
    if missing:
        if cluster.settings.create_topics:
            raise Skipped(f"`serve` will create {', '.join(missing)}")
        raise Shortfall(f"there is no topic {', '.join(missing)}")
    return "all topics exist"


async def _policies(cluster: Cluster) -> str:
    try:
        results = await cluster.judged()
    except AccessDenied:
        raise Skipped("this identity may not read them: it takes DescribeConfigs, or run `topics` as another") from None
    faults = [(result.topic.name, each) for result in results for each in result.deviations]
    if faults:
        kind = Advice if all(fault.harmless for _, fault in faults) else Shortfall
        raise kind(
            "; ".join(f"{topic}: {fault.what} ({fault.cost})" for topic, fault in faults),
            remedy=" ".join(dict.fromkeys(fault.remedy for _, fault in faults)),
        )
    return "partitions, retention, sizes and clean-up of the topics fit"


async def _permissions(cluster: Cluster) -> str:
    allowed = await cluster.allowed(cluster.names)
    if not allowed:
        raise Skipped("the topics don't exist yet, or the brokers don't tell")
    kafka = cluster.settings
    sent = (kafka.completions_topic, kafka.progress_topic, kafka.dead_letters_topic)
    served = {kafka.requests_topic: ("read",), **dict.fromkeys(sent, ("write",))}
    lacking = [(topic, each) for topic, may in allowed.items() for each in _BOTH if each not in may]
    if needed := [f"{each} on {topic}" for topic, each in lacking if each in served.get(topic, _BOTH)]:
        raise AccessDenied(f"This identity lacks {', '.join(needed)}. Grant it.")
    if lacking:
        raise Advice(
            f"enough for `serve`; `submit`, `replay`, `dead-letters` and `history --watch` also need "
            f"{', '.join(f'{each} on {topic}' for topic, each in lacking)}",
            remedy="Grant it to the identity that runs these commands.",
        )
    return "this identity may read and write every topic"


async def _group(cluster: Cluster) -> str:
    if await cluster.missing([cluster.settings.requests_topic]):
        raise Skipped("there is no requests topic yet")
    await cluster.topics.committed(cluster.settings.requests_topic)
    return f"the offsets of the group {cluster.settings.group_id} can be read"


async def _round_trip(cluster: Cluster) -> str:
    topic = cluster.settings.progress_topic
    if await cluster.missing([topic]):
        raise Skipped(f"there is no topic {topic} yet")
    ends, probe = await cluster.topics.ends(topic), uuid4().hex.encode()
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"doctor-" + probe),
        ("ce_source", b"pipeline-processing/doctor"),
        ("ce_type", PROBE_TYPE.encode()),
    )
    sent = Outgoing(topic, key=b"_doctor", value=b'{"doctor":"%s"}' % probe, headers=headers)
    try:
        await cluster.events.send([sent])
        records = [record async for record in cluster.topics.read(topic, start=ends)]
    except AccessDenied:
        raise Skipped(f"this identity may not both write and read {topic}") from None
    except MessageRefused as refused:
        raise Shortfall(f"a small message is refused ({refused})") from refused
    for record in records:
        if record.value == sent.value:
            if (record.key, record.headers) != (sent.key, sent.headers):
                raise Shortfall("a message came back with another key, or other headers")
            return "a message comes back as it was sent, once all in-sync replicas have it"
    raise Shortfall("a message that was acknowledged can't be read")


CHECKS: Sequence[Check[Cluster]] = (
    Check("connects", _connects, "no request can be accepted, and no event sent; accepted runs go on"),
    Check(
        "topics",
        _topics,
        "`serve` doesn't start",
        "Run `pipeline-processing topics --execute` as an administrator.",
    ),
    Check("topic policies", _policies, "messages are lost, or refused", "`pipeline-processing topics` says which."),
    Check(
        "permissions",
        _permissions,
        "requests can't be read, or events and dead letters not sent: their offsets aren't committed, and intake stops",
    ),
    Check("consumer group", _group, "requests can't be read"),
    Check(
        "produce and consume",
        _round_trip,
        "events wouldn't arrive as they were sent (promise 2), or requests be accepted as they were asked (promise 3)",
        "Look at what is between this machine and the brokers, and at interceptors of theirs.",
    ),
)
