"""One run of the in-memory run table, and all that belongs to it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline_processing.model import Attempt, Plan, Run, RunFailure, RunState, UploadRef
from pipeline_processing.ports import Outcome

HELD = (RunState.RUNNING, RunState.PREPARED)
"""States in which a run may have a lease."""


@dataclass(slots=True)
class StartedUpload:
    """An upload, where it is, the fence that started it, and whether the run's plan names it."""

    destination: str
    fence: int
    planned: bool = False


@dataclass(slots=True)
class RunRecord:
    """A run. `number` counts the runs as they were accepted; uploads are found by key and handle."""

    run: Run
    request_hash: str
    number: int
    handed_back: int = 0
    plan: Plan | None = None
    attempts: list[Attempt] = field(default_factory=list)
    uploads: dict[tuple[str, str], StartedUpload] = field(default_factory=dict)

    def change(self, **values: Any) -> Run:
        self.run = self.run.model_copy(update=values)
        return self.run

    def change_attempt(self, **values: Any) -> None:
        """The newest attempt."""
        self.attempts[-1] = self.attempts[-1].model_copy(update=values)

    def end_attempt(self, outcome: str, at: datetime, failure: RunFailure | None = None) -> None:
        """Note how the newest attempt ended, unless that is known already."""
        if self.attempts and self.attempts[-1].outcome in ("running", "prepared"):
            self.change_attempt(
                outcome=outcome,
                finished_at=at,
                error_kind=failure and failure.kind,
                error_message=failure and failure.message,
            )

    def lost_uploads(self) -> list[UploadRef]:
        """Those that nobody will complete."""
        return [
            UploadRef(key=key, upload_id=upload_id, destination=upload.destination)
            for (key, upload_id), upload in self.uploads.items()
            if self.run.state not in HELD
            or (upload.fence != self.run.fence and not (upload.planned and self.run.state is RunState.PREPARED))
        ]


def measured(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the run's own fields."""
    return {
        **outcome.counts.model_dump(),
        "bytes_written": outcome.bytes_written,
        "timings": dict(outcome.timings),
        "manifest_url": outcome.manifest_url,
    }
