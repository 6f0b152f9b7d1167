"""Time: the port, this machine's clock, and one that is set by a server's."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time of this process. The run table has its own, the database's: see `HistoryClock`."""

    def now(self) -> datetime:
        """The time of day, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """Real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class HistoryClock:
    """
    A clock whose time of day is that of the run history's database: as last heard, plus the monotonic seconds since.
    Until it has heard any, it is this machine's.

    So a deadline, or the time of a snapshot, means the same to all workers, however wrong their own clocks are.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._heard: tuple[datetime, float] | None = None

    def hear(self, moment: datetime) -> None:
        """The time in the history's database now, or a moment ago."""
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
