"""The end of a process that doesn't end by itself."""

import os
import threading
import time
from typing import Self

import structlog

log = structlog.get_logger(__name__)

_LAST_WORDS_SECONDS = 0.3


class Cutoff:
    """
    Inside the block, ends the process when the time is over that it was given to stop, whatever hangs: a server, a
    thread, an exporter of traces, or the event loop. The exit code is 0: it has stopped as it was told to.

    Nothing is lost by it that a SIGKILL wouldn't lose.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._ends_at = float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def within(self, seconds: float) -> None:
        """End the process after so much time, counted from now. Of several times the earliest counts."""
        ends_at = time.monotonic() + seconds
        if ends_at >= self._ends_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._ends_at = ends_at
        self._timer = threading.Timer(seconds, _end)
        self._timer.daemon = True
        self._timer.start()


def _end() -> None:
    # In a thread of its own: the log may be what hangs.
    speaking = threading.Thread(target=_say, daemon=True)
    speaking.start()
    speaking.join(_LAST_WORDS_SECONDS)
    os._exit(0)


def _say() -> None:
    log.warning("stopping takes longer than PIPELINE_WORKER__DRAIN_SECONDS; ended at once")
