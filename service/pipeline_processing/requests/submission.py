"""Send requests, each in its own trace."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import InvalidRequest, MessageRefused
from pipeline_processing.messaging.port import Events, Outgoing
from pipeline_processing.model import JobRequest
from pipeline_processing.requests.job_messages import request_message

BATCH = 500
"""Number of requests that are sent and reported together."""

_SECONDS = 5.0
"""How long to retry if the brokers can't be reached: a person is waiting."""
_BACKOFF = Backoff.constant(0.5)
_PROPAGATOR = TraceContextTextMapPropagator()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that the brokers have stored."""

    request: JobRequest
    run_id: str
    traceparent: str
    """Distinguishes this message from others with the same run id."""


async def ask_brokers(call: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """Call the brokers, with retries for a few seconds. Raises KafkaUnavailable if they can't be reached."""
    return await ask(call, clock=clock, backoff=_BACKOFF, within=_SECONDS)


class Submitter:
    """Sends requests with run ids, which make it safe to send one again."""

    def __init__(self, *, events: Events, topic: str, clock: Clock, tracer: Tracer) -> None:
        self._events = events
        self._topic = topic
        self._clock = clock
        self._tracer = tracer

    async def send(self, requests: Sequence[JobRequest]) -> AsyncIterator[list[Sent]]:
        """
        Send requests in order, and yield each batch once it is stored.

        After an error, some requests of the next batch may have been sent. Raises InvalidRequest if the broker refuses
        a request for good; the rest of its batch is sent.
        """
        for start in range(0, len(requests), BATCH):
            yield await self._send(requests[start : start + BATCH])

    async def _send(self, requests: Sequence[JobRequest]) -> list[Sent]:
        spans = [self._span(request) for request in requests]
        try:
            sent, messages = self._prepared(requests, spans)
            await ask_brokers(partial(self._events.send, messages), clock=self._clock)
        except MessageRefused as error:
            self._failed(spans, error)
            raise InvalidRequest(str(error)) from error
        except Exception as error:
            self._failed(spans, error)
            raise
        else:
            return sent
        finally:
            for span in spans:
                span.end()

    def _span(self, request: JobRequest) -> Span:
        span = self._tracer.start_span("submit", kind=SpanKind.PRODUCER)
        span.set_attributes({"run_id": str(request.run_id), "agency_id": request.agency_id})
        return span

    def _prepared(self, requests: Sequence[JobRequest], spans: Sequence[Span]) -> tuple[list[Sent], list[Outgoing]]:
        sent, messages = [], []
        for request, span in zip(requests, spans, strict=True):
            assert request.run_id is not None
            headers: dict[str, str] = {}
            _PROPAGATOR.inject(headers, trace.set_span_in_context(span))
            sent.append(Sent(request=request, run_id=request.run_id, traceparent=headers["traceparent"]))
            messages.append(request_message(request, topic=self._topic, now=self._clock.now(), trace_headers=headers))
        return sent, messages

    @staticmethod
    def _failed(spans: Sequence[Span], error: Exception) -> None:
        for span in spans:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
