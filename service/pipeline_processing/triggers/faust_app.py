"""
The windows' log and table, by Faust: it shares the log's partitions among the processes, and restores the table's
partitions from their changelog whenever they move.

Nothing else rests on Faust. It may deliver records twice or skip some around a rebalance, which `WindowKeeper` notices.
Records are settled by one task, not by Faust's agent, so that their offsets are committed only afterwards.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import faust
import faust.transport.drivers.aiokafka  # here, as Faust would import it in the event loop, which takes long
from faust.exceptions import ProducerSendError

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import Stopped, first_of, in_time, unless_stopped
from pipeline_processing.errors import KafkaUnavailable, PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import translate
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.telemetry.health import Health, Pulse
from pipeline_processing.triggers.topics import TABLE, changelog_of
from pipeline_processing.triggers.windowing import Place, Reassigned, Tick, WindowKeeper
from pipeline_processing.triggers.windows import newer_state

log = get_logger(__name__)

_SESSION_SECONDS = 10.0
_HEARTBEAT_SECONDS = 1.0
_REQUEST_SECONDS = 20.0
_REBALANCE_SECONDS = 30.0
_COMMIT_SECONDS = 1.0
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_STORE_SECONDS = 15.0
_PAUSED_SECONDS = _SESSION_SECONDS * 0.7
"""After such a pause of this process, another one may have taken over its partitions."""
_UNSURE_SECONDS = 5.0
"""After a pause, how long until this process has certainly been told."""
_LOOK_SECONDS = 0.02
_LAG_SECONDS = 10.0
_MOST_STALLS = 6
_GATHER_SECONDS = 0.2
"""Entries that are settled together need one write per agency."""
_BATCH = 500
_TICK_SECONDS = 0.5
_RESTORING = "restoring the windows"


class _Crashed(Exception):
    """Faust has failed, for good. No PipelineError, as those may be retried."""


class _App(faust.App):
    def _create_directories(self) -> None:
        pass  # for its data: the memory store has none, and the file system may be read-only


class FaustLog:
    """The log's partitions that this process holds, and the `WindowTable` of their states."""

    def __init__(
        self,
        *,
        connection: Connection,
        app_id: str,
        entries_topic: str,
        keeper: WindowKeeper,
        topics: Topics,
        clock: Clock,
        health: Health,
        pulse: Pulse,
    ) -> None:
        self._connection = connection
        self._app_id = app_id
        self._entries_topic = entries_topic
        self._keeper = keeper
        self._topics = topics
        self._changelog = changelog_of(app_id)
        self._clock = clock
        self._health = health
        self._pulse = pulse
        self._states: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self._restored: int | None = None
        """Generation of the consumer group whose partitions are restored."""
        self._held: int | None = None
        """Generation whose partitions the keeper holds."""
        self._awake_at = 0.0
        self._unsure_until = 0.0
        self._batch: list[Any] = []
        """Events that are being settled."""
        self._checked_at = 0.0
        """When the progress was looked at."""
        self._stalls: dict[tuple[int, int], int] = {}
        """Partition and offset of entries that are yet to be taken → how often they were so when looked at."""
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=2 * _BATCH)

    async def run(self, stop: asyncio.Event, *, ticks: Sequence[Tick]) -> None:
        """
        Keep the windows until `stop` is set. Calls each of `ticks` twice a second while partitions are held.

        Raises KafkaUnavailable or AccessDenied if the brokers can't be reached at the start, or Faust has failed.
        """
        self._health.state = _RESTORING
        self._app = self._new_app()
        self._awake_at = self._clock.monotonic()
        watching = asyncio.create_task(self._watch_pauses())
        try:
            await self._start(stop)
            await self._work(stop, ticks)
        except Stopped:
            pass
        except _Crashed:
            reason = self._app.crash_reason or KafkaUnavailable("Faust has failed.")
            raise self._translated(reason) from reason
        finally:
            watching.cancel()
            self._pulse.stop()
            await self._leave()

    # -- WindowTable -----------------------------------------------------------------------------

    def states(self) -> Mapping[int, Mapping[bytes, bytes]]:
        """See `WindowTable`."""
        return self._states

    async def store(self, states: Mapping[Place, bytes]) -> None:
        """
        See `WindowTable`. Also raises KafkaUnavailable if the brokers don't answer in time, and TopicMissing if the
        changelog was deleted.
        """
        self._check_crashed()
        self._check_held()
        sent = [self._table.send_changelog(partition, key, value) for (partition, key), value in states.items()]
        for each in sent:
            # Retrieve the exception, or asyncio logs it if this call is given up.
            each.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, waiting = await asyncio.wait(sent, timeout=_STORE_SECONDS)
        errors = [error for each in done if (error := each.exception()) is not None]
        if errors or waiting:
            await self._topics.ends(self._changelog)  # Raises TopicMissing; aiokafka reports that as an outage
            raise self._translated(errors[0] if errors else TimeoutError())
        for (partition, key), value in states.items():
            self._table.data[key] = value
            self._states[partition][key] = value

    # -- Faust -----------------------------------------------------------------------------------

    def _new_app(self) -> Any:
        app = _App(
            self._app_id,
            broker=[f"kafka://{broker}" for broker in self._connection.brokers],
            broker_credentials=_credentials(self._connection),
            broker_session_timeout=_SESSION_SECONDS,
            broker_heartbeat_interval=_HEARTBEAT_SECONDS,
            broker_request_timeout=_REQUEST_SECONDS,
            broker_rebalance_timeout=_REBALANCE_SECONDS,
            broker_commit_interval=_COMMIT_SECONDS,
            producer_request_timeout=_STORE_SECONDS,
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
            topic_allow_declare=False,  # topics are created as the settings say
            topic_disable_leader=True,
            stream_wait_empty=False,  # records that aren't settled are delivered again
            stream_recovery_delay=0.0,
            web_enabled=False,
            autodiscover=False,
        )
        entries = app.topic(self._entries_topic, key_type=bytes, value_type=bytes)
        self._table = app.Table(
            TABLE,
            key_type=bytes,
            value_type=bytes,
            on_changelog_event=self._on_restored_state,
            recover_callbacks={self._on_restored},
        )

        async def take(stream: Any) -> None:
            async for event in stream.noack().events():
                await self._queue.put(event)

        app.agent(entries, name="windows")(take)
        return app

    async def _on_restored_state(self, event: Any) -> None:
        states, key = self._states[event.message.partition], event.message.key
        if event.message.value is not None:
            states[key] = newer_state(states.get(key), event.message.value)

    async def _on_restored(self) -> None:
        self._restored = self._app.consumer_generation_id

    async def _start(self, stop: asyncio.Event) -> None:
        try:
            await in_time(unless_stopped(self._app.start(), stop), seconds=_START_SECONDS)
        except Stopped:
            raise
        except Exception as error:
            raise self._translated(error) from error

    async def _leave(self) -> None:
        try:
            await in_time(self._app.stop(), seconds=_STOP_SECONDS)
        except Exception as error:
            log.warning("leaving the group failed; other processes take over when its session ends", error=repr(error))

    def _translated(self, error: BaseException) -> PipelineError:
        if isinstance(error, ProducerSendError) and error.__cause__ is not None:
            error = error.__cause__
        return error if isinstance(error, PipelineError) else translate(error, where=self._connection.where)

    # -- the loop that settles records -----------------------------------------------------------

    async def _work(self, stop: asyncio.Event, ticks: Sequence[Tick]) -> None:
        ticked_at = self._clock.monotonic()
        while not stop.is_set():
            self._pulse.beat()
            self._check_crashed()
            if not self._is_restored():
                self._health.state = _RESTORING
                await first_of(stop, seconds=_LOOK_SECONDS)
                continue
            try:
                if self._held != self._restored:
                    await self._hold(stop)
                self._health.state = "serving"
                await self._settle(stop)
                if self._clock.monotonic() - ticked_at >= _TICK_SECONDS:
                    ticked_at = self._clock.monotonic()
                    for tick in (*ticks, self._check_progress):
                        await tick(stop)
            except Reassigned:
                log.info("windows may have moved; what isn't stored is settled again, here or elsewhere")

    async def _hold(self, stop: asyncio.Event) -> None:
        topic = self._entries_topic
        partitions = sorted(each.partition for each in self._app.consumer.assignment() if each.topic == topic)
        for partition in [each for each in self._states if each not in partitions]:
            del self._states[partition]
        self._held = self._restored
        try:
            await self._keeper.hold(partitions, self, stop)
            self._check_held()
        except Reassigned:
            self._held = None  # try again once this process is sure
            raise
        log.info("holding windows", partitions=partitions)

    async def _settle(self, stop: asyncio.Event) -> None:
        self._batch = self._batch or await self._next(stop)  # again, if this process wasn't sure to hold them
        events = [event for event in self._batch if event.message.generation_id == self._held]
        if events:
            await self._keeper.take([_record(event.message) for event in events], self, stop)
            for event in events:
                event.ack()
        self._batch = []

    async def _check_progress(self, stop: asyncio.Event) -> None:
        """Raises KafkaUnavailable if Faust has delivered none of a partition's entries for a minute."""
        now = self._clock.monotonic()
        if now - self._checked_at < _LAG_SECONDS:
            return
        self._checked_at = now
        self._stalls = {each: self._stalls.get(each, 0) + 1 for each in await self._keeper.behind(stop)}
        if stalled := [partition for (partition, _), times in self._stalls.items() if times > _MOST_STALLS]:
            raise KafkaUnavailable(
                f"Faust delivers no entries of partition {stalled[0]}, but there are some. Start this process again."
            )

    async def _next(self, stop: asyncio.Event) -> list[Any]:
        """Return what Faust delivers within a moment."""
        until = self._clock.monotonic() + _GATHER_SECONDS
        while self._queue.qsize() < _BATCH and self._clock.monotonic() < until and not stop.is_set():
            await self._clock.sleep(_LOOK_SECONDS)
        return [self._queue.get_nowait() for _ in range(min(_BATCH, self._queue.qsize()))]

    def _check_crashed(self) -> None:
        if self._app.crashed:
            raise _Crashed

    def _is_restored(self) -> bool:
        """Whether this process has the states of its partitions, and still holds these, as far as it can know."""
        self._check_awake()
        is_sure = self._awake_at >= self._unsure_until
        return is_sure and not self._app.rebalancing and self._restored == self._app.consumer_generation_id

    def _check_held(self) -> None:
        """Raises Reassigned unless this process still holds the keeper's partitions."""
        if self._held is None or self._held != self._restored or not self._is_restored():
            raise Reassigned

    async def _watch_pauses(self) -> None:
        while True:
            self._check_awake()
            await self._clock.sleep(_LOOK_SECONDS)

    def _check_awake(self) -> None:
        now = self._clock.monotonic()
        if now - self._awake_at > _PAUSED_SECONDS:
            self._unsure_until = now + _UNSURE_SECONDS
            log.warning(
                "this process was paused; checking that it still holds its windows", seconds=now - self._awake_at
            )
        self._awake_at = now


def _record(message: Any) -> Record:
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(message.headers or ()),
    )


def _credentials(connection: Connection) -> Any:
    context = connection.ssl_context
    if connection.security_protocol.startswith("SASL") and connection.password is not None:
        return faust.SASLCredentials(
            username=connection.username,
            password=connection.password.get_secret_value(),
            mechanism=connection.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
