"""Prune the run history: the port, and the loop over it."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import Clock

_BATCH = 500
"""Runs per transaction, which keeps writers of runs waiting."""
_WITHIN_SECONDS = 60.0


class Kept(StrEnum):
    """Why a run that is old enough isn't pruned."""

    UNSENT = "unsent"
    UNDELIVERED = "undelivered"
    LEFTOVERS = "leftovers"
    LAST_SUCCESS = "last_success"

    @property
    def told(self) -> str:
        """The reason, for people."""
        return {
            Kept.UNSENT: "the event isn't sent; a running `serve` sends it",
            Kept.UNDELIVERED: "the event is on its way to a webhook",
            Kept.LEFTOVERS: "uploads of lost attempts, or objects of a failed run, are left; `gc` removes them",
            Kept.LAST_SUCCESS: "the last success of a dataset, where its next export goes on",
        }[self]


@dataclass(frozen=True, slots=True, order=True)
class FinishedPlace:
    """The place of a finished run among all, sorted by `finished_at` and `run_id`."""

    finished_at: datetime
    run_id: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A run that is old enough, and why it is kept; None if it isn't."""

    place: FinishedPlace
    kept: Kept | None


class RunPruning(Protocol):
    """Replaces old runs by tombstones, which keep their ids taken and their events ready to be sent again."""

    async def prune(
        self, before: datetime, *, after: FinishedPlace | None, limit: int, dry_run: bool = False
    ) -> list[Judged]:
        """
        Prune up to `limit` runs that finished before `before`, oldest first, from behind `after` on. Return all that
        are old enough, and whether they are kept. If `dry_run`, change nothing.

        Raises HistoryUnavailable, also if other transactions keep the table busy.
        """


@dataclass(frozen=True, slots=True)
class Pruned:
    """Number of runs that were pruned (or would be in a dry run), and of those kept by reason."""

    runs: int
    kept: Counter[Kept]


async def prune(
    pruning: RunPruning,
    before: datetime,
    *,
    clock: Clock,
    dry_run: bool = False,
    batch: int = _BATCH,
) -> Pruned:
    """
    Prune all runs that finished before `before`, in batches.

    Raises HistoryUnavailable if a batch fails for a minute. What was pruned by then stays so.
    """
    before = min(before, clock.now())  # a time to come would have no end while workers finish runs
    runs, kept, after = 0, Counter[Kept](), None
    pause = Backoff.constant(0.5)
    while True:
        place = after

        async def next_batch(place: FinishedPlace | None = place) -> list[Judged]:
            return await pruning.prune(before, after=place, limit=batch, dry_run=dry_run)

        judged = await ask(next_batch, clock=clock, backoff=pause, within=_WITHIN_SECONDS)
        if not judged:
            return Pruned(runs, kept)
        kept.update(each.kept for each in judged if each.kept is not None)
        runs += sum(each.kept is None for each in judged)
        after = judged[-1].place
