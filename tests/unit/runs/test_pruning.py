"""The loop over batches of old runs."""

from datetime import datetime, timedelta

from pipeline_processing.runs.pruning import FinishedPlace, Judged, prune
from tests.unit.stepped_clock import SteppedClock


class BusyHistory:
    """Finishes another run with every batch."""

    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock

    async def prune(
        self, before: datetime, *, after: FinishedPlace | None, limit: int, dry_run: bool = False
    ) -> list[Judged]:
        finished_at = self._clock.now()
        self._clock.pass_(1)
        return [Judged(FinishedPlace(finished_at, "r"), kept=None)] if finished_at < before else []


async def test_a_time_to_come_ends_with_the_runs_that_are_there() -> None:
    """On a service that goes on finishing runs, too."""
    clock = SteppedClock()
    began_at = clock.now()
    clock.pass_(0.5)

    done = await prune(BusyHistory(clock), began_at + timedelta(days=1), clock=clock)

    assert done.runs == 0
