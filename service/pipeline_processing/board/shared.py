"""Answers that all pages share for a moment."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from pipeline_processing.aio.clock import Clock

_MOST = 64
"""Answers held at once."""


class Shared:
    """
    Calls a function at most once per key and time to live, however many pages ask.

    Callers that come while an answer is under way wait for it. Errors aren't kept.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[Hashable, tuple[float, asyncio.Future[bytes]]] = {}

    async def get(self, key: Hashable, seconds: float, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer for `key`, made by `make` unless there is one that is younger than `seconds`."""
        now = self._clock.monotonic()
        until, answer = self._answers.get(key, (0.0, None))
        if answer is None or (answer.done() and (until <= now or _failed(answer))):
            answer = asyncio.ensure_future(make())
            answer.add_done_callback(_failed)  # retrieves an error that nobody waits for any more
            if len(self._answers) >= _MOST:
                self._answers = {each: held for each, held in self._answers.items() if held[0] > now}
            if len(self._answers) < _MOST:
                self._answers[key] = now + seconds, answer
        return await asyncio.shield(answer)


def _failed(answer: "asyncio.Future[bytes]") -> bool:
    return answer.cancelled() or answer.exception() is not None
