"""Send the events of finished runs to Kafka, with retries until the broker has stored them."""

import asyncio
from collections.abc import Sequence

from opentelemetry.trace import Span, SpanKind, Tracer

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import first_of
from pipeline_processing.errors import KafkaUnavailable, MessageRefused, TransientError
from pipeline_processing.messaging.port import Events, Outgoing
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.store import RunOutbox
from pipeline_processing.telemetry.health import Pulse, Servers
from pipeline_processing.telemetry.spans import fail
from pipeline_processing.telemetry.tracing import parent_context

_BATCH = 200
_POLL_SECONDS = 1.0
"""Longest delay of events of runs that finished elsewhere (`run`, `cancel`, a dead worker)."""
_GATHER_SECONDS = 0.01
"""Pause after a batch. Under load the next one then has several events; an event after a quiet moment isn't delayed."""
_REFUSED_SECONDS = 30.0
"""Pause while Kafka refuses an event. It is long because each try resends the other events of the batch."""
_LAST_SECONDS = 5.0
_KAFKA_BACK_SECONDS = 60.0
_ME = "outbox"


class Outbox:
    """Sends completion events. Several processes may do so at once, each with different events."""

    def __init__(
        self,
        *,
        runs: RunOutbox,
        events: Events,
        topic: str,
        clock: Clock,
        pulse: Pulse,
        servers: Servers,
        tracer: Tracer,
    ) -> None:
        self._runs = runs
        self._events = events
        self._topic = topic
        self._clock = clock
        self._pulse = pulse
        self._servers = servers
        self._tracer = tracer
        self._woken = asyncio.Event()
        self._failed_at = 0.0
        self._refused = False

    def wake(self) -> None:
        """Check for unsent events at once."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send events until `stop` is set, then send the rest for a few seconds at most."""
        while not stop.is_set():
            self._pulse.beat()
            self._woken.clear()
            sent = await self._send_some()
            if 0 < sent < _BATCH:
                await self._clock.sleep(_GATHER_SECONDS)
            if sent < _BATCH:
                await first_of(stop, self._woken, seconds=_POLL_SECONDS)
            if self._refused:
                await first_of(stop, seconds=_REFUSED_SECONDS)
        self._pulse.stop()
        stopped_at = self._clock.monotonic()
        while await self._send_some() == _BATCH and self._clock.monotonic() - stopped_at < _LAST_SECONDS:
            pass

    async def _send_some(self) -> int:
        try:
            sent = await self._runs.announce(self._send, limit=_BATCH)
        except (TransientError, MessageRefused) as error:
            # Retry refused events, too: every run gets its event once a person has corrected the topic.
            self._refused = isinstance(error, MessageRefused)
            of_kafka = self._refused or isinstance(error, KafkaUnavailable)
            (self._servers.kafka if of_kafka else self._servers.history).away(error, by=_ME)
            self._failed_at = self._clock.monotonic()
            return 0
        self._refused = False
        self._servers.history.back(by=_ME)
        # An empty outbox doesn't show that Kafka is back: another process may have sent the events, or be sending them.
        if sent or self._clock.monotonic() - self._failed_at > _KAFKA_BACK_SECONDS:
            self._servers.kafka.back(by=_ME)
        return sent

    async def _send(self, events: Sequence[OutboxEvent]) -> None:
        spans = [self._span(event) for event in events]
        try:
            await self._events.send([self._message(event) for event in events])
        except Exception as error:
            for span in spans:
                fail(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    def _span(self, event: OutboxEvent) -> Span:
        """Start a span in the trace that the event carries on."""
        _, trace_id, span_id, _ = event.headers["traceparent"].split("-")  # `accept` stores both with every run
        return self._tracer.start_span(
            "send event",
            context=parent_context(trace_id, span_id),
            kind=SpanKind.PRODUCER,
            attributes={
                "run_id": event.run_id,
                "messaging.system": "kafka",
                "messaging.operation.type": "send",
                "messaging.destination.name": self._topic,
                "messaging.message.id": event.event_id,
            },
        )

    def _message(self, event: OutboxEvent) -> Outgoing:
        return Outgoing(
            topic=self._topic,
            key=event.key.encode(),
            value=event.value,
            headers=tuple((name, text.encode()) for name, text in event.headers.items()),
        )
