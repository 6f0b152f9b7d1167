"""The requests topic, read as a member of the consumer group."""

import asyncio
from collections.abc import Iterable
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.errors import KafkaUnavailable, PipelineError, TopicMissing
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, translated
from pipeline_processing.messaging.kafka.group import assignor_of
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.lifecycle import OPEN_SECONDS, cut_off, started, stopped
from pipeline_processing.messaging.kafka.metadata import MAX_AGE_MS, look_up
from pipeline_processing.messaging.kafka.reading import Silence, positions_of, record_of
from pipeline_processing.messaging.kafka.unreadable import OneByOne
from pipeline_processing.messaging.port import Record
from pipeline_processing.settings.settings import KafkaSettings

log = get_logger(__name__)

_COMMIT_SECONDS = 5.0
_LAG_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_START_OVER_SECONDS = 1.0
_MAX_RECORDS = 500
_FETCH_BYTES = 4 * 1024 * 1024
_PARTITION_FETCH_BYTES = 256 * 1024
"""aiokafka buffers this much of each partition, or a whole batch if that is larger."""
_FETCH_WAIT_MS = 1000
"""How long a broker holds back the answer to a fetch while there are no records. It answers the first one at once."""

# The assignment has ended: the partitions' new owner gets the same records again.
_ASSIGNMENT_LOST = (
    kafka.CommitFailedError,
    kafka.IllegalStateError,
    kafka.UnknownMemberIdError,
    kafka.IllegalGenerationError,
    kafka.RebalanceInProgressError,
)


