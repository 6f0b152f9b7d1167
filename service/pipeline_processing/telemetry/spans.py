"""
Spans that cost little to record: a run of a hundred rows takes a few milliseconds, and has a dozen of them.

The SDK's own spans take ten times as long. They guard against any use; these are used by this service, and by steps
that find one with `get_current_span()`. `child` and `child_span` make spans below the current one, without a tracer
at hand.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from pipeline_processing.errors import PipelineError

_LOCAL = False
_UNSET = Status(StatusCode.UNSET)
_MOST = 128
"""Attributes, and events, that a span may have. OpenTelemetry's default; only steps of users could add more."""


class OnEnd(Protocol):
    """Takes spans that have ended."""

    def __call__(self, span: "RecordedSpan") -> None: ...


class RecordedSpan(Span):
    """A span that is exported when it has ended. Attributes, events and links aren't masked yet."""

    def __init__(
        self,
        name: str,
        *,
        context: SpanContext,
        parent: SpanContext | None,
        on_end: OnEnd,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
    ) -> None:
        """Times are in nanoseconds since 1970."""
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.attributes: dict[str, AttributeValue] = dict(attributes) if attributes else {}
        self.events: list[tuple[str, Attributes, int]] = []
        self.links = list(links or ())
        self.status = _UNSET
        self.start_time = time.time_ns() if start_time is None else start_time
        self.end_time: int | None = None
        self._on_end = on_end

    def child(self, name: str, **given: Any) -> "RecordedSpan":
        """Start a span below this one. `given` are further arguments of its constructor."""
        parent = self.context
        context = SpanContext(parent.trace_id, random_id(64), _LOCAL, parent.trace_flags, parent.trace_state)
        return RecordedSpan(name, context=context, parent=parent, on_end=self._on_end, **given)

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_time is None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if self.end_time is None and len(self.attributes) < _MOST:
            self.attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if self.end_time is None and len(self.events) < _MOST:
            # A copy: the caller may use the dict again.
            self.events.append((name, dict(attributes or {}), time.time_ns() if timestamp is None else timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if self.end_time is None and len(self.links) < _MOST:
            self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.end_time is None and self.status.status_code is not StatusCode.OK:
            self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event without the traceback, which is in the log."""
        said: dict[str, Any] = {"exception.type": type(exception).__qualname__, "exception.message": str(exception)}
        self.add_event("exception", said | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_time is None:
            self.end_time = time.time_ns() if end_time is None else end_time
            self._on_end(self)


def fail(span: Span, error: BaseException) -> None:
    """Record the error that ends a span: its kind, or the name of another exception's class."""
    kind = error.kind if isinstance(error, PipelineError) else type(error).__name__
    span.record_exception(error)
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, kind))


def child(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
    start_time: int | None = None,
) -> Span:
    """Start a span below the current one, which the caller ends. Where nothing is recorded, it records nothing."""
    current = trace.get_current_span()
    if not isinstance(current, RecordedSpan):
        return trace.INVALID_SPAN
    return current.child(name, kind=kind, attributes=attributes, start_time=start_time)


@contextmanager
def child_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
) -> Iterator[Span]:
    """
    Make a span below the current one the current one inside the block. It ends with the block.

    It has failed if the block raises an error that isn't `expected`.
    """
    span = child(name, kind=kind, attributes=attributes)
    if isinstance(span, RecordedSpan):
        with current_span(span, expected=expected):
            yield span
    else:
        yield span


@contextmanager
def current_span(
    span: RecordedSpan, *, expected: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[RecordedSpan]:
    """Make this span the current one inside the block. See `child_span`."""
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield span
    except Exception as error:
        if not isinstance(error, expected):
            fail(span, error)
        raise
    finally:
        contexts.detach(token)
        span.end()


def random_id(bits: int) -> int:
    """Return an id for a trace (128 bits) or a span (64)."""
    return random.getrandbits(bits) or 1
