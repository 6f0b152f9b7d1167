"""The requests topic, read as a member of the consumer group."""

import asyncio
from collections.abc import Iterable
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.errors import KafkaUnavailable, PipelineError, TopicMissing
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, translated
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.lifecycle import cut_off, started, stopped
from pipeline_processing.messaging.kafka.metadata import MAX_AGE_MS, look_up
from pipeline_processing.messaging.kafka.reading import Silence, positions_of, record_of
from pipeline_processing.messaging.kafka.unreadable import OneByOne
from pipeline_processing.messaging.port import Record
from pipeline_processing.settings.settings import KafkaSettings

log = structlog.get_logger(__name__)

_OPEN_SECONDS = 5.0
_COMMIT_SECONDS = 5.0
_LAG_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_START_OVER_SECONDS = 1.0
_MAX_RECORDS = 500
_FETCH_BYTES = 4 * 1024 * 1024
_PARTITION_FETCH_BYTES = 256 * 1024
"""aiokafka buffers so much of each partition, or a producer's whole batch if that is larger."""

# The assignment is over: the partitions' new member is given the same records again.
_OVER = (
    kafka.CommitFailedError,
    kafka.IllegalStateError,
    kafka.UnknownMemberIdError,
    kafka.IllegalGenerationError,
    kafka.RebalanceInProgressError,
)


