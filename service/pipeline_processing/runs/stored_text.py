"""Check and adapt text for Postgres, which stores neither NUL characters nor lone surrogates."""

import re

import orjson

from pipeline_processing.errors import InvalidRequest
from pipeline_processing.model import JobRequest, RunFailure

_LONGEST_MESSAGE = 8000
"""In characters. An error may quote a long value, and its event must fit into one message."""
_NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""Skips escaped backslashes, so that the text `\\u0000` doesn't match."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable_request(request: JobRequest) -> JobRequest:
    """Return the request. Raises InvalidRequest if it can't be stored, which would block the intake."""
    try:
        usable = _NUL_IN_JSON.search(orjson.dumps(request.model_dump(mode="json"))) is None
    except orjson.JSONEncodeError:
        usable = False  # a lone surrogate
    if not usable:
        raise InvalidRequest("The request holds a NUL character, or text that isn't Unicode. Remove it.")
    return request


def storable_tracestate(tracestate: str | None) -> str | None:
    """Return the tracestate, or None if it can't be stored. W3C says to drop an invalid tracestate silently."""
    return None if tracestate is None or _UNSTORABLE.search(tracestate) else tracestate


def storable_failure(failure: RunFailure) -> RunFailure:
    """Return the failure with a message that can be stored. Otherwise the run could never fail."""
    message = failure.message.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="backslashreplace").decode()
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 2]} …"
    return failure.model_copy(update={"message": message})
