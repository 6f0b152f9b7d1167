"""Ends a process whose shutdown hangs."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from pipeline_processing.errors import PipelineError
from pipeline_processing.log import get_logger

log = get_logger(__name__)

_LOG_SECONDS = 0.3
_GRACE_SECONDS = 1.5
"""Extra time to close everything after the drain time."""


class Cutoff:
    """
    Inside the block, ends the process when its time to stop is over, even if a server, a thread, a trace exporter or
    the event loop hangs. The exit code is 0 if the process was told to stop.

    Nothing is lost that a SIGKILL wouldn't lose.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._ends_at = float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def within(self, seconds: float, *, after: PipelineError | None = None) -> None:
        """
        End the process this many seconds from now, with the exit code of the error `after` which it ends. If called
        several times, the earliest end counts.
        """
        ends_at = time.monotonic() + seconds
        if ends_at >= self._ends_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._ends_at = ends_at
        self._timer = threading.Timer(seconds, _end, (after,))
        self._timer.daemon = True
        self._timer.start()


def _end(after: PipelineError | None) -> None:
    # Log in another thread, because logging may be what hangs.
    message = "shutdown took longer than PIPELINE_WORKER__DRAIN_SECONDS; ending the process now"
    if after is not None:
        message = f"the process hangs after an error; ending it now: {after}"
    logging = threading.Thread(target=log.warning, args=(message,), daemon=True)
    logging.start()
    logging.join(_LOG_SECONDS)
    os._exit(0 if after is None else after.exit_code)


@contextmanager
def stopped_by_signals(events: Sequence[asyncio.Event], cutoff: Cutoff, *, limits: Sequence[float]) -> Iterator[None]:
    """
    Each SIGTERM or SIGINT sets the next of the events, and limits the time until the process ends, in seconds.

    Further signals do nothing.
    """
    left = list(zip(events, limits, strict=True))

    def on_signal() -> None:
        if left:
            event, seconds = left.pop(0)
            event.set()
            cutoff.within(seconds + _GRACE_SECONDS)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
