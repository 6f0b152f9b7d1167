"""Detect blocked event loops, and log which step blocks them."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from types import FrameType
from typing import Any, Never

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.processor import AgencyProcessor
from pipeline_processing.aio.own_thread import StepThread
from pipeline_processing.log import get_logger
from pipeline_processing.telemetry.health import SILENT_SECONDS

log = get_logger(__name__)

_FRAMES = 6
"""Number of innermost frames to log."""


class Watchdog:
    """
    Watches the event loop of the thread that creates it, and those of steps.

    Logs once, with a stack trace, when a loop hasn't run for `patience` seconds. Run `watch` in another thread.
    `on_delay` gets the seconds that each beat of the caller's loop was late.
    """

    def __init__(self, *, patience: float = 5.0, on_delay: Callable[[float], None] | None = None) -> None:
        self._patience = patience
        self._main = _Watched(asyncio.get_running_loop(), on_delay)
        self._main_thread = threading.get_ident()
        self._steps: dict[StepThread, _Watched] = {}

    @property
    def hangs(self) -> bool:
        """Whether the main loop has been blocked for so long that its leases must be given up."""
        return self._main.silent() > SILENT_SECONDS

    async def watch(self) -> Never:
        """Check the loops five times per `patience`."""
        pause = self._patience / 5
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(pause)
            stood_still = time.monotonic() - slept_at - pause
            try:
                if stood_still > self._patience:
                    self._log_standstill(stood_still)
                else:
                    self._check()
            except Exception:  # a logging error must not end the watchdog
                log.exception("the watchdog's check failed")

    def _check(self) -> None:
        self._steps = {
            thread: self._steps.get(thread) or _Watched(thread.loop)
            for thread in threading.enumerate()
            if isinstance(thread, StepThread) and thread.loop is not None
        }
        if self._main.incident(self._patience):
            frames = list(_stack(self._main_thread))
            log.warning(
                "the event loop is blocked: all runs of this process wait, but keep their leases",
                seconds=round(self._main.silent()),
                **_place(frames),
                stack=_formatted(frames),
            )
        for thread, watched in self._steps.items():
            if watched.incident(self._patience):
                self._log_step(thread, "an async function blocks its own event loop", seconds=round(watched.silent()))

    def _log_standstill(self, seconds: float) -> None:
        """Log that no thread ran. Late beats have the same cause, so they aren't logged separately."""
        self._main.reset()
        for watched in self._steps.values():
            watched.reset()
        frames = list(_stack(self._main_thread))
        log.warning(
            "no thread of this process ran: one of them held the interpreter's lock, or the process was stopped",
            seconds=round(seconds),
            **_place(frames),
            stack=_formatted(frames),
        )
        for thread in threading.enumerate():
            if isinstance(thread, StepThread) and thread.busy:
                self._log_step(thread, "this step was running when no other thread ran", seconds=round(seconds))

    def _log_step(self, thread: StepThread, event: str, **fields: Any) -> None:
        stack = _formatted(_stack(thread.ident))
        # Log in the step's context, whose log fields identify the run.
        context: Context = thread.context.copy()
        context.run(log.warning, event, dataset=thread.place.dataset, step=thread.place.step, stack=stack, **fields)


class _Watched:
    """One event loop, and the time of its last beat. A beat is a callback that the loop runs on request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_delay: Callable[[float], None] | None = None) -> None:
        self._loop = loop
        self._on_delay = on_delay
        self._asked_at = 0.0
        self._context = copy_context()
        self._beaten_at = time.monotonic()
        self._asked = False
        self._reported = False

    def silent(self) -> float:
        """Return the seconds since the last beat."""
        return time.monotonic() - self._beaten_at

    def incident(self, patience: float) -> bool:
        """Request a beat. Return True if the last one is more than `patience` ago, but only once per incident."""
        if not self._asked:
            self._asked, self._asked_at = True, time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._beat, context=self._context)
            except RuntimeError:  # the loop is closed
                return False
        late = self.silent() > patience
        is_new, self._reported = late and not self._reported, late
        return is_new

    def reset(self) -> None:
        """Count the time from now, because the cause of the delay has been logged."""
        self._beaten_at = time.monotonic()

    def _beat(self) -> None:
        self._beaten_at = time.monotonic()
        if self._on_delay is not None:
            self._on_delay(self._beaten_at - self._asked_at)
        self._asked = False


def _stack(thread_id: int | None) -> Iterator[FrameType]:
    """Yield a thread's current frames, innermost first."""
    frame = sys._current_frames().get(thread_id or 0)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frames: list[FrameType]) -> dict[str, str]:
    """Return the run, dataset and step found in the stack, if any."""
    place: dict[str, str] = {}
    for frame in frames:
        if frame.f_code is Chain._through.__code__:
            chain: Chain = frame.f_locals["self"]
            place["step"] = chain.place
        elif frame.f_code is AgencyProcessor._process_dataset.__code__:
            processor: AgencyProcessor = frame.f_locals["self"]
            place |= processor.place
    return place


def _formatted(frames: Any) -> list[str]:
    """Format the innermost frames, one line each."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.StackSummary.extract(((each, each.f_lineno) for each in frames), limit=None)[:_FRAMES]
    ]
