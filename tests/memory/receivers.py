"""In-memory servers of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import UpstreamUnavailable
from pipeline_processing.ports import Posted

HANGS = Posted(0)
"""An answer that never comes."""
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request. `name` is the first part of its host."""

    name: str
    at: datetime
    body: bytes
    headers: Mapping[str, str]


class MemoryReceivers:
    """`Poster` in memory. Answers 204, or what a handler returns or raises."""

    def __init__(self, *, clock: Clock) -> None:
        self.received: list[Received] = []
        self.handlers: dict[str, Callable[[Received], Posted]] = {}
        """By name."""
        self.takes_seconds = 0.0
        """How long each answer takes."""
        self._clock = clock

    def answers(self, name: str, *, status: int, retry_after: float | None = None) -> None:
        """Set the answer of a receiver."""
        self.handlers[name] = lambda received: Posted(status, retry_after)

    def of(self, name: str) -> list[Received]:
        """Return the requests to a receiver."""
        return [received for received in self.received if received.name == name]

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], shown_as: str) -> Posted:
        name = (urlsplit(url).hostname or "").partition(".")[0]
        received = Received(name, self._clock.now(), body, dict(headers))
        self.received.append(received)
        answer = self.handlers[name](received) if name in self.handlers else Posted(204)
        if answer is HANGS:
            await self._clock.sleep(_TIMEOUT_SECONDS)
            raise UpstreamUnavailable(f"{shown_as} gives no answer: timed out.")
        await self._clock.sleep(self.takes_seconds)
        return answer
