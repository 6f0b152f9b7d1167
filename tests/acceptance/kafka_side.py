"""
Kafka as other services see it. Sends requests and reads events with librdkafka, a client that the service doesn't use.

    messages.send({"agency_id": 7}, headers={"traceparent": "00-…"})
    messages.send({"agency_id": 7}, …, {"agency_id": 8}, …)
    (event,) = messages.wait_for_completions(1)
    event.json["state"], event.header("ce_id")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, cast
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as RawMessage
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is documented there

from tests.watching import eventually

_ANSWER_SECONDS = 20.0

Headers = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """A message in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def json(self) -> Any:
        assert self.value is not None
        return json.loads(self.value)

    def header(self, name: str) -> str | None:
        """Return the last header of that name."""
        return next((value.decode() for key, value in reversed(self.headers) if key == name), None)


class Messages:
    """
    Topics and a consumer group for one test, and their messages.

    `environment` has the settings that make `serve` use them. With `create`, the topics exist from the start.
    """

    def __init__(self, bootstrap_servers: str, *, partitions: int = 3, create: bool = True) -> None:
        name = f"test-{uuid4().hex[:10]}"
        self.bootstrap_servers = bootstrap_servers
        self.group = name
        self.requests_topic = f"{name}.requests"
        self.completions_topic = f"{name}.completions"
        self.progress_topic = f"{name}.progress"
        self.dead_letters_topic = f"{name}.dead-letters"
        self.partitions = partitions
        self._create = create
        self._options: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._readers: dict[str, _Reader] = {}

    @property
    def topics(self) -> list[str]:
        return [self.requests_topic, self.completions_topic, self.progress_topic, self.dead_letters_topic]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "PIPELINE_KAFKA__GROUP_ID": self.group,
            "PIPELINE_KAFKA__REQUESTS_TOPIC": self.requests_topic,
            "PIPELINE_KAFKA__COMPLETIONS_TOPIC": self.completions_topic,
            "PIPELINE_KAFKA__PROGRESS_TOPIC": self.progress_topic,
            "PIPELINE_KAFKA__DEAD_LETTERS_TOPIC": self.dead_letters_topic,
            "PIPELINE_KAFKA__PARTITIONS": str(self.partitions),
        }

    def __enter__(self) -> Self:
        self.admin = AdminClient(self._options)
        self._producer = self.producer()
        if self._create:
            topics = [NewTopic(topic, self.partitions, 1) for topic in self.topics]
            for created in self.admin.create_topics(topics).values():
                created.result(_ANSWER_SECONDS)
        # The first request about groups makes the broker set up its coordinator. A consumer waits for that; an admin
        # client gives up, and never ends.
        self.committed()
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers.values():
            reader.close()

    # -- sending ---------------------------------------------------------------------------------

    def producer(self, **options: Any) -> Producer:
        """Return a new producer with librdkafka's options, written with `_` instead of dots."""
        given = {name.replace("_", "."): value for name, value in options.items()}
        return Producer({**self._options, "linger.ms": 0, **given})

    def send(
        self,
        *values: object,
        headers: Headers = (),
        key: str | bytes | None = None,
        topic: str | None = None,
        partition: int | None = None,
    ) -> list[tuple[int, int]]:
        """
        Send requests, wait until all are stored, and return their partitions and offsets, in the order given.

        Values other than bytes and None become JSON. Without a partition, they go round robin: partition 0, 1, ….
        """
        places: dict[int, tuple[int, int]] = {}

        def stored(number: int) -> Callable[[KafkaError | None, RawMessage], None]:
            def told(error: KafkaError | None, message: RawMessage) -> None:
                assert error is None, error
                places[number] = place_of(message)

            return told

        pairs = headers.items() if isinstance(headers, Mapping) else headers
        for number, value in enumerate(values):
            self._producer.produce(
                topic or self.requests_topic,
                value=value if value is None or isinstance(value, bytes) else json.dumps(value).encode(),
                key=key,
                headers=list[tuple[str, str | bytes | None]](pairs),
                partition=number % self.partitions if partition is None else partition,
                on_delivery=stored(number),
            )
            self._producer.poll(0)
        assert self._producer.flush(_ANSWER_SECONDS) == 0, "not all messages were stored in time"
        return [places[number] for number in range(len(values))]

    # -- reading ---------------------------------------------------------------------------------

    def all_of(self, topic: str) -> list[Message]:
        """Return all messages of a topic, in order within each partition; none if the topic doesn't exist."""
        if topic not in self._readers:
            self._readers[topic] = _Reader(topic, self._options)
        return self._readers[topic].all()

    def completions(self, run_id: str | None = None) -> list[Message]:
        """Return all completion events so far, or those of one run."""
        return [each for each in self.all_of(self.completions_topic) if run_id in (None, each.json["run_id"])]

    def progress(self) -> list[Message]:
        """Return all progress events so far."""
        return self.all_of(self.progress_topic)

    def dead_letters(self) -> list[Message]:
        """Return all dead letters so far."""
        return self.all_of(self.dead_letters_topic)

    def wait_for_completions(self, count: int, *, run_id: str | None = None, seconds: float = 60.0) -> list[Message]:
        """Wait for at least `count` completion events, and return them. Fails after `seconds`."""
        return _enough(lambda: self.completions(run_id), count, seconds)

    def wait_for_dead_letters(self, count: int, *, seconds: float = 60.0) -> list[Message]:
        """Wait for at least `count` dead letters, and return them. Fails after `seconds`."""
        return _enough(self.dead_letters, count, seconds)

    def wait_for_dead_letter(self, place: tuple[int, int], *, seconds: float = 60.0) -> Message:
        """Wait for the dead letter of the request at this place."""
        of_it = (str(place[0]), str(place[1]))

        def found() -> list[Message]:
            letters = self.dead_letters()
            return [each for each in letters if (each.header("dlq_partition"), each.header("dlq_offset")) == of_it]

        return _enough(found, 1, seconds)[0]

    def request_at(self, place: tuple[int, int]) -> Message:
        """Return the request at this place."""
        (found,) = [each for each in self.all_of(self.requests_topic) if (each.partition, each.offset) == place]
        return found

    # -- the group -------------------------------------------------------------------------------

    def ends(self) -> dict[int, int]:
        """Return the end offset of each partition of the requests topic, after any transaction markers."""
        reader = self._readers.setdefault(self.requests_topic, _Reader(self.requests_topic, self._options))
        return reader.ends()

    def committed(self) -> dict[int, int]:
        """Return the group's committed offset of each partition of the requests topic that has one."""
        consumer = Consumer({**self._options, "group.id": self.group})
        try:
            asked = [TopicPartition(self.requests_topic, number) for number in range(self.partitions)]
            return {
                at.partition: at.offset for at in consumer.committed(asked, timeout=_ANSWER_SECONDS) if at.offset >= 0
            }
        finally:
            consumer.close()

    def wait_until_taken(self, *, seconds: float = 60.0) -> None:
        """Wait until the group has committed all current requests."""
        ends = {partition: end for partition, end in self.ends().items() if end}
        eventually(lambda: all(self.committed().get(partition, 0) >= end for partition, end in ends.items()), seconds)

    def members(self) -> dict[str, list[int]]:
        """Return the group's members and their partitions of the requests topic."""
        (described,) = self.admin.describe_consumer_groups([self.group]).values()
        return {
            member.member_id: sorted(at.partition for at in member.assignment.topic_partitions)
            for member in described.result(_ANSWER_SECONDS).members
        }

    def wait_for_members(self, count: int, *, seconds: float = 60.0) -> dict[str, list[int]]:
        """Wait until this many members share all partitions, and return them as `members` does."""
        found: dict[str, list[int]] = {}
        everything = list(range(self.partitions)) if count else []

        def shared() -> bool:
            found.clear()
            found.update(self.members())
            return len(found) == count and sorted(at for mine in found.values() for at in mine) == everything

        eventually(shared, seconds)
        return found


