"""Remove the leftovers of lost attempts and failed plans, as the `gc` command does."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import PipelineError
from pipeline_processing.plan import UploadRef
from pipeline_processing.runs.clean_up import Amount, CleanUp
from pipeline_processing.runs.store import RunHistory, RunLeftovers

_KEY_OF_A_RUN = re.compile(r"(?:[!-~]+/)?run_id=([A-Za-z0-9][A-Za-z0-9._-]{0,127})/[!-~]+")
"""Every key has this folder, also those of an `object_key`. Strict, because other programs may start uploads there."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` removed (or would remove in a dry run), and what it left."""

    removed: Amount
    in_use: int
    """Uploads that may still be completed."""
    unknown: int
    """Uploads of runs that the history doesn't know. They may be foreign; the bucket's lifecycle rule removes them."""
    elsewhere: Mapping[str, Amount]
    """Leftovers at other destinations, by URL. Only a `gc` configured with those destinations can remove them."""
    problems: tuple[PipelineError, ...]
    """Errors of removals that failed."""


class GarbageCollector:
    """
    Finds lost uploads in the run table and in each destination's list of uploads, because a worker may die between
    starting an upload and recording it. Workers may run at the same time.
    """

    def __init__(
        self, *, leftovers: RunLeftovers, history: RunHistory, destinations: Destinations, dry_run: bool = False
    ) -> None:
        self._leftovers = leftovers
        self._history = history
        self._destinations = destinations
        self._clean_up = CleanUp(leftovers=leftovers, destinations=destinations, dry_run=dry_run)

    async def collect(self) -> Collected:
        """
        Collect everything once.

        Raises ForeignPrefix, or the destination's error if the prefix can't be verified, before it changes anything.
        Raises HistoryUnavailable at any time. All other errors are collected in `problems`.
        """
        # Below a foreign prefix, another history's runs may have the same ids, and their uploads would look lost.
        await self._destinations.verify_installation(await self._history.installation_id())
        for run_id in await self._leftovers.runs_to_clean_up():
            await self._clean_up.after_run(run_id)
        in_use, unknown = await self._collect_listed()
        done = self._clean_up
        return Collected(
            removed=done.removed,
            in_use=in_use,
            unknown=unknown,
            elsewhere=dict(done.elsewhere),
            problems=tuple(done.problems),
        )

    async def _collect_listed(self) -> tuple[int, int]:
        """Abort the lost uploads that destinations list. Return the numbers left: in use, and of unknown runs."""
        # The order matters: list, query the table, abort. A listed upload was started before the query, so if its
        # attempt is still active, the table has the run as `running` or the upload in a plan. In the reverse order, the
        # uploads of an attempt that began in between would look lost. An upload that is lost at the query stays lost
        # until it is aborted: an ended attempt never resumes, and the next one starts its own uploads.
        by_run, in_use, unknown = await self._listed(), 0, 0
        for run_id, uploads in by_run.items():
            lost = [] if run_id is None else await self._leftovers.lost_of(run_id, uploads)
            await self._clean_up.abort(run_id or "", lost)
            left = len(uploads) - len(lost)
            if left == 0:
                continue
            if run_id is not None and (lost or await self._history.get(run_id) is not None):
                in_use += left
            else:
                unknown += left
        return in_use, unknown

    async def _listed(self) -> Mapping[str | None, list[UploadRef]]:
        """Return pending uploads by the run id in their keys; None for keys without one."""
        by_run: defaultdict[str | None, list[UploadRef]] = defaultdict(list)
        for destination in self._destinations.all:
            try:
                async for upload in destination.pending_uploads():
                    named = _KEY_OF_A_RUN.fullmatch(upload.key)
                    by_run[named and named[1]].append(upload.model_copy(update={"destination": destination.url}))
            except PipelineError as problem:  # uploads listed before the error are still checked
                self._clean_up.problems.append(problem)
        return by_run