class KafkaRequests(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """
    A `RequestStream`. Entering its block joins the group, and leaving the block leaves it.

    After an outage it continues as the same member, or as a new one if aiokafka has failed or 30 s have passed. Only
    one task may call `poll`; `lag` may be called from another.
    """

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        incarnation: Incarnation | None = None,
        worker: str | None = None,
        session_seconds: float = 10.0,
        rebalance_seconds: float = 30.0,
        poll_seconds: float = 0.3,
    ) -> None:
        """
        Pass the same `incarnation` to the object that continues after this one. `worker` is the name by which the
        group's list of members tells this one. `rebalance_seconds`: how long the other
        members wait for this one to rejoin.
        """
        self._connection = Connection.of(settings)
        self._topic = settings.requests_topic
        self._group = settings.group_id
        self._where = Where(self._connection.where.brokers, topics=(self._topic,), group=self._group)
        self._session_seconds = session_seconds
        self._rebalance_seconds = rebalance_seconds
        self._poll_seconds = poll_seconds
        self._worker = worker
        self._incarnation = incarnation or Incarnation()
        self._consumer: Any = None
        self._polling: asyncio.Task[Any] | None = None
        self._polled: dict[TopicPartition, int] = {}
        """The positions after the records that `poll` has returned, which `commit` commits."""
        self._committed: dict[TopicPartition, int] = {}
        self._silence: Silence | None = None
        self._undecodable_ahead = False
        """There is a record ahead that can't be decoded."""
        self._one_by_one: OneByOne | None = None

    async def __aenter__(self) -> Self:
        """Raises KafkaUnavailable (within seconds), AccessDenied, TopicMissing or SettingsError."""
        await self._open()
        return self

    async def __aexit__(self, *error: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await shielded(self._close(consumer, seconds=_CLOSE_SECONDS))

    async def poll(self) -> list[Record]:
        """See `RequestStream`. If a call is cancelled, the next one returns its records."""
        consumer = self._consumer or await self._open()
        if self._polling is None:
            # In a task that is never cancelled. aiokafka counts pending calls to detect a stalled consumer, and never
            # uncounts a cancelled one: the member would keep its partitions without reading them.
            self._polling = asyncio.create_task(
                self._one_by_one()
                if self._one_by_one
                else consumer.getmany(timeout_ms=round(self._poll_seconds * 1000))
            )
        # A time limit here, because getmany waits for a rebalance to end, however long that takes.
        done, _ = await asyncio.wait({self._polling}, timeout=2 * self._poll_seconds)
        if done:
            records = await self._records_of(self._polling, consumer)
            if records:
                # Return at once: a failure or cancellation after this point would lose the records.
                return records
        if self._silence is not None:
            await self._silence.check()
        return []

    async def commit(self) -> None:
        """
        See `RequestStream`. Does nothing if there is nothing new. Call it even after an empty `poll`, which may have
        passed transaction markers: without a commit, the group never seems to reach the end.
        """
        consumer = self._consumer
        if consumer is None:
            return
        # The whole commit fails if it includes another member's partition.
        mine = consumer.assignment()
        offsets = {
            at: offset for at, offset in self._polled.items() if at in mine and self._committed.get(at) != offset
        }
        if not offsets:
            return
        with translated(self._where):
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await consumer.commit(offsets)
            except _ASSIGNMENT_LOST as error:
                log.info("a commit came too late: its partitions were reassigned", error=type(error).__name__)
                self._forget(offsets)
                return
        self._committed.update(offsets)

    async def lag(self) -> int:
        """
        See `RequestStream`. Queries the brokers, as a dead fetcher's information is stale. Raises TopicMissing if the
        topic was deleted; if it was recreated, starts reading the new one.
        """
        consumer = self._consumer
        if consumer is None:
            raise KafkaUnavailable(
                f"Kafka at {self._where.brokers} can't be reached: this worker has left the group {self._group!r} "
                "and is trying to rejoin."
            )
        await self._check_topic(consumer)
        self._restart_recreated(consumer, consumer.assignment())
        with translated(self._where):
            async with asyncio.timeout(_LAG_SECONDS):
                partitions = list(consumer.assignment())
                ends = await consumer.end_offsets(partitions)
                starts = {at: await self._next_position(consumer, at) for at in partitions}
        return sum(max(0, ends[at] - starts[at]) for at in partitions)

    # -- called by aiokafka when the group rebalances ------------------------------------------------

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._forget(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        assigned = set(assigned)
        self._forget(assigned)
        if self._consumer is not None:
            self._restart_recreated(self._consumer, assigned)
        log.info("partitions assigned", topic=self._topic, partitions=sorted(at.partition for at in assigned))

    # -- private -------------------------------------------------------------------------------------

    async def _open(self) -> Any:
        consumer = AIOKafkaConsumer(
            **self._connection.options(),
            group_id=self._group,
            partition_assignment_strategy=(assignor_of(self._worker),),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=_MAX_RECORDS,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            metadata_max_age_ms=MAX_AGE_MS,
            session_timeout_ms=round(self._session_seconds * 1000),
            # A heartbeat's answer tells the member that the group rebalances; the others wait until then.
            heartbeat_interval_ms=round(self._session_seconds * 100),
            # The default is the session timeout: a member that is busy for longer would miss the rebalance.
            rebalance_timeout_ms=round(self._rebalance_seconds * 1000),
            # A join is answered when the rebalance ends, and this is aiokafka's only time limit for it.
            request_timeout_ms=round((self._rebalance_seconds + 10) * 1000),
        )
        # Without a topic, as start() would otherwise wait for an assignment, and so for all other members.
        await started(consumer, connection=self._connection)
        try:
            await self._check_topic(consumer)
        except BaseException:
            await cut_off(consumer)
            raise
        consumer.subscribe([self._topic], listener=self)
        self._polled.clear()
        self._committed.clear()
        self._silence = Silence(consumer, where=self._where, topics=[self._topic])
        self._one_by_one = OneByOne(consumer) if self._undecodable_ahead else None
        self._consumer = consumer
        return consumer

    async def _check_topic(self, consumer: Any) -> None:
        """Check that the topic exists, and whether it is still the same. Raises TopicMissing."""
        found = await look_up(consumer._client, [self._topic], where=self._where, seconds=OPEN_SECONDS)
        if found.missing:
            self._incarnation.gone()
            raise TopicMissing(found.missing)
        self._incarnation.saw(found.ids.get(self._topic))

    def _restart_recreated(self, consumer: Any, assigned: Iterable[TopicPartition]) -> None:
        """Read a recreated topic's partitions from their beginning, regardless of offsets committed for the old one."""
        begun = [
            TopicPartition(self._topic, each) for each in self._incarnation.to_begin(at.partition for at in assigned)
        ]
        for at in begun:
            consumer.seek(at, 0)
            self._polled[at] = 0
        if begun:
            log.warning(
                "the topic was deleted and recreated; reading it from its beginning",
                topic=self._topic,
                partitions=sorted(at.partition for at in begun),
            )

    async def _close(self, consumer: Any, *, seconds: float) -> None:
        polling, self._polling = self._polling, None
        await stopped(consumer, seconds=seconds)
        if polling is not None:
            polling.cancel()  # safe, as the consumer is stopped
            await asyncio.wait([polling])
            if not polling.cancelled():
                polling.exception()

    async def _records_of(self, polling: "asyncio.Task[Any]", consumer: Any) -> list[Record]:
        self._polling = None
        try:
            with translated(self._where):
                batches = polling.result()
        except PipelineError:
            # aiokafka never uncounts a failed call either, and may have skipped records.
            await self._start_over(consumer)
            raise
        except UnicodeDecodeError:
            await self._start_over(consumer)
            self._undecodable_ahead = True
            return []
        if self._one_by_one is not None and self._one_by_one.done:
            self._one_by_one, self._undecodable_ahead = None, False
        # Stored now rather than at the commit, because a later call that is cancelled advances the positions. Positions
        # rather than the records' offsets, because transaction markers have offsets, too.
        self._polled.update(positions_of(consumer))
        return [record_of(message) for messages in batches.values() for message in messages]

    async def _start_over(self, consumer: Any) -> None:
        self._consumer = self._silence = None
        log.info("leaving the group, to rejoin it", group=self._group)
        await shielded(self._close(consumer, seconds=_START_OVER_SECONDS))

    async def _next_position(self, consumer: Any, partition: TopicPartition) -> int:
        """Return the position of the next record that `poll` will return."""
        if partition in self._polled:
            return self._polled[partition]
        committed: int | None = await consumer.committed(partition)
        if committed is None:
            committed = (await consumer.beginning_offsets([partition]))[partition]
        return committed

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            self._polled.pop(at, None)
            self._committed.pop(at, None)
