"""
Kafka → run table. A message is settled once its run is written, or its dead letter stored: in Kafka, or in the
history's database if Kafka refuses the letter for good. Only then its offset is committed. Whatever goes wrong before
that, the message comes again, and nothing happens twice: a run's id is the request's own or made of the message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.stopping import Stopped, first_of
from pipeline_processing.errors import (
    MessageRefused,
    MessageTooLarge,
    PipelineError,
    RequestError,
    TopicMissing,
    TransientError,
)
from pipeline_processing.messaging.dead_letters import LetterStore, dead_letter, without_value
from pipeline_processing.messaging.port import Events, Outgoing, Record, RequestStream
from pipeline_processing.requests.job_messages import received
from pipeline_processing.runs.store import Incoming, Origin, RunIntake
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.outage import Outage
from pipeline_processing.telemetry.tracing import trace_ids

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PAUSE_SECONDS = 1.0
_BATCH_BYTES = 1024 * 1024
"""Of messages that are settled together: what is made of one takes ten times its size for a moment."""
_LOOK_SECONDS = 10.0
"""How often the brokers are asked what is left."""
_LOOKS_IN_VAIN = 6
"""When so many in a row have found some, and none came in between, reading has died without a word."""
_ME = "intake"


@dataclass(slots=True)
class _Taken:
    """A record on its way: it becomes a run, or there is an error that makes it a dead letter."""

    record: Record
    span: Span
    incoming: Incoming | None = None
    error: RequestError | None = None


class Intake:
    """
    Takes requests. `subscribe` joins the consumer group for the length of a block; `on_accepted` is called when there
    may be new runs.
    """

    def __init__(
        self,
        *,
        subscribe: Callable[[], AbstractAsyncContextManager[RequestStream]],
        events: Events,
        dead_letters_topic: str,
        runs: RunIntake,
        letters: LetterStore,
        config: AgencyJobConfig,
        config_id: str,
        clock: Clock,
        tracer: Tracer,
        mask: Mask,
        pulse: Pulse,
        kafka: Outage,
        history: Outage,
        on_accepted: Callable[[], None],
    ) -> None:
        self._subscribe = subscribe
        self._events = events
        self._dead_letters_topic = dead_letters_topic
        self._runs = runs
        self._letters = letters
        self._config = config
        self._config_id = config_id
        self._clock = clock
        self._tracer = tracer
        self._mask = mask
        self._pulse = pulse
        self._kafka = kafka
        self._history = history
        self._on_accepted = on_accepted

    async def run(self, stop: asyncio.Event) -> None:
        """
        Take requests until told to stop. Raises what no waiting mends: AccessDenied, …; and TopicMissing at the start.
        A topic that is deleted later is waited for.
        """
        joined = False
        while not stop.is_set():
            self._pulse.beat()
            try:
                async with self._subscribe() as stream:
                    joined = True
                    self._kafka.ended(by=_ME)
                    log.info("taking requests")
                    await self._take(stream, stop)
            except (TransientError, TopicMissing) as error:
                if isinstance(error, TopicMissing) and not joined:
                    raise
                # The next subscription begins at what is committed: nothing is lost.
                self._kafka.began(error, by=_ME)
                await first_of(stop, seconds=_PAUSE_SECONDS)
        self._pulse.stop()

    async def _take(self, stream: RequestStream, stop: asyncio.Event) -> None:
        looked_at, looks_in_vain = self._clock.monotonic(), 0
        while not stop.is_set():
            records = await stream.poll()
            self._pulse.beat()
            now = self._clock.monotonic()
            if records:
                try:
                    for batch in _batches(records):
                        await self._settle(batch, stop)
                except Stopped:
                    return  # what isn't settled isn't committed
                self._pulse.moving()
                looks_in_vain = 0
            await stream.commit()
            if now - looked_at >= _LOOK_SECONDS:
                looked_at = now
                left = await stream.lag()
                looks_in_vain = looks_in_vain + 1 if left else 0
                if not left:
                    self._pulse.moving()
                elif looks_in_vain > _LOOKS_IN_VAIN:
                    log.error("no records come although there are some; joining the group anew", lag=left)
                    self._pulse.stuck(f"no records come, and {left} are there")
                    return

    async def _settle(self, records: Sequence[Record], stop: asyncio.Event) -> None:
        """Write the runs and store the dead letters of these records, however long it takes. Raises Stopped."""
        taken = [self._read(record) for record in records]
        try:
            good = [(one, one.incoming) for one in taken if one.incoming is not None]
            if good:
                runs = await self._patiently(
                    lambda: self._runs.accept_all([incoming for _, incoming in good]), self._history, stop
                )
                for (one, _), run in zip(good, runs, strict=True):
                    one.error = run if isinstance(run, RequestError) else None
                self._on_accepted()
            letters = [self._letter(one.record, one.error) for one in taken if one.error is not None]
            if letters:
                await self._store(letters, stop)
        finally:
            for one in taken:
                if one.error is not None:
                    one.span.set_status(Status(StatusCode.ERROR, one.error.kind))
                one.span.end()

    def _read(self, record: Record) -> _Taken:
        try:
            asked = received(record)
        except RequestError as error:
            return _Taken(record, self._tracer.start_span("accept request", kind=SpanKind.CONSUMER), error=error)
        span = self._tracer.start_span("accept request", context=asked.parent, kind=SpanKind.CONSUMER)
        span.set_attributes({"run_id": asked.run_id, "agency_id": asked.request.agency_id})
        try:
            self._config.for_request(asked.request)
        except RequestError as error:
            return _Taken(record, span, error=error)
        trace_id, span_id = trace_ids(span)
        return _Taken(
            record,
            span,
            incoming=Incoming(
                request=asked.request,
                run_id=asked.run_id,
                trace_id=trace_id,
                span_id=span_id,
                tracestate=asked.tracestate,
                origin=Origin(topic=record.topic, partition=record.partition, offset=record.offset),
                config_id=self._config_id,
            ),
        )

    def _letter(self, record: Record, error: RequestError) -> Outgoing:
        log.warning(
            "a request can't be used; it is a dead letter now",
            reason=error.kind,
            error=str(error),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        return dead_letter(record, error, topic=self._dead_letters_topic, now=self._clock.now(), mask=self._mask)

    async def _store(self, letters: Sequence[Outgoing], stop: asyncio.Event) -> None:
        refused = await self._patiently(lambda: self._send(letters), self._kafka, stop)
        if not refused:
            return
        await self._patiently(lambda: self._letters.keep([letter for letter, _ in refused]), self._history, stop)
        for letter, error in refused:
            told = dict(letter.headers)
            log.error(
                "Kafka refuses a dead letter for good; it is kept in the history's database instead",
                error=str(error),
                **{name: (told[f"dlq_{name}"] or b"").decode() for name in ("reason", "topic", "partition", "offset")},
            )

    async def _send(self, letters: Sequence[Outgoing]) -> list[tuple[Outgoing, PipelineError]]:
        """Send letters to Kafka; returns those that it refuses for good, and why."""
        try:
            try:
                await self._events.send(letters)
            except MessageRefused:
                alone = [(letter, await self._refusal(letter)) for letter in letters]
                return [(letter, error) for letter, error in alone if error is not None]
        except (TransientError, TopicMissing):
            raise
        except PipelineError as error:  # such as AccessDenied: it holds for all of them
            return [(letter, error) for letter in letters]
        return []

    async def _refusal(self, letter: Outgoing) -> MessageRefused | None:
        """Send one letter, without its value if need be. Why Kafka refuses it for good; None if it is stored."""
        try:
            await self._events.send([letter])
        except MessageTooLarge:
            pass
        except MessageRefused as error:
            return error
        else:
            return None
        try:
            await self._events.send([without_value(letter)])
        except MessageRefused as error:
            return error
        return None

    async def _patiently(self, ask: Callable[[], Awaitable[T]], server: Outage, stop: asyncio.Event) -> T:
        """Ask until the server answers. Raises Stopped."""
        while True:
            self._pulse.beat()
            try:
                answer = await ask()
            except TransientError as error:
                server.began(error, by=_ME)
            else:
                server.ended(by=_ME)
                return answer
            await first_of(stop, seconds=_PAUSE_SECONDS)
            if stop.is_set():
                raise Stopped


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """The same records in the same order, cut so that no batch has more bytes than it may, unless it is one record."""
    start = size = 0
    for number, record in enumerate(records):
        if number > start and size + record.size > _BATCH_BYTES:
            yield records[start:number]
            start, size = number, 0
        size += record.size
    yield records[start:]
