"""
The AsyncAPI 3 document: the topics, messages and headers that other services use on Kafka.

Operations are from this service's point of view: it receives requests and sends all other messages.
"""

from typing import Any

from pipeline_processing.options.json_schema import RFC_3339, PublishedModel, shared_schemas
from pipeline_processing.published.client_schemas import client_schemas
from pipeline_processing.published.examples import examples
from pipeline_processing.runs.completions import SOURCE
from pipeline_processing.settings.settings import KafkaSettings

API_VERSION = "1.1.0"
"""Version of the messages, not of the package. Raise it with each change of the document."""

DEAD_LETTER_REASONS = {
    "invalid_json": "the value isn't JSON",
    "invalid_request": "the value breaks the schema of a request, or has a `since`, `until` or param that nothing uses",
    "invalid_event": "the CloudEvents attributes are incomplete or wrong, or a trigger can't use the event",
    "unknown_job": "the request names a job that this service doesn't run",
    "unknown_dataset": "the request names a dataset that the job config doesn't have",
    "conflicting_request": "the run id was used before, with a different request",
    "too_large": "the message is larger than the service takes",
}

_SCHEMAS = "#/components/schemas"

_CLOUD_EVENT: dict[str, dict[str, Any]] = {
    "specversion": {"type": "string", "const": "1.0", "description": "Version of CloudEvents."},
    "id": {"type": "string", "minLength": 1, "description": "With the source, it names the event for good."},
    "source": {
        "type": "string",
        "format": "uri-reference",
        "minLength": 1,
        "description": "Where the event comes from.",
    },
    "type": {"type": "string", "minLength": 1, "description": "What has happened."},
    "time": {
        "type": "string",
        "format": "date-time",
        "pattern": RFC_3339,
        "description": "When it happened.",
    },
}
"""The CloudEvents 1.0 attributes in use. The first four are required by the specification."""

_TRACE = {
    "traceparent": {
        "type": "string",
        "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "W3C Trace Context; carried from the request through to the events of its run.",
    },
    "tracestate": {"type": "string", "description": "W3C Trace Context: vendors' own part."},
}

_AGENCY_KEY = {
    "kafka": {
        "key": {
            "type": "string",
            "minLength": 1,
            "description": "The agency's id in decimal digits, or its UUID or text.",
        },
        "bindingVersion": "0.5.0",
    }
}


def document(request: PublishedModel, completion: PublishedModel, progress: PublishedModel) -> dict[str, Any]:
    """Return the complete, self-contained document."""
    topics = KafkaSettings()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "pipeline-processing",
            "version": API_VERSION,
            "description": (
                "Exports one agency's data on request. Messages are JSON, as CloudEvents 1.0 in binary mode: "
                "the value is the data, the attributes are `ce_` headers. "
                "Topics have their default names here; the settings PIPELINE_KAFKA__…_TOPIC give them others."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(topics),
        "channels": {
            "requests": _channel(
                topics.requests_topic, "Requests for agencies' data.", "jobRequest", "jobRequestStructured"
            ),
            "completions": _channel(
                topics.completions_topic,
                "One event per finished run, with the same id and content however often it is sent.",
                *_COMPLETIONS,
            ),
            "progress": _channel(
                topics.progress_topic, "How far runs are: at most one event a second per run.", "runProgress"
            ),
            "deadLetters": _channel(topics.dead_letters_topic, "Requests that can't be used, and why.", "deadLetter"),
        },
        "operations": {
            "receiveRequest": _operation("receive", "requests", "Take a request.", "jobRequest"),
            "receiveStructuredRequest": _operation(
                "receive", "requests", "Take a request in a CloudEvent's envelope.", "jobRequestStructured"
            ),
            **{
                f"send{message[0].upper()}{message[1:]}": _operation(
                    "send", "completions", f"Announce that a run has {_ENDS[state]}.", message
                )
                for message, state in _COMPLETIONS.items()
            },
            "sendRunProgress": _operation("send", "progress", "Tell how far a run is.", "runProgress"),
            "sendDeadLetter": _operation(
                "send", "deadLetters", "Put aside a request that can't be used.", "deadLetter"
            ),
        },
        "components": {
            "messages": _messages(),
            "schemas": client_schemas(
                shared_schemas((request, completion, progress), ref_template=_SCHEMAS + "/{model}")
            )
            | {"CloudEventJobRequest": _structured_request()},
            "securitySchemes": {
                "scram": {"type": "scramSha512", "description": "Or `plain` or `scramSha256`, as the brokers ask for."},
            },
        },
    }


def _servers(kafka: KafkaSettings) -> dict[str, Any]:
    brokers = {
        "brokers": {
            "default": ",".join(kafka.bootstrap_servers),
            "description": "PIPELINE_KAFKA__BOOTSTRAP_SERVERS of the installation.",
        }
    }
    return {
        "kafka": {
            "host": "{brokers}",
            "protocol": "kafka",
            "description": "Without TLS: the default of PIPELINE_KAFKA__SECURITY_PROTOCOL.",
            "variables": brokers,
        },
        "kafkaSecure": {
            "host": "{brokers}",
            "protocol": "kafka-secure",
            "description": "With TLS, and a user name and password.",
            "variables": brokers,
            "security": [{"$ref": "#/components/securitySchemes/scram"}],
        },
    }


def _channel(topic: str, description: str, *messages: str) -> dict[str, Any]:
    return {
        "address": topic,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
    }


