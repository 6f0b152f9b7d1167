"""Clocks: the port, the system clock, and one that follows the history's database."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Source of time. The run table uses the database's time instead; see `HistoryClock`."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class HistoryClock:
    """
    A clock that follows the time of the run history's database: the time last heard plus the monotonic seconds since.

    Deadlines and snapshot times then mean the same to all workers, even if their own clocks are wrong. Until it hears
    a time, `now` is this machine's.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._heard: tuple[datetime, float] | None = None

    def hear(self, moment: datetime) -> None:
        """Set the clock to `moment`, the database's time now or a moment ago."""
        self._heard = moment, self._own.monotonic()

    def now(self) -> datetime:
        if self._heard is None:
            return self._own.now()
        moment, at = self._heard
        return moment + timedelta(seconds=self._own.monotonic() - at)

    def monotonic(self) -> float:
        return self._own.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._own.sleep(seconds)
