"""How fast an API is asked, and when it isn't to be asked at all."""

import asyncio
from weakref import WeakValueDictionary

from pipeline_processing.aio.clock import Clock
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.urls import Origin


class Pace:
    """
    A token bucket that holds one token: requests are spaced evenly, so that no second has more than its share.

    Everybody who asks the same API in the same way waits here, in the order of coming.
    """

    def __init__(self, *, per_second: float | None, clock: Clock) -> None:
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next = clock.monotonic()

    async def wait(self) -> None:
        """Until the next request may go out."""
        async with self._turn:
            # A pause may have begun meanwhile.
            while (left := self._next - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            self._next = self._clock.monotonic() + self._interval

    def pause(self, seconds: float) -> None:
        """No request goes out before so much time has passed."""
        self._next = max(self._next, self._clock.monotonic() + seconds)


class Paces:
    """
    The paces of this process: one for each API and way to ask it, shared by all runs that do so now.

    For one event loop.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._shared: WeakValueDictionary[tuple[str, Origin], Pace] = WeakValueDictionary()

    def of(self, options: UpstreamOptions, origin: Origin) -> Pace:
        """The pace in which `origin` is asked with these options. It lasts as long as somebody keeps it."""
        key = (options.access.model_dump_json(), origin)
        pace = self._shared.get(key)
        if pace is None:
            pace = self._shared[key] = Pace(per_second=options.requests_per_second, clock=self._clock)
        return pace
