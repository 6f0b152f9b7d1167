"""
Logs: structlog and the standard library's `logging`, through one renderer, to stderr.

JSON lines have `timestamp`, `level`, `logger`, `event`, and the values bound by `bound_run`: `run_id`, `agency_id`,
`attempt`, `trace_id`. On a terminal, lines are human-readable. Every line is masked, including those of libraries and
user code.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from opentelemetry import trace

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.log import import_structlog
from pipeline_processing.telemetry.masking import Mask

if TYPE_CHECKING:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger
else:
    structlog = import_structlog()

# Their lines don't help an operator, and at DEBUG they show the headers of signed requests.
_QUIET_LIBRARIES = ("aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "urllib3")

# In an outage they log an ERROR ten times a second. This service gets the failures as exceptions, and logs them once.
# At level debug they may log at INFO, but never at DEBUG, where they show the bytes of every request, including the
# SASL password.
_LOUD_LIBRARIES = ("aiokafka", "faust", "kafka", "mode")

_FIRST = ("timestamp", "level", "logger", "event")
_LEVELS = ("debug", "info", "warning", "error", "critical")
_TIMESTAMP = re.compile(r"[0-9-]+T[0-9:.]+Z")


def configure_logs(*, json: bool, level: str, mask: Mask) -> None:
    """
    Send all logs of the process to stderr, masked: as JSON lines, or without `json` as human-readable text.

    `level` is one of the standard library's names, such as `info`. A later call replaces the configuration.
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
    handler = _Stderr(mask)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_context(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Before masking, as a traceback may contain a secret.
                structlog.processors.format_exc_info,
                Masked(mask),
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
    agency_id: AgencyId | None = None,
    attempt: int | None = None,
    trace_id: str | None = None,
) -> AbstractContextManager[None]:
    """Add the run's ids to every line that this task, and tasks it starts, log inside the block."""
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
    """Add the current span's trace id, unless one is bound."""
    if "trace_id" not in event:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


class Masked:
    """Masks everything in a line except level and timestamp, which a short secret may match by chance."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        plain = {key: value for key, value in event.items() if _is_plain(key, value)}
        masked = self._mask.value({key: value for key, value in event.items() if key not in plain})
        return {**plain, **masked}


def _is_plain(key: object, value: Any) -> bool:
    return (key == "level" and value in _LEVELS) or (key == "timestamp" and bool(_TIMESTAMP.fullmatch(str(value))))


class _Stderr(logging.StreamHandler[TextIO]):
    def __init__(self, mask: Mask) -> None:
        super().__init__(sys.stderr)
        self._mask = mask

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's own name
        """Report a line that can't be written, e.g. for wrong arguments. The library would print it unmasked."""
        error = sys.exception()
        said = f"a log line of {record.name} ({record.pathname}:{record.lineno}) can't be written: {error!r}"
        with suppress(OSError, ValueError):  # stderr is broken or closed
            self.stream.write(f"{self._mask.text(said)}\n")


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render an event as one line. Never raises, whatever the event contains, as a log line must not end a run."""
    ordered = {key: event[key] for key in _FIRST if key in event} | dict(event)
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # includes orjson's JSONEncodeError, for integers beyond 64 bits and lone surrogates
        return json.dumps({str(key): value for key, value in ordered.items()}, default=str, skipkeys=True)
