"""The port of what `queue` and `follow` read: what waits in the run table, where, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import Run


class Reason(StrEnum):
    """Why a queued run waits. The first that applies."""

    LATER = "later"
    """The request says when to start."""
    RETRY = "retry"
    """An attempt failed, and the next one comes after a pause."""
    OWN_CONFIG = "own_config"
    """Only a worker with the run's own job config may export it."""
    AGENCY = "agency"
    """Other runs take up its agency's places."""
    BEHIND = "behind"
    """An earlier run of its agency comes first."""
    WORKER = "worker"
    """It waits for a free worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued run, at the time `now` of the database."""

    run: Run
    now: datetime
    place: int | None
    """About which run is claimed next, from 1. None if the run isn't due or is pinned, and from `reasons`."""
    behind: str | None
    """The run of the same agency that comes before it."""
    held: tuple[str, ...]
    """The runs of its agency that workers hold, oldest first."""
    last_error: str | None
    """The kind of error of its last failed attempt."""

    def reason(self, *, places: int) -> Reason:
        """Return why it waits, if workers allow each agency so many runs at once."""
        if self.run.not_before is not None and self.run.not_before > self.now:
            return Reason.RETRY if self.run.attempt else Reason.LATER
        if self.run.pinned:
            return Reason.OWN_CONFIG
        if len(self.held) >= places:
            return Reason.AGENCY
        return Reason.WORKER if self.behind is None else Reason.BEHIND


@dataclass(frozen=True, slots=True, kw_only=True)
class AgencyQueue:
    """Unfinished runs of one agency."""

    agency_id: AgencyId
    due: int
    later: int
    """Queued runs that start at a later time."""
    running: int
    prepared: int
    waiting_since: datetime | None
    """When the run became due that has been due for longest."""


class QueueReads(Protocol):
    """Read-only queries of the queue. Every method may raise HistoryUnavailable or HistoryOutdated."""

    async def waiting(self, *, limit: int, agency_id: AgencyId | None = None) -> list[Waiting]:
        """
        Return queued runs, those that are due in the order of their places, then the others by their time.

        Orders the whole queue, which takes a second for several 100,000 runs.
        """

    async def reasons(self, run_ids: Sequence[str]) -> list[Waiting]:
        """Return those of these runs that are queued, oldest first, without their places; quick in any queue."""

    async def agencies(self, *, agency_id: AgencyId | None = None) -> list[AgencyQueue]:
        """Return all agencies with an unfinished run, those with most due runs first."""
