"""What a text column can't hold: Postgres takes neither NUL nor half of a surrogate pair."""

from collections.abc import Iterator
from typing import Any

import orjson

from pipeline_processing.errors import InvalidRequest
from pipeline_processing.model import JobRequest, MultipartUpload, Plan, RunFailure, Staged, StagedFile, StagedTable

_LONGEST_MESSAGE = 8000
"""In characters. An error quotes what it was about, and the event that tells of it must fit into one message."""


def storable_request(request: JobRequest) -> JobRequest:
    """The request. Raises InvalidRequest if it can't be stored: it would stop the intake for good."""
    values = request.model_dump(mode="json")
    try:
        # A look at the whole is quick, and nearly all there ever is to do; it also finds what only looks like a NUL.
        usable = b"\\u0000" not in orjson.dumps(values) or not any("\0" in text for text in _texts(values))
    except orjson.JSONEncodeError:
        usable = False  # half of a surrogate pair
    if not usable:
        raise InvalidRequest("The request holds a NUL character, or text that isn't Unicode. Remove it.")
    return request


def storable_tracestate(tracestate: str | None) -> str | None:
    """The tracestate, or none if it can't be stored: as W3C has it, a broken one is dropped and never an error."""
    usable = tracestate is not None and "\0" not in tracestate and _encodable(tracestate)
    return tracestate if usable else None


def storable_failure(failure: RunFailure) -> RunFailure:
    """The failure with a message that can be stored: else the run could never fail."""
    message = failure.message.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="backslashreplace").decode()
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 2]} …"
    return failure.model_copy(update={"message": message})


def planned_uploads(plan: Plan) -> tuple[list[str], list[str]]:
    """Keys and handles of the uploads that a plan names."""
    named = [(artifact.key, _handle(artifact.staged)) for artifact in plan.artifacts]
    uploads = [(key, handle) for key, handle in named if handle is not None]
    return [key for key, _ in uploads], [handle for _, handle in uploads]


def _handle(staged: Staged) -> str | None:
    match staged:
        case MultipartUpload():
            return staged.upload_id
        case StagedFile():
            return staged.path
        case StagedTable():
            return staged.table
    return None  # it stands in the plan itself


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list():
            for item in value:
                yield from _texts(item)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
