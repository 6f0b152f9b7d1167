"""The history's time of day, in a process whose own clock may be wrong."""

from datetime import datetime, timedelta

from pipeline_processing.aio.clock import Clock


class HistoryClock:
    """
    `Clock` whose time of day is the history's: as it was last heard, and the monotonic seconds since. Until it
    has heard any, it is this machine's.

    A deadline, or the time of a snapshot, means the same to all workers then, however wrong their own clocks are.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._heard: tuple[datetime, float] | None = None

    def hear(self, moment: datetime) -> None:
        """The history's time is, or was a moment ago, this."""
        self._heard = moment, self._own.monotonic()

    def now(self) -> datetime:
        """See `Clock`."""
        if self._heard is None:
            return self._own.now()
        moment, at = self._heard
        return moment + timedelta(seconds=self._own.monotonic() - at)

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._own.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await self._own.sleep(seconds)
