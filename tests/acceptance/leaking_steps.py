"""Functions for `python:` steps that leak secrets in every possible way. `LEAKED` is a JSON list of the secrets."""

from __future__ import annotations

import html
import json
import logging
import os
import threading
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import structlog
from opentelemetry import trace

Rows = list[dict[str, Any]]

log = structlog.get_logger(__name__)


def forms(secret: str) -> list[str]:
    """Return the forms in which text may contain a secret; a short one has only one form."""
    if len(secret) < 8:
        return [secret, f"'{secret}'", f"/x%3A{quote(secret)}"]
    basic = b64encode(f"somebody:{secret}".encode()).decode()
    return [secret, quote(secret, safe=""), json.dumps(secret), repr(secret), ascii(secret), html.escape(secret), basic]


def secrets() -> list[str]:
    return [str(secret) for secret in json.loads(os.environ["LEAKED"])]


async def says_all(rows: Rows) -> Rows:
    """Leaks them in logs, in the run's span, in a thread's traceback, and in an exception with a cause and a note."""
    span = trace.get_current_span()
    for secret in secrets():
        for said in forms(secret):
            logging.getLogger(f"mine.{secret}").error("said %s", said, extra={"more": [said]})
            log.warning(f"said {said}", **{f"about {secret}": {said: (said,)}})
            span.set_attribute(f"said {said}", [said])
            span.add_event(f"said {said}", {"more": said})
    span.record_exception(raised())
    # Its traceback goes to stderr without a logger.
    thread = threading.Thread(target=raises)
    thread.start()
    thread.join()
    raise raised()


def rejects(rows: Rows) -> Rows:
    """Rejects every row, with one of the secrets as the reason."""
    (row,) = rows[:1]
    known = secrets()
    raise LookupError(known[row["id"] % len(known)])


def raises() -> None:
    raise raised()


def raised() -> Exception:
    said = " ".join(form for secret in secrets() for form in forms(secret))
    try:
        try:
            raise KeyError(said)
        except KeyError as cause:
            raise ValueError(said) from cause
    except ValueError as error:
        error.add_note(said)
        return error
