"""Make the requests of closed windows, each in a span that links to the events behind it."""

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline_processing.aio.clock import Clock
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.requests.job_messages import request_message
from pipeline_processing.triggers.job_requests import links
from pipeline_processing.triggers.windows import Ask

log = get_logger(__name__)

_PROPAGATOR = TraceContextTextMapPropagator()


class RunRequester:
    """Makes requests. Sending one again makes no second run, since its run id and content stay the same."""

    def __init__(self, *, topic: str, tracer: Tracer, clock: Clock) -> None:
        self._topic = topic
        self._tracer = tracer
        self._clock = clock

    def messages(self, asks: Sequence[Ask]) -> list[Outgoing]:
        """Return the messages of these requests."""
        return [self._message(ask) for ask in asks]

    def _message(self, ask: Ask) -> Outgoing:
        request = ask.request
        span = self._tracer.start_span("trigger run", kind=SpanKind.PRODUCER, links=links(ask.traces))
        facts: dict[str, str | int] = {
            "trigger": ask.trigger,
            "run_id": request.run_id or "",
            "agency_id": request.agency_id,
            "events": ask.events,
        }
        span.set_attributes(facts)
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, trace.set_span_in_context(span))
        span.end()
        log.info("requesting a run", **facts)
        return request_message(request, topic=self._topic, now=self._clock.now(), trace_headers=headers)
