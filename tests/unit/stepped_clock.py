"""Time that a test moves by hand."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 18, 10, 0, 0, tzinfo=UTC)


class SteppedClock:
    """Time that only moves when told."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.pass_(seconds)

    def pass_(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
