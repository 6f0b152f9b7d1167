"""Rate limits of APIs."""

import asyncio
from weakref import WeakValueDictionary

from pipeline_processing.aio.clock import Clock
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.urls import Origin


class Pace:
    """
    A token bucket of size one: requests are spaced evenly, without bursts.

    All requests to one API with the same options share it, first come, first served.
    """

    def __init__(self, *, per_second: float | None, clock: Clock) -> None:
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next = clock.monotonic()

    async def wait(self) -> None:
        """Wait until the next request may be sent."""
        async with self._turn:
            # A loop, because a pause may begin during the sleep.
            while (left := self._next - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            self._next = self._clock.monotonic() + self._interval

    def pause(self, seconds: float) -> None:
        """Hold all requests back for `seconds`."""
        self._next = max(self._next, self._clock.monotonic() + seconds)


class Paces:
    """
    The paces of this process: one for each API and set of options, shared by all runs that currently use it.

    Not shared between event loops.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._shared: WeakValueDictionary[tuple[str, Origin], Pace] = WeakValueDictionary()

    def of(self, options: UpstreamOptions, origin: Origin) -> Pace:
        """Return the pace for requests to `origin` with these options. It is dropped once no run holds it."""
        key = (options.access.model_dump_json(), origin)
        pace = self._shared.get(key)
        if pace is None:
            pace = self._shared[key] = Pace(per_second=options.requests_per_second, clock=self._clock)
        return pace
