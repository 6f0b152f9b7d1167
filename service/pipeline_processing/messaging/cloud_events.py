"""CloudEvents 1.0 on Kafka: messages in binary mode (`ce_*` headers) and in structured mode (a JSON envelope)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline_processing.errors import InvalidEvent, InvalidJson
from pipeline_processing.messaging.port import Record
from pipeline_processing.options.json_schema import RFC_3339
from pipeline_processing.options.validation import faults_of

TRACE_HEADERS = ("traceparent", "tracestate")
"""W3C Trace Context. CloudEvents' extension for distributed tracing has attributes with the same names."""

_STRUCTURED = "application/cloudevents"
_ATTRIBUTE = "ce_"

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
class Envelope:
    """A message, its CloudEvents attributes apart from its data."""

    attributes: Mapping[str, Any]
    """By name, unchecked; empty if the message isn't a CloudEvent."""
    headers: Mapping[str, str]
    """The message's headers as text, by lower-case name."""
    data: Any
    """Structured mode: the parsed `data`, None if missing. Otherwise: the message's value, as bytes."""
    structured: bool
    has_data: bool

    def cloud_event(self) -> CloudEvent | None:
        """Return the checked attributes, or None if the message isn't a CloudEvent. Raises InvalidEvent."""
        if not self.attributes and not self.structured:
            return None
        try:
            return CloudEvent.model_validate(dict(self.attributes))
        except ValidationError as error:
            raise InvalidEvent(
                f"The CloudEvents attributes aren't valid: {'; '.join(faults_of(error))}. Version 1.0 needs "
                "specversion, id, source and type; a bare message has none of them."
            ) from None

    @property
    def trace(self) -> Mapping[str, str]:
        """`traceparent` and `tracestate`, if any. A header counts before the attribute of that name."""
        carrier = {**self.attributes, **self.headers}
        return {name: carrier[name] for name in TRACE_HEADERS if isinstance(carrier.get(name), str)}


def opened(record: Record) -> Envelope:
    """
    Take attributes and data of a message apart. Parses JSON in structured mode only.

    Raises InvalidJson, or InvalidEvent for an envelope that isn't an object.
    """
    headers = texts(record)
    if is_structured(headers):
        attributes = _structured(record.value or b"")
        has_data = "data" in attributes
        data = attributes.pop("data", None)
        return Envelope(attributes=attributes, headers=headers, data=data, structured=True, has_data=has_data)
    attributes = {name.removeprefix(_ATTRIBUTE): text for name, text in headers.items() if name.startswith(_ATTRIBUTE)}
    has_data = record.value is not None
    return Envelope(attributes=attributes, headers=headers, data=record.value, structured=False, has_data=has_data)


def is_event(record: Record) -> bool:
    """Return whether the message claims to be a CloudEvent."""
    headers = texts(record)
    return is_structured(headers) or any(name.startswith(_ATTRIBUTE) for name in headers)


def is_structured(headers: Mapping[str, str]) -> bool:
    """Return whether headers, by lower-case name, announce a CloudEvent in structured mode."""
    return headers.get("content-type", "").strip().lower().startswith(_STRUCTURED)


def texts(record: Record) -> dict[str, str]:
    """Return headers by lower-case name. The last duplicate wins; bytes that aren't UTF-8 are replaced."""
    return {name.lower(): value.decode(errors="replace") for name, value in record.headers if value is not None}


def parse_json(value: bytes) -> Any:
    """
    Parse JSON. Raises ValueError or RecursionError.

    orjson would turn long integers into floats. The bytes are decoded first, because json would also accept UTF-16 and
    a byte-order mark, which bare requests may not have.
    """
    return json.loads(value.decode())


def first_bytes(value: bytes) -> str:
    """Return a sentence, with a space before it, on a value that another encoding than plain UTF-8 begins. Else ""."""
    if value.startswith((b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{\0", b"[\0", b"\0[\0")):
        return " Its first bytes are UTF-16. Send UTF-8."
    if value.startswith(b"\xef\xbb\xbf"):
        return " Its first bytes are a byte-order mark (EF BB BF). Send UTF-8 without one."
    if value.startswith(b"\0") and len(value) > 5:
        schema = int.from_bytes(value[1:5])
        return (
            f" Its first bytes are a schema registry's (00, then schema id {schema}). Send bare JSON, by a serializer "
            "that uses no registry."
        )
    return ""


def _structured(value: bytes) -> dict[str, Any]:
    try:
        envelope = parse_json(value)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The value isn't JSON: {error}.{first_bytes(value)}") from None
    if not isinstance(envelope, dict):
        raise InvalidEvent(
            "The content type says that this is a CloudEvent in structured mode, and the value isn't an object. Send "
            "an object with the attributes and `data`, or leave out that content type."
        )
    return envelope
