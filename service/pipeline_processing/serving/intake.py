"""
Read requests from Kafka and write them to the run table.

A message is settled once its run is written or its dead letter is stored: in Kafka, or in the history's database if
Kafka refuses the letter for good. Only then is its offset committed. After an earlier failure, the message is delivered
again. That makes no second run, because the run id is the request's or derived from the message.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import Stopped, first_of, give_up, unless_stopped
from pipeline_processing.errors import RequestError, TopicMissing, TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Outgoing, Record, RequestStream
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.requests.job_messages import received
from pipeline_processing.runs.store import Incoming, Origin, RunIntake
from pipeline_processing.telemetry.health import Pulse, Servers
from pipeline_processing.telemetry.metrics import IntakeMetrics, Metrics
from pipeline_processing.telemetry.tracing import trace_ids

log = get_logger(__name__)

T = TypeVar("T")

_PAUSE_SECONDS = 1.0
_BATCH_BYTES = 1024 * 1024
"""Limit for messages that are settled together. Processing briefly takes ten times their size in memory."""
_LAG_SECONDS = 10.0
"""Interval of lag checks."""
_MOST_STALLS = 6
"""If more lag checks in a row find messages but none arrive in between, the consumer has died silently."""
_ME = "intake"


@dataclass(slots=True)
class _Taken:
    """A record being settled: it becomes a run or, if `error` is set, a dead letter."""

    record: Record
    span: Span
    incoming: Incoming | None = None
    error: RequestError | None = None
    result: str = "dead_letter"


class RequestReader:
    """Parses records into runs, each in its own span, and checks them against a job config."""

    def __init__(self, *, config: AgencyJobConfig, config_id: str, tracer: Tracer) -> None:
        self._config = config
        self._config_id = config_id
        self._tracer = tracer

    def read(self, record: Record) -> _Taken:
        """Return the run that the record requests, or the error that makes it a dead letter."""
        try:
            asked = received(record)
        except RequestError as error:
            return _Taken(record, self._span(record), error=error)
        span = self._span(record, asked.parent)
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

    def _span(self, record: Record, parent: Context | None = None) -> Span:
        return self._tracer.start_span(
            "accept request",
            context=parent or Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
            },
        )


class Intake:
    """
    Takes requests from Kafka. `subscribe` joins the consumer group until its block ends; `on_accepted` is called when
    there may be new runs.
    """

    def __init__(
        self,
        *,
        subscribe: Callable[[], AbstractAsyncContextManager[RequestStream]],
        reader: RequestReader,
        runs: RunIntake,
        letters: DeadLetters,
        pulse: Pulse,
        servers: Servers,
        on_accepted: Callable[[], None],
        metrics: IntakeMetrics | None = None,
    ) -> None:
        self._subscribe = subscribe
        self._reader = reader
        self._runs = runs
        self._letters = letters
        self._clock = servers.kafka.clock
        self._pulse = pulse
        self._servers = servers
        self._on_accepted = on_accepted
        self._metrics = metrics or IntakeMetrics(Metrics(), topic="")

    async def run(self, stop: asyncio.Event) -> None:
        """
        Take requests until `stop` is set. Waits if the topic is deleted meanwhile.

        Raises errors that waiting can't fix, such as AccessDenied, and TopicMissing if there is no topic at the start.
        """
        joined = False
        while not stop.is_set():
            self._pulse.beat()
            try:
                async with self._subscribe() as stream:
                    joined = True
                    self._servers.kafka.back(by=_ME)
                    log.info("taking requests")
                    await self._take(stream, stop)
            except (TransientError, TopicMissing) as error:
                if isinstance(error, TopicMissing) and not joined:
                    raise
                # Nothing is lost: the next subscription starts at the committed offsets.
                self._servers.kafka.away(error, by=_ME)
                self._metrics.lags(None)
                await first_of(stop, seconds=_PAUSE_SECONDS)
        self._pulse.stop()

    async def _take(self, stream: RequestStream, stop: asyncio.Event) -> None:
        checked_at, stalls = self._clock.monotonic(), 0
        checking: asyncio.Task[int] | None = None
        try:
            while not stop.is_set():
                records = await unless_stopped(stream.poll(), stop)
                self._pulse.beat()
                if records:
                    for batch in _batches(records):
                        await self._settle(batch, stop)
                    self._pulse.moving()
                    stalls = 0
                await stream.commit()
                if checking is None and self._clock.monotonic() - checked_at >= _LAG_SECONDS:
                    # In a task, as the brokers answer it only after the fetch that waits for records.
                    checking = asyncio.create_task(stream.lag())
                if checking is not None and checking.done():
                    left, checking, checked_at = checking.result(), None, self._clock.monotonic()
                    self._metrics.lags(left)
                    stalls = stalls + 1 if left else 0
                    if not left:
                        self._pulse.moving()
                    elif stalls > _MOST_STALLS:
                        log.error("the consumer gets no records although there are some; rejoining the group", lag=left)
                        self._pulse.stuck(f"the consumer gets no records although there are {left}")
                        return
        except Stopped:
            return  # unsettled records stay uncommitted
        finally:
            if checking is not None:
                give_up(checking)

    async def _settle(self, records: Sequence[Record], stop: asyncio.Event) -> None:
        """Write these records' runs and dead letters, with retries until `stop` is set. Raises Stopped."""
        taken = [self._reader.read(record) for record in records]
        try:
            good = [(one, one.incoming) for one in taken if one.incoming is not None]
            if good:
                accept = partial(self._runs.accept_all, [incoming for _, incoming in good])
                runs = await self._ask(self._servers.history, accept, stop)
                for (one, incoming), run in zip(good, runs, strict=True):
                    if isinstance(run, RequestError):
                        one.error = run
                    else:
                        one.result = "accepted" if run.span_id == incoming.span_id else "repeated"
                self._on_accepted()
            letters = [self._letters.letter(one.record, one.error) for one in taken if one.error is not None]
            if letters:
                await self._store(letters, stop)
            for result, messages in Counter(one.result for one in taken).items():
                self._metrics.settled(result, messages)
        finally:
            for one in taken:
                if one.error is not None:
                    one.span.set_attribute("error.type", one.error.kind)
                    one.span.set_status(Status(StatusCode.ERROR, one.error.kind))
                one.span.end()

    async def _store(self, letters: Sequence[Outgoing], stop: asyncio.Event) -> None:
        refused = await self._ask(self._servers.kafka, partial(self._letters.send, letters), stop)
        if refused:
            await self._ask(self._servers.history, partial(self._letters.keep, refused), stop)

    async def _ask(self, server: Server, call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Call until the server answers. Raises Stopped if `stop` is set first."""
        is_asked = False

        def beating() -> Awaitable[T]:
            nonlocal is_asked
            self._pulse.beat()
            if is_asked:
                self._metrics.lags(None)  # it grows, and isn't looked up meanwhile
            is_asked = True
            return call()

        return await server.ask(beating, by=_ME, stop=stop)


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Split records into batches of at most `_BATCH_BYTES`, in order. A larger record is a batch of one."""
    start = size = 0
    for number, record in enumerate(records):
        if number > start and size + record.size > _BATCH_BYTES:
            yield records[start:number]
            start, size = number, 0
        size += record.size
    yield records[start:]
