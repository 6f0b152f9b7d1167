"""
Call a server again until it answers.

`ask` is the retry loop, and `Backoff` sets its pauses. A `Server` is shared by several parts of a process, and logs
the beginning and the end of each outage once.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from opentelemetry.trace import get_current_span

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import Stopped, first_of
from pipeline_processing.errors import PipelineError, TransientError
from pipeline_processing.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")
P = TypeVar("P")

_LONGEST_RETRY_AFTER = 24 * 60 * 60.0
"""Seconds. A longer `Retry-After` is cut to this."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    Seconds to pause after failures in a row: `first`, doubled with each failure up to `longest`.

    Each pause is shortened by up to half at random, so that callers that failed together don't return together.
    `jitter` draws from 0…1.
    """

    first: float
    longest: float
    jitter: Callable[[], float] = random.random

    @classmethod
    def constant(cls, seconds: float) -> "Backoff":
        """Return a backoff with the same pause after every failure."""
        return cls(seconds, seconds, jitter=lambda: 0.0)

    def seconds(self, failures: int) -> float:
        """Return the pause after this many failures in a row."""
        doublings = min(failures - 1, 100)  # enough for any limit, and still a float
        return min(self.longest, self.first * 2.0**doublings) * (1 - self.jitter() / 2)

    def after(self, error: PipelineError, failures: int) -> float:
        """Return the pause after this error: that of `seconds`, or the server's `Retry-After` if longer."""
        asked_for = (error.retry_after if isinstance(error, TransientError) else None) or 0.0
        return max(self.seconds(failures), min(asked_for, _LONGEST_RETRY_AFTER))


def is_transient(error: PipelineError) -> bool:
    """Return whether the same call may succeed later."""
    return isinstance(error, TransientError)


async def ask(
    call: Callable[[], Awaitable[T]],
    *,
    clock: Clock,
    backoff: Backoff,
    tries: int | None = None,
    within: float = math.inf,
    stop: asyncio.Event | None = None,
    retry: Callable[[PipelineError], bool] = is_transient,
    on_failure: Callable[[PipelineError, float], None] = lambda error, pause: None,
) -> T:
    """
    Call until a call succeeds. A call whose reply was lost is repeated, so calls must be idempotent.

    Raises the last error after `tries` calls, if the next call would come later than `within` seconds, or if `retry`
    says that another call can't help. Raises Stopped instead of calling again once `stop` is set; a call
    under way is never interrupted. `on_failure` gets each error that is retried, and the pause in seconds.
    """
    began_at, failures = clock.monotonic(), 0
    while True:
        try:
            return await call()
        except PipelineError as error:
            failures += 1
            pause = backoff.after(error, failures)
            if not retry(error) or failures == tries or clock.monotonic() + pause - began_at > within:
                raise
            on_failure(error, pause)
        if stop is None:
            await clock.sleep(pause)
        else:
            await first_of(stop, seconds=pause)
            if stop.is_set():
                raise Stopped


class Server:
    """
    A server that this process always needs. An outage lasts as long as any caller gets no answer.

    Logs only the beginning and the end of an outage: a line for every retry would hide other log lines.
    """

    def __init__(self, name: str, *, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.unanswered_at = -math.inf
        """When a caller last got no answer, in seconds of the monotonic clock."""
        self._complaints: dict[Hashable, str] = {}
        self._outage_logged = False

    @property
    def problem(self) -> str | None:
        """The current error, or None while the server answers."""
        # Copy first: other threads read this property.
        return next(iter(list(self._complaints.values())), None)

    def away(self, error: PipelineError, *, by: Hashable) -> None:
        """Record that the caller `by` gets no answer."""
        if not self._outage_logged:
            self._outage_logged = True
            log.warning(f"{self.name} can't be used; retrying until it can", error=str(error))
        self.unanswered_at = self.clock.monotonic()
        self._complaints[by] = str(error)

    def back(self, *, by: Hashable) -> None:
        """Record that the caller `by` got an answer."""
        self._complaints.pop(by, None)
        if self._outage_logged and not self._complaints:
            self._outage_logged = False
            log.info(f"{self.name} is back")

    async def ask(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        by: Hashable,
        pause: float = 1.0,
        stop: asyncio.Event | None = None,
        within: float = math.inf,
    ) -> T:
        """Call this server every `pause` seconds until it answers; see `ask`."""

        def failed(error: PipelineError, pause: float) -> None:
            self.away(error, by=by)
            get_current_span().add_event("retry", {"server": self.name, "error.type": error.kind})

        try:
            answer = await ask(
                call,
                clock=self.clock,
                backoff=Backoff.constant(pause),
                stop=stop,
                within=within,
                on_failure=failed,
            )
            self.back(by=by)
            return answer
        finally:
            self._complaints.pop(by, None)  # a caller that has given up no longer waits

    def repeating(self, port: P, *, pause: float) -> P:
        """Wrap a port of this server so that each call is repeated until the server answers."""
        return cast("P", _Repeating(port, self, pause))


class _Repeating:
    def __init__(self, port: Any, server: Server, pause: float) -> None:
        self._port = port
        self._server = server
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._server.ask(lambda: method(*args, **kwargs), by=object(), pause=self._pause)

        return call