class KafkaRequests(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """
    A `RequestStream`, up inside its block; leaving it leaves the group.

    After an outage it goes on by itself: as the same member, or, if aiokafka has failed or 30 s have passed, as a new
    one. `poll` is for one task; `lag` may be called from another.
    """

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        incarnation: Incarnation | None = None,
        session_seconds: float = 10.0,
        rebalance_seconds: float = 30.0,
        poll_seconds: float = 0.3,
    ) -> None:
        """
        `incarnation` outlives this object, for another one that goes on after it. `rebalance_seconds`: how long the
        other members wait for this one to join again.
        """
        self._connection = Connection.of(settings)
        self._topic = settings.requests_topic
        self._group = settings.group_id
        self._where = Where(self._connection.where.brokers, topics=(self._topic,), group=self._group)
        self._session_seconds = session_seconds
        self._rebalance_seconds = rebalance_seconds
        self._poll_seconds = poll_seconds
        self._incarnation = incarnation or Incarnation()
        self._consumer: Any = None
        self._polling: asyncio.Task[Any] | None = None
        self._given: dict[TopicPartition, int] = {}
        """The position after the records that `poll` has given: what a commit says."""
        self._committed: dict[TopicPartition, int] = {}
        self._silence: Silence | None = None
        self._careful = False
        """A record that can't be read lies ahead."""
        self._one_by_one: OneByOne | None = None

    async def __aenter__(self) -> Self:
        """Raises KafkaUnavailable within seconds, AccessDenied, TopicMissing, SettingsError."""
        await self._open()
        return self

    async def __aexit__(self, *error: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await shielded(self._close(consumer, seconds=_CLOSE_SECONDS))

    async def poll(self) -> list[Record]:
        """See `RequestStream`. A cancelled call loses nothing: the next one returns what it would have returned."""
        consumer = self._consumer or await self._open()
        if self._polling is None:
            # In a task that is never cancelled. aiokafka counts the calls under way to see whether anybody polls, and
            # goes on counting a call that was cancelled: the member would keep its partitions though nobody reads them.
            self._polling = asyncio.create_task(self._one_by_one() if self._one_by_one else self._many(consumer))
        # getmany waits for the end of a rebalance, however long that takes.
        done, _ = await asyncio.wait({self._polling}, timeout=2 * self._poll_seconds)
        if done:
            records = await self._taken(self._polling, consumer)
            if records:
                # At once: a failure or cancellation from here on would lose them.
                return records
        if self._silence is not None:
            await self._silence.check()
        return []

    async def commit(self) -> None:
        """
        See `RequestStream`. Costs nothing where nothing is new. So call it after an empty `poll`, too: that may have
        passed transaction markers, and without a commit the group never seems to reach the end.
        """
        consumer = self._consumer
        if consumer is None:
            return
        # A commit fails as a whole if it names a partition of another member.
        mine = consumer.assignment()
        offsets = {at: offset for at, offset in self._given.items() if at in mine and self._committed.get(at) != offset}
        if not offsets:
            return
        with translated(self._where):
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await consumer.commit(offsets)
            except _OVER as error:
                log.info("a commit came too late: its partitions were reassigned", error=type(error).__name__)
                self._forget(offsets)
                return
        self._committed.update(offsets)

    async def lag(self) -> int:
        """
        See `RequestStream`. Asks the brokers, as a fetcher that has died knows nothing new. Raises TopicMissing if
        the topic was deleted; if it was recreated, begins to read it.
        """
        consumer = self._consumer
        if consumer is None:
            raise KafkaUnavailable(
                f"Kafka at {self._where.brokers} can't be reached: this worker is out of the group {self._group!r} "
                "and tries to join again."
            )
        await self._look(consumer)
        self._begin(consumer, consumer.assignment())
        with translated(self._where):
            async with asyncio.timeout(_LAG_SECONDS):
                partitions = list(consumer.assignment())
                ends = await consumer.end_offsets(partitions)
                starts = {at: await self._start(consumer, at) for at in partitions}
        return sum(max(0, ends[at] - starts[at]) for at in partitions)

    # Called by aiokafka when the group rebalances.

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._forget(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        assigned = set(assigned)
        self._forget(assigned)
        if self._consumer is not None:
            self._begin(self._consumer, assigned)
        log.info("partitions assigned", topic=self._topic, partitions=sorted(at.partition for at in assigned))

    # Inside.

    async def _open(self) -> Any:
        consumer = AIOKafkaConsumer(
            **self._connection.options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=_MAX_RECORDS,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            metadata_max_age_ms=MAX_AGE_MS,
            session_timeout_ms=round(self._session_seconds * 1000),
            # The answers tell it that the group rebalances, and until then the others wait.
            heartbeat_interval_ms=round(self._session_seconds * 100),
            # The default is the session's: a member that is busy for longer would miss the rebalance.
            rebalance_timeout_ms=round(self._rebalance_seconds * 1000),
            # A join is answered when the rebalance is over, and this is aiokafka's only limit for it.
            request_timeout_ms=round((self._rebalance_seconds + 10) * 1000),
        )
        # Without a topic: start() would wait for an assignment, so for all other members.
        await started(consumer, connection=self._connection, seconds=_OPEN_SECONDS)
        try:
            await self._look(consumer)
        except BaseException:
            await cut_off(consumer)
            raise
        consumer.subscribe([self._topic], listener=self)
        self._given.clear()
        self._committed.clear()
        self._silence = Silence(consumer, where=self._where, topics=[self._topic])
        self._one_by_one = OneByOne(consumer) if self._careful else None
        self._consumer = consumer
        return consumer

    async def _look(self, consumer: Any) -> None:
        """Check that the topic is there, and whether it is still the same. Raises TopicMissing."""
        found = await look_up(consumer._client, [self._topic], where=self._where, seconds=_OPEN_SECONDS)
        if found.missing:
            self._incarnation.gone()
            raise TopicMissing(found.missing)
        self._incarnation.saw(found.ids.get(self._topic))

    def _begin(self, consumer: Any, assigned: Iterable[TopicPartition]) -> None:
        """Read partitions of a recreated topic from their beginning, whatever was committed of the old one."""
        begun = [
            TopicPartition(self._topic, each) for each in self._incarnation.to_begin(at.partition for at in assigned)
        ]
        for at in begun:
            consumer.seek(at, 0)
            self._given[at] = 0
        if begun:
            log.warning(
                "the topic was deleted and made anew; reading it from its beginning",
                topic=self._topic,
                partitions=sorted(at.partition for at in begun),
            )

    async def _many(self, consumer: Any) -> Any:
        return await consumer.getmany(timeout_ms=round(self._poll_seconds * 1000))

    async def _close(self, consumer: Any, *, seconds: float) -> None:
        polling, self._polling = self._polling, None
        await stopped(consumer, seconds=seconds)
        if polling is not None:
            polling.cancel()  # the consumer is gone; nothing counts any more
            await asyncio.wait([polling])
            if not polling.cancelled():
                polling.exception()

    async def _taken(self, polling: "asyncio.Task[Any]", consumer: Any) -> list[Record]:
        self._polling = None
        try:
            with translated(self._where):
                batches = polling.result()
        except PipelineError:
            # aiokafka goes on counting this call, too, and may have dropped records behind its position.
            await self._start_over(consumer)
            raise
        except UnicodeDecodeError:
            await self._start_over(consumer)
            self._careful = True
            return []
        if self._one_by_one is not None and self._one_by_one.done:
            self._one_by_one, self._careful = None, False
        # Noted now, not at the commit: a later call that is cancelled moves them on. Positions rather than records'
        # offsets, as transaction markers have offsets, too.
        self._given.update(positions_of(consumer))
        return [record_of(message) for messages in batches.values() for message in messages]

    async def _start_over(self, consumer: Any) -> None:
        self._consumer = self._silence = None
        log.info("leaving the group, to join it anew", group=self._group)
        await shielded(self._close(consumer, seconds=_START_OVER_SECONDS))

    async def _start(self, consumer: Any, partition: TopicPartition) -> int:
        """The position of the next record that `poll` returns."""
        if partition in self._given:
            return self._given[partition]
        committed: int | None = await consumer.committed(partition)
        if committed is None:
            committed = (await consumer.beginning_offsets([partition]))[partition]
        return committed

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            self._given.pop(at, None)
            self._committed.pop(at, None)
