"""Remove the leftovers of lost attempts and failed plans from the destinations."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.plan import UploadRef
from pipeline_processing.runs.store import RunLeftovers

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Amount:
    """Number of uploads, and of failed runs whose plan's objects are removed."""

    uploads: int = 0
    failed_runs: int = 0

    def __add__(self, more: "Amount") -> "Amount":
        return Amount(self.uploads + more.uploads, self.failed_runs + more.failed_runs)


class CleanUp:
    """
    Cleans up after runs at a job's destinations, and counts what it removes.

    An error while removing one thing doesn't stop the rest: its record stays in the history, and a later clean-up
    tries again. Every method raises HistoryUnavailable, since only the history knows what is lost.
    """

    def __init__(self, *, leftovers: RunLeftovers, destinations: Destinations, dry_run: bool = False) -> None:
        """If `dry_run`, only count."""
        self.removed = Amount()
        self.elsewhere: defaultdict[str, Amount] = defaultdict(Amount)
        """Leftovers at other destinations, by URL."""
        self.problems: list[PipelineError] = []
        self._leftovers = leftovers
        self._destinations = destinations
        self._dry_run = dry_run
        self._tried: set[tuple[str, str, str]] = set()

    async def after_run(self, run_id: str) -> None:
        """Remove all of a run's leftovers that the history records as lost."""
        lost = await self._leftovers.lost_uploads(run_id)
        for upload in lost:
            if not self._destinations.holds(upload.destination):
                self.elsewhere[upload.destination] += Amount(uploads=1)
        # Abort uploads before deleting objects: a worker that hasn't yet learned that the run failed could still
        # complete an upload of its plan, and that object would never be removed.
        if await self.abort(run_id, [upload for upload in lost if self._destinations.holds(upload.destination)]):
            await self._delete_failed_plan(run_id)

    async def abort(self, run_id: str, lost: Sequence[UploadRef]) -> bool:
        """
        Abort lost uploads of a run. Return whether all of them are gone.

        Each upload is tried once. Older results of a query stay valid, because a lost upload stays lost.
        """
        gone = []
        uploads = [upload for upload in lost if _handle(upload) not in self._tried]
        self._tried.update(map(_handle, uploads))
        for upload in uploads:
            if not self._dry_run:
                try:
                    await self._destinations.abort(upload)
                except PipelineError as problem:
                    self.problems.append(problem)
                    continue
            gone.append(upload)
        if gone and not self._dry_run:
            await self._leftovers.forget_uploads(run_id, gone)
            log.info("lost uploads removed", run_id=run_id, uploads=len(gone))
        self.removed += Amount(uploads=len(gone))
        return len(gone) == len(lost)

    async def _delete_failed_plan(self, run_id: str) -> None:
        plan = await self._leftovers.failed_plan(run_id)
        if plan is None:
            return
        if missing := self._destinations.missing(plan):
            self.elsewhere[missing[0]] += Amount(failed_runs=1)
            return
        if not self._dry_run:
            problems = []
            for artifact in plan.artifacts:
                try:
                    await self._destinations.delete(artifact, metadata=plan.metadata)
                except PipelineError as problem:
                    problems.append(problem)
            self.problems += problems
            if problems:
                return
            await self._leftovers.forget_failed_plan(run_id)
            log.info("objects of a failed run removed", run_id=run_id)
        self.removed += Amount(failed_runs=1)


def _handle(upload: UploadRef) -> tuple[str, str, str]:
    return upload.destination, upload.key, upload.upload_id
