"""Which runs to list: the filter that the commands and the board share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import Run, RunState


@dataclass(frozen=True, slots=True)
class RunPlace:
    """The place of a run in the list of all runs, which is sorted by `queued_at` and `run_id`, newest first."""

    queued_at: datetime
    run_id: str

    @classmethod
    def of(cls, run: Run) -> "RunPlace":
        """Return the run's place. Lists can be continued after it, even if the run is gone by then."""
        return cls(run.queued_at, run.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The runs that match all fields. A field that is None or empty matches every run."""

    agency_id: AgencyId | None = None
    """12 and "12" are the same."""
    states: tuple[RunState, ...] = ()
    """One of these."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these."""
    error_kinds: tuple[str, ...] = ()
    """Failed for one of these."""
    requested_by: str | None = None
    text: str | None = None
    """Part of the run id."""
    since: datetime | None = None
    """Accepted at this time or later."""
    until: datetime | None = None
    """Accepted before this time."""
    after: RunPlace | None = None
    """Listed after this place: for the next page."""

    def matches(self, run: Run) -> bool:
        """Whether the run matches all fields but `after`."""
        return (
            (self.agency_id is None or str(self.agency_id) == str(run.agency_id))
            and (not self.states or run.state in self.states)
            and self.labels.items() <= run.labels.items()
            and (not self.error_kinds or (run.error is not None and run.error.kind in self.error_kinds))
            and self.requested_by in (None, run.requested_by)
            and (self.text is None or self.text in run.run_id)
            and (self.since is None or run.queued_at >= self.since)
            and (self.until is None or run.queued_at < self.until)
        )


EVERY_RUN = RunFilter()