def _operation(action: str, channel: str, summary: str, message: str) -> dict[str, Any]:
    """Describe an operation of one message. Of several, generators make a union that Jackson can't take apart."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


# -- messages ------------------------------------------------------------------------------------

_COMPLETIONS = {"runSucceeded": "succeeded", "runFailed": "failed", "runCancelled": "cancelled"}
"""Message → the run state it reports."""
_ENDS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled"}


def _messages() -> dict[str, Any]:
    shown = examples()
    return {name: {**message, "examples": shown[name]} for name, message in _described().items()}


def _described() -> dict[str, dict[str, Any]]:
    return {
        "jobRequest": {
            "title": "Job request",
            "summary": "One agency's data, please.",
            "description": (
                "The CloudEvents headers may be absent; where there is one, the required four must be there. "
                "A request without `run_id` gets one made of `ce_source` and `ce_id`, or else of the message's "
                "own place and time, so that the same message never makes a second run."
            ),
            "contentType": "application/json",
            "headers": _headers(event_type=None, required=False),
            "payload": {"$ref": f"{_SCHEMAS}/JobRequest"},
            "bindings": _AGENCY_KEY,
        },
        "jobRequestStructured": {
            "title": "Job request, structured",
            "summary": "The same, as a CloudEvent in structured mode.",
            "contentType": "application/cloudevents+json",
            "headers": {
                "type": "object",
                "properties": {
                    "content-type": {"type": "string", "pattern": r"^application/cloudevents\+json"},
                    **_TRACE,
                },
                "required": ["content-type"],
            },
            "payload": {"$ref": f"{_SCHEMAS}/CloudEventJobRequest"},
            "bindings": _AGENCY_KEY,
        },
        **{message: _completion(state) for message, state in _COMPLETIONS.items()},
        "runProgress": {
            "title": "Run progress",
            "summary": "How far a run is.",
            "contentType": "application/json",
            "headers": _headers(event_type="agency.run.progress", required=True),
            "payload": {"$ref": f"{_SCHEMAS}/RunProgress"},
            "bindings": _AGENCY_KEY,
        },
        "deadLetter": {
            "title": "Dead letter",
            "summary": "A request that can't be used: its key, value and headers untouched, and why.",
            "headers": _dead_letter_headers(),
            "payload": {
                "title": "DeadLetterValue",
                "description": "The bytes of the request as it came; they need not be JSON.",
            },
        },
    }


def _completion(state: str) -> dict[str, Any]:
    return {
        "title": f"Run {state}",
        "summary": {
            "succeeded": "The run's manifest is published; a dry run has none.",
            "failed": "The run has ended with an error, and has no manifest.",
            "cancelled": "The run was stopped on request, and has no manifest.",
        }[state],
        "contentType": "application/json",
        "headers": _headers(event_type=f"agency.run.{state}", required=True),
        "payload": {"$ref": f"{_SCHEMAS}/RunCompletion"},
        "bindings": _AGENCY_KEY,
    }


def _headers(*, event_type: str | None, required: bool) -> dict[str, Any]:
    """Return the header schema of an event in binary mode. Without `event_type`, type and source are the sender's."""
    event = {f"ce_{name}": dict(schema) for name, schema in _CLOUD_EVENT.items()}
    if event_type is not None:
        event["ce_type"]["const"] = event_type
        event["ce_source"]["const"] = SOURCE
    headers = {
        "type": "object",
        "properties": {
            **event,
            "content-type": {"type": "string", "description": "Media type of the value."},
            **_TRACE,
        },
    }
    names = ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"]
    return {**headers, "required": names} if required else headers


def _structured_request() -> dict[str, Any]:
    return {
        "title": "CloudEventJobRequest",
        "description": "A job request in the envelope of CloudEvents' structured mode.",
        "type": "object",
        "properties": {
            **_CLOUD_EVENT,
            "datacontenttype": {"type": "string", "description": "Media type of `data`: JSON."},
            "data": {"$ref": f"{_SCHEMAS}/JobRequest"},
        },
        "required": ["specversion", "id", "source", "type", "data"],
    }


def _dead_letter_headers() -> dict[str, Any]:
    reasons = "; ".join(f"`{reason}`: {meaning}" for reason, meaning in DEAD_LETTER_REASONS.items())
    added: dict[str, dict[str, Any]] = {
        "dlq_reason": {"enum": list(DEAD_LETTER_REASONS), "description": f"Why. {reasons}."},
        "dlq_message": {"description": "What is wrong and how to mend it, for people."},
        "dlq_topic": {"description": "Topic that the request came from."},
        "dlq_partition": {"pattern": "^[0-9]+$", "description": "Its partition."},
        "dlq_offset": {"pattern": "^[0-9]+$", "description": "Its offset."},
        "dlq_at": {"format": "date-time", "pattern": RFC_3339, "description": "When it was put aside."},
        "dlq_timestamp": {"pattern": "^-?[0-9]+$", "description": "The request's own time, in ms since 1970."},
    }
    optional: dict[str, dict[str, Any]] = {
        "dlq_key": {
            "enum": ["null", "left out"],
            "description": "Only if the key isn't the request's, but its partition and offset: it had none, or it "
            "was too long to be kept.",
        },
    }
    return {
        "type": "object",
        "description": "Besides these, every header of the request.",
        "properties": {name: {"type": "string", **schema} for name, schema in (added | optional).items()},
        "required": list(added),
    }