def _enough(look: Callable[[], list[Message]], count: int, seconds: float) -> list[Message]:
    found: list[Message] = []

    def enough() -> bool:
        with suppress(KafkaException):  # no answer yet: the client reconnects late to a broker that is back
            found[:] = look()
        return len(found) >= count

    try:
        eventually(enough, seconds)
    except AssertionError:
        raise AssertionError(f"only {len(found)} of {count} within {seconds} s: {found}") from None
    return found


@dataclass
class _Reader:
    """Reads one topic from its beginning, on demand."""

    topic: str
    options: Mapping[str, object]
    found: list[Message] = field(default_factory=list)
    _reached: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._consumer = Consumer(
            {
                **self.options,
                "group.id": "tests",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # Otherwise every request waits behind a fetch, half a second per partition.
                "fetch.wait.max.ms": 20,
            }
        )

    def close(self) -> None:
        self._consumer.close()

    def ends(self) -> dict[int, int]:
        metadata = self._consumer.list_topics(self.topic, timeout=_ANSWER_SECONDS).topics[self.topic]
        return {partition: self._end(TopicPartition(self.topic, partition)) for partition in metadata.partitions}

    def _end(self, at: TopicPartition) -> int:
        def answered() -> tuple[int, int] | None:
            try:
                return self._consumer.get_watermark_offsets(at, timeout=_ANSWER_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:  # it is being created
                    raise
                return None

        _, end = eventually(answered) or (0, 0)
        return end

    def all(self) -> list[Message]:
        ends = self.ends()
        if ends.keys() != self._reached.keys():
            self.found.clear()
            self._reached = dict.fromkeys(ends, 0)
            self._consumer.assign([TopicPartition(self.topic, partition, 0) for partition in ends])
        # The last offsets may be transaction markers, so only the end-of-partition event shows that all was read.
        eventually(lambda: self._has_read(ends))
        return list(self.found)

    def _has_read(self, ends: Mapping[int, int]) -> bool:
        """Continue reading. Returns whether everything before these offsets was read."""
        for raw in self._consumer.consume(10_000, timeout=0.02):
            error = raw.error()
            partition, offset = place_of(raw)
            if error is None:
                self._reached[partition] = offset + 1
                self.found.append(_message(raw))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._reached[partition] = offset
        return all(self._reached[partition] >= end for partition, end in ends.items())


def place_of(raw: RawMessage) -> tuple[int, int]:
    """Return partition and offset of a stored message."""
    partition, offset = raw.partition(), raw.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def _message(raw: RawMessage) -> Message:
    partition, offset = place_of(raw)
    return Message(
        topic=raw.topic() or "",
        partition=partition,
        offset=offset,
        timestamp_ms=raw.timestamp()[1],
        key=raw.key(),
        value=raw.value(),
        headers=tuple(cast("list[tuple[str, bytes]]", raw.headers() or [])),  # the type of headers that were read
    )
