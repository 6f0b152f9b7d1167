"""
Logs: structlog and the standard library's `logging` through one renderer, on stderr.

JSON, a line each, with `timestamp`, `level`, `logger`, `event`, and what `bound_run` has bound: `run_id`,
`agency_id`, `attempt`, `trace_id`. Or, for a terminal, the same for people. Secrets are kept away from logs
by `SecretStr`; the masks here are the last line of defence, for what libraries and tracebacks say.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from pipeline_processing.masking import MASK, mask_text, names_a_secret

# Their chatter is of no use to an operator, and at DEBUG it shows the headers of signed requests.
_QUIET_LIBRARIES = ("aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "urllib3")

# In an outage they say so at ERROR ten times a second, for as long as it lasts. The service says it once itself; what
# fails comes to it as an exception. What they alone know is told when the level is debug, but never all of it: at DEBUG
# they show the bytes of every request, and so the SASL password.
_LOUD_LIBRARIES = ("aiokafka", "kafka")

_FIRST = ("timestamp", "level", "logger", "event")


def configure_logs(*, json: bool, level: str) -> None:
    """
    Send all logs of the process to stderr: JSON lines, or, without `json`, text for people.

    `level` is a name of the standard library's, such as `info`. May be called again; the last call holds.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_context(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_context(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Before masking: a traceback is text in which a secret may stand.
                structlog.processors.format_exc_info,
                mask_secrets,
                render_json if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in _QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))
    for library in _LOUD_LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL if root.level > logging.DEBUG else logging.INFO)
    logging.captureWarnings(capture=True)


def bound_run(
    *,
    run_id: str | None = None,
    agency_id: int | None = None,
    attempt: int | None = None,
    trace_id: str | None = None,
) -> AbstractContextManager[None]:
    """Within the block, every line of this task and of those it starts says which run it is about."""
    given = {"run_id": run_id, "agency_id": agency_id, "attempt": attempt, "trace_id": trace_id}
    return structlog.contextvars.bound_contextvars(
        **{name: value for name, value in given.items() if value is not None}
    )


def _context() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace_id,
    ]


def add_trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The current span's trace id, unless one is bound."""
    if "trace_id" not in event:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask passwords in URLs and assignments, and the values of keys that are named like a secret."""
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: str, value: Any) -> Any:
    if value is not None and names_a_secret(key):
        return MASK
    match value:
        case str():
            return mask_text(value)
        case Mapping():
            return {inner: _masked(str(inner), item) for inner, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked("", item) for item in value]
        case None | bool() | int() | float():
            return value
        case _:
            return mask_text(str(value))


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One line. Whatever is in the event, it never raises: a log line must not end a run."""
    ordered = {key: event[key] for key in _FIRST if key in event} | dict(event)
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # orjson's JSONEncodeError too: integers beyond 64 bits, lone surrogates
        return json.dumps({str(key): value for key, value in ordered.items()}, default=str, skipkeys=True)
