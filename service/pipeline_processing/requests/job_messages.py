"""Parse and build the messages of the requests topic."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from pipeline_processing.errors import InvalidEvent, InvalidJson, InvalidRequest, RequestTooLarge
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import JobRequest, RunId
from pipeline_processing.options.json_schema import RFC_3339
from pipeline_processing.options.validation import faults_of
from pipeline_processing.runs.completions import cloud_event_headers

MAX_REQUEST_BYTES = 256 * 1024
"""Limit of a message's value. Real requests need a hundredth of it at most."""

REQUEST_TYPE = "agency.run.requested"
"""CloudEvents type of requests sent by this service. Other senders may use their own."""

_STRUCTURED = "application/cloudevents"
_ATTRIBUTE = "ce_"
_RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)
_PROPAGATOR = TraceContextTextMapPropagator()

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class CloudEvent(BaseModel):
    """The CloudEvents 1.0 attributes in use. Others and extensions are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    specversion: Annotated[str, StringConstraints(pattern=r"^1\.0$")]
    id: NonEmpty
    source: NonEmpty
    type: NonEmpty
    time: Annotated[str, StringConstraints(pattern=RFC_3339)] | None = None

    @property
    def run_id(self) -> str:
        """A hash of source and id, which together identify an event."""
        return "ce-" + hashlib.sha256(f"{self.source}\0{self.id}".encode()).hexdigest()[:32]


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
    headers = _texts(record)
    if _is_structured(headers):
        attributes, data = _structured(record.value)
        event: CloudEvent | None = _cloud_event(attributes)
        carrier = {name: text for name, text in attributes.items() if isinstance(text, str)} | headers
    else:
        attributes = {
            name.removeprefix(_ATTRIBUTE): text for name, text in headers.items() if name.startswith(_ATTRIBUTE)
        }
        event = _cloud_event(attributes) if attributes else None
        data, carrier = record.value, attributes | headers
    request = parse_request(data)
    return Received(
        request=request,
        run_id=request.run_id or (event.run_id if event is not None else run_id_of_place(record)),
        parent=_PROPAGATOR.extract({name: carrier[name] for name in _PROPAGATOR.fields if name in carrier}, Context()),
    )


def parse_request(value: bytes) -> JobRequest:
    """Parse a request's JSON. Raises InvalidJson, or InvalidRequest with all faults."""
    try:
        return JobRequest.model_validate_json(value)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise InvalidJson(f"The value isn't JSON: {'; '.join(faults_of(error))}.") from None
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
    if record.value is None or _is_event(_texts(record)):
        return None
    try:
        request = _json(record.value)
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) and request.get("run_id") is None else None


def _is_event(headers: Mapping[str, str]) -> bool:
    return _is_structured(headers) or any(name.startswith(_ATTRIBUTE) for name in headers)


def _is_structured(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").strip().lower().startswith(_STRUCTURED)


def _texts(record: Record) -> dict[str, str]:
    """Return headers by lower-case name. The last duplicate wins; bytes that aren't UTF-8 are replaced."""
    return {name.lower(): value.decode(errors="replace") for name, value in record.headers if value is not None}


def _structured(value: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the attributes of a structured event, and its data as JSON."""
    try:
        envelope = _json(value)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The value isn't JSON: {error}.") from None
    if not isinstance(envelope, dict) or "data" not in envelope:
        raise InvalidEvent(
            "The content type says that this is a CloudEvent in structured mode, and the value isn't an object with "
            "`data`. Put the request there, or send it bare, without that content type."
        )
    data = envelope.pop("data")
    return envelope, json.dumps(data).encode()


def _json(value: bytes) -> Any:
    """
    Parse JSON. Raises ValueError or RecursionError.

    orjson would turn long integers into floats. The bytes are decoded first, because json would also accept UTF-16 and
    a byte-order mark, which bare requests may not have.
    """
    return json.loads(value.decode())


def _cloud_event(attributes: Mapping[str, Any]) -> CloudEvent:
    try:
        return CloudEvent.model_validate(dict(attributes))
    except ValidationError as error:
        raise InvalidEvent(
            f"The CloudEvents attributes aren't valid: {'; '.join(faults_of(error))}. Version 1.0 needs "
            "specversion, id, source and type; a bare request has none of them."
        ) from None
