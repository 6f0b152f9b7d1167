"""A thread that runs a step's user code, as the watchdog finds it."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepPlace:
    """Which step, for the log."""

    step: str
    dataset: str | None = None


class StepThread(threading.Thread):
    """
    Listed by `threading.enumerate()` while it lives. It is a daemon: the process may end while user code hangs in it.

    `context` are the context variables of the step, the run's log fields among them.
    """

    def __init__(self, place: StepPlace, *, context: contextvars.Context, target: Callable[[], None]) -> None:
        super().__init__(name=place.step, target=target, daemon=True)
        self.place = place
        self.context = context
        self.busy = False
        """Whether a call of user code is under way."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that runs in it, if one does."""
