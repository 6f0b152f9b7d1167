"""Send messages to Kafka."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from pipeline_processing.errors import MessageRefused, MessageTooLarge, PipelineError, TopicMissing
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, kind_of, refusal, translate
from pipeline_processing.messaging.kafka.lifecycle import OPEN_SECONDS, cut_off, started, stopped
from pipeline_processing.messaging.kafka.metadata import MAX_AGE_MS, partitions_of
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.settings.settings import KafkaSettings

_LOOK_SECONDS = 2.0
_CLOSE_SECONDS = 5.0
_MAX_REQUEST_SIZE = 16 * 1024 * 1024
"""More than any of our topics allows, so that the brokers decide."""
_BATCH_SIZE = 128 * 1024
"""aiokafka sends one batch at a time per partition, so its default of 16 KiB would slow down bursts."""

# Nothing was stored, and the message isn't at fault: a new producer can send it.
_NEEDS_NEW_PRODUCER = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerIdMapping,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
# INVALID_RECORD (87) and newer error codes have no class in aiokafka. All retryable ones do.
_NAMELESS = kafka.UnknownError


class _Producer:
    """An aiokafka producer, and how many calls use it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.topics: set[str] = set()
        """Topics known to exist."""
        self.users = 0
        self.retired = False


class KafkaEvents:
    """
    `Events` through an idempotent producer, which is opened on first use and closed with the block.

    A producer that has failed is retired, and the next call opens another. aiokafka counts on after a batch that it
    gave up, so brokers refuse all later ones because of the gap (github.com/aio-libs/aiokafka/issues/1017).
    """

    def __init__(self, *, settings: KafkaSettings, delivery_seconds: float = 10.0) -> None:
        """`delivery_seconds` limits each `send`, which then takes a moment to find the cause. Raises SettingsError."""
        self._connection = Connection.of(settings)
        self._where = self._connection.where
        self._delivery_seconds = delivery_seconds
        self._current: _Producer | None = None
        self._opening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Flush pending messages, for at most 5 s."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        producer, self._current = self._current, None
        if producer is not None:
            await stopped(producer.client, seconds=_CLOSE_SECONDS)

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Events`. Also raises KafkaUnavailable if the brokers don't acknowledge all messages in time."""
        if not messages:
            return
        refused: list[tuple[Outgoing, Exception]] = []
        try:
            async with asyncio.timeout(self._delivery_seconds):
                failed = await self._attempt(messages)
                # A refused message also fails the others in its batch, and those after the gap that it leaves. So send
                # each of them again on its own, in order.
                for message, error in failed:
                    refused += await self._send_alone(message, error)
        except TimeoutError as error:
            missing = await self._missing(messages)
            raise missing or translate(error, where=self._where) from error
        if refused:
            message, answer = refused[0]
            raise self._refusal(message, answer) from answer

    async def _missing(self, messages: Sequence[Outgoing]) -> TopicMissing | None:
        """Return the error if a topic was deleted, which aiokafka retries without reporting it."""
        topics = sorted({message.topic for message in messages})
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                producer = await self._opened()
                await partitions_of(producer.client.client, topics, where=self._where, seconds=_LOOK_SECONDS)
        except TopicMissing as missing:
            return missing
        except (PipelineError, TimeoutError):
            pass
        return None

    def _refusal(self, message: Outgoing, error: Exception) -> MessageRefused:
        if kind_of(error) is MessageTooLarge:
            return MessageTooLarge(
                f"Kafka at {self._where.brokers} refuses a message to the topic {message.topic} because of its size, "
                f"{message.size:,} bytes. Send less, or raise the topic's max.message.bytes."
            )
        return refusal(error, where=Where(self._where.brokers, topics=(message.topic,)))

    async def _send_alone(self, message: Outgoing, error: Exception) -> list[tuple[Outgoing, Exception]]:
        """Send one message until it is stored, or permanently refused."""
        while failed := await self._attempt([message]):
            if _is_refusal(failed[0][1]):
                return failed
        return []

    async def _attempt(self, messages: Sequence[Outgoing]) -> list[tuple[Outgoing, Exception]]:
        """Send all, and return those that were refused or need a new producer."""
        producer = await self._opened()
        producer.users += 1
        try:
            failed = await self._send_by(producer, messages)
            if failed:
                self._retire(producer)
            return failed
        except BaseException as error:
            self._retire(producer)
            if isinstance(error, kafka.KafkaError | kafka.IllegalOperation | OSError):
                raise translate(error, where=self._where) from error
            raise
        finally:
            producer.users -= 1
            if producer.retired and not producer.users:
                # Not before the last call is done: others may still use it, and mostly succeed.
                await cut_off(producer.client)

    async def _send_by(self, producer: _Producer, messages: Sequence[Outgoing]) -> list[tuple[Outgoing, Exception]]:
        topics = {message.topic for message in messages} - producer.topics
        if topics:
            await partitions_of(producer.client.client, sorted(topics), where=self._where, seconds=OPEN_SECONDS)
            producer.topics |= topics
        answers = [await _enqueued(producer.client, message) for message in messages]
        results = await asyncio.gather(*answers, return_exceptions=True)
        failed = []
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, Exception) and (isinstance(result, _NEEDS_NEW_PRODUCER) or _is_refusal(result)):
                failed.append((message, result))
            elif isinstance(result, BaseException):
                raise result
        return failed

    async def _opened(self) -> _Producer:
        while self._current is None:
            # One task for all waiting callers, so that it survives the cancellation of one.
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)
        return self._current

    async def _open(self) -> None:
        try:
            client = AIOKafkaProducer(
                **self._connection.options(),
                enable_idempotence=True,  # implies acks=all
                max_request_size=_MAX_REQUEST_SIZE,
                max_batch_size=_BATCH_SIZE,
                metadata_max_age_ms=MAX_AGE_MS,
                request_timeout_ms=round(self._delivery_seconds * 1000),
            )
            self._current = _Producer(await started(client, connection=self._connection))
        finally:
            self._opening = None

    def _retire(self, producer: _Producer) -> None:
        producer.retired = True
        if self._current is producer:
            self._current = None


def _is_refusal(error: Exception) -> bool:
    """Whether the broker permanently refuses this message."""
    return isinstance(error, _NAMELESS) or kind_of(error) in (MessageTooLarge, MessageRefused)


async def _enqueued(client: Any, message: Outgoing) -> "asyncio.Future[Any]":
    """Enqueue a message, and return the future of its acknowledgement."""
    try:
        if message.key is None and message.value is None:
            # Kafka accepts such a message, but send() doesn't. It may be a request that becomes a dead letter.
            batch = client.create_batch()
            batch.append(key=None, value=None, timestamp=message.timestamp_ms, headers=list(message.headers))
            partitions = sorted(await client.partitions_for(message.topic))
            sent = await client.send_batch(batch, message.topic, partition=random.choice(partitions))  # noqa: S311
        else:
            sent = await client.send(
                message.topic,
                value=message.value,
                key=message.key,
                timestamp_ms=message.timestamp_ms,
                headers=list(message.headers),
            )
    except kafka.MessageSizeTooLargeError as error:
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(error)
    answer: asyncio.Future[Any] = asyncio.ensure_future(sent)
    # Retrieve the exception even if the sender is cancelled first, or asyncio logs it as never retrieved.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer
