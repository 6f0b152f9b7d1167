"""
Start and stop aiokafka's clients within a time limit, and leave nothing running.

aiokafka has no way to abandon a client. `stop()` waits for pending work, such as a batch that is retried forever or a
join that the group delays, and a cancelled `stop()` leaves tasks and connections behind. They are ended here, through
aiokafka's private names. Tests check that no tasks remain, and pyproject.toml caps aiokafka's version.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, ProducerClosed

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import translate

log = get_logger(__name__)

OPEN_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_TEAR_DOWN_SECONDS = 1.0
_LOOK_SECONDS = 0.02


async def started(client: Any, *, connection: Connection) -> Any:
    """Start a client in time; clean up if that fails. Raises KafkaUnavailable, AccessDenied or SettingsError."""
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await client.start()
    except BaseException as error:
        await cut_off(client)
        if not isinstance(error, Exception):
            raise
        reason = await connection.refusal() if isinstance(error, KafkaConnectionError) else None
        raise translate(reason or error, where=connection.where) from error
    return client


@asynccontextmanager
async def running(client: Any, *, connection: Connection) -> AsyncIterator[Any]:
    """Start a client for the block, and stop it afterwards. Raises what `started` raises."""
    await started(client, connection=connection)
    try:
        yield client
    finally:
        await stopped(client, seconds=_CLOSE_SECONDS)


async def stopped(client: Any, *, seconds: float) -> None:
    """Stop a client gracefully, or by force after `seconds`. Never raises, and completes even if cancelled."""
    await shielded(_stop(client, seconds))


async def cut_off(client: Any) -> None:
    """Stop a client by force, without flushing or leaving the group. Otherwise like `stopped`."""
    await shielded(_tear_down(client))


async def _stop(client: Any, seconds: float) -> None:
    # In a separate task: in an outage, `stop()` may raise the CancelledError of a task that it cancelled itself.
    stopping = asyncio.create_task(client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    await asyncio.wait([stopping], timeout=seconds)
    in_order = stopping.done() and not stopping.cancelled() and stopping.exception() is None
    if not in_order:
        stopping.cancel()
        await asyncio.wait([stopping], timeout=_TEAR_DOWN_SECONDS)
        log.debug("a Kafka client could not be stopped gracefully", client=type(client).__name__)
        await _tear_down(client)


async def _tear_down(client: Any) -> None:
    client._closed = True  # keeps its __del__ from warning
    if isinstance(client, AIOKafkaProducer):
        await _tear_down_producer(client)
    elif isinstance(client, AIOKafkaAdminClient):
        await _disconnect(client._client)
    else:
        await _tear_down_consumer(client)


async def _tear_down_consumer(consumer: Any) -> None:
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    await _cancelled(
        [
            *_tasks(coordinator, "_coordination_task", "_heartbeat_task", "_commit_refresh_task"),
            *_tasks(coordinator, "_reset_committed_task"),
            *_tasks(fetcher, "_fetch_task"),
            *getattr(fetcher, "_pending_tasks", ()),
        ]
    )
    await _disconnect(consumer._client)


async def _tear_down_producer(producer: Any) -> None:
    client, sender = producer.client, producer._sender.sender_task
    if sender is not None:
        sender.cancel()
    await _disconnect(client)
    # The sender waits for its requests, which fail now, and then for metadata that is no longer fetched.
    deadline = asyncio.get_running_loop().time() + _TEAR_DOWN_SECONDS
    while sender is not None and not sender.done() and asyncio.get_running_loop().time() < deadline:
        metadata = client._md_update_fut
        if metadata is not None and not metadata.done():
            metadata.set_result(False)
        await asyncio.wait([sender], timeout=_LOOK_SECONDS)
    if sender is not None:
        await _cancelled([sender])
    # Callers that wait for these batches, such as a cancelled stop(), would wait forever.
    accumulator = producer._message_accumulator
    unsent = accumulator._pending_batches  # aiokafka removes each batch from it when the batch has ended
    for waiting in accumulator._batches.values():
        unsent.update(waiting)
    for batch in list(unsent):
        for future in (batch.future, batch._drain_waiter, *(message for message, _ in batch._msg_futures)):
            if not future.done():
                future.set_exception(ProducerClosed())
                future.exception()  # retrieved, so that asyncio doesn't warn


async def _disconnect(client: Any) -> None:
    assert isinstance(client, AIOKafkaClient)
    await _cancelled(_tasks(client, "_sync_task"))
    closing = []
    for connection in list(client._conns.values()):
        writer = connection._writer
        closing.append(connection.close())
        if writer is not None:
            writer.transport.abort()  # close() would wait for a silent broker to accept the buffered bytes
    if closing := [future for future in closing if future is not None]:
        await asyncio.wait(closing, timeout=_TEAR_DOWN_SECONDS)


def _tasks(owner: object, *names: str) -> list["asyncio.Task[Any]"]:
    tasks = (getattr(owner, name, None) for name in names)
    return [task for task in tasks if isinstance(task, asyncio.Task)]


async def _cancelled(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_TEAR_DOWN_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # retrieved, so that asyncio doesn't warn
