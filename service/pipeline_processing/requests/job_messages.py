"""Parse and build the messages of the requests topic."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import TypeAdapter, ValidationError

from pipeline_processing.errors import InvalidEvent, InvalidJson, InvalidRequest, RequestTooLarge
from pipeline_processing.messaging.cloud_events import first_bytes, is_event, opened, parse_json
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import JobRequest, RunId
from pipeline_processing.options.validation import faults_of
from pipeline_processing.runs.completions import cloud_event_headers

MAX_REQUEST_BYTES = 256 * 1024
"""Limit of a message's value. Real requests need a hundredth of it at most."""

REQUEST_TYPE = "agency.run.requested"
"""CloudEvents type of requests sent by this service. Other senders may use their own."""

_RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)
_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Received:
    """A request parsed from a message."""

    request: JobRequest
    run_id: str
    """The request's run id, or one derived from the message, so that a repeated message makes no second run."""
    parent: Context
    """The trace to continue; empty if the message has none."""

    @property
    def tracestate(self) -> str | None:
        """W3C `tracestate` of the message, if any."""
        return trace.get_current_span(self.parent).get_span_context().trace_state.to_header() or None


def received(record: Record) -> Received:
    """
    Parse a request: bare JSON, or a CloudEvent in binary or structured mode.

    Raises InvalidJson, InvalidEvent, InvalidRequest or RequestTooLarge.
    """
    if record.value is None:
        raise InvalidJson('The message has no value. Send a request as JSON, such as {"agency_id": 123}.')
    if len(record.value) > MAX_REQUEST_BYTES:
        raise RequestTooLarge(len(record.value), limit=MAX_REQUEST_BYTES)
    envelope = opened(record)
    if not envelope.has_data:
        raise InvalidEvent(
            "The content type says that this is a CloudEvent in structured mode, and its `data` is missing. Put the "
            "request there, or send it bare, without that content type."
        )
    event = envelope.cloud_event()
    data = json.dumps(envelope.data).encode() if envelope.structured else record.value
    request = parse_request(data)
    return Received(
        request=request,
        run_id=request.run_id or (event.run_id if event is not None else run_id_of_place(record)),
        parent=_PROPAGATOR.extract(dict(envelope.trace), Context()),
    )


def parse_request(value: bytes) -> JobRequest:
    """Parse a request's JSON. Raises InvalidJson, or InvalidRequest with all faults."""
    try:
        return JobRequest.model_validate_json(value)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise InvalidJson(f"The value isn't JSON: {'; '.join(faults_of(error))}.{first_bytes(value)}") from None
        raise InvalidRequest(f"The request isn't valid: {'; '.join(faults_of(error))}.") from None


def run_id_of_place(record: Record) -> str:
    """Derive the run id of a message without an identity. It includes the time, because topics may be recreated."""
    place = f"{record.topic}-{record.partition}-{record.offset}-{record.timestamp_ms}"
    try:
        return _RUN_ID.validate_python(place)
    except ValidationError:  # the topic's name is too long, or has characters that a run id can't have
        return "topic-" + hashlib.sha256(place.encode()).hexdigest()[:32]


def request_message(request: JobRequest, *, topic: str, now: datetime, trace_headers: Mapping[str, str]) -> Outgoing:
    """Build a CloudEvent in binary mode. The request must have a run id, which is the event's id, too."""
    assert request.run_id is not None
    headers = {**cloud_event_headers(request.run_id, type_=REQUEST_TYPE, at=now), **trace_headers}
    return Outgoing(
        topic=topic,
        key=str(request.agency_id).encode(),
        value=request.model_dump_json(exclude_defaults=True).encode(),
        headers=tuple((name, text.encode()) for name, text in headers.items()),
    )


def resent(record: Record, *, topic: str) -> Outgoing:
    """Return the message for sending again. It requests the same run, wherever it is stored in the topic."""
    unnamed = _unnamed(record)
    value = record.value if unnamed is None else json.dumps(unnamed | {"run_id": run_id_of_place(record)}).encode()
    return Outgoing(topic=topic, key=record.key, value=value, headers=record.headers)


def is_named_by_its_place(record: Record) -> bool:
    """Return whether the message's run id is derived from its place and time."""
    return _unnamed(record) is not None


def _unnamed(record: Record) -> dict[str, Any] | None:
    """Return a bare request without a run id, or None for any other or unreadable message."""
    if record.value is None or is_event(record):
        return None
    try:
        request = parse_json(record.value)
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) and request.get("run_id") is None else None
