"""What `gc` does: remove what lost attempts and failed plans left, and nothing that is in use."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import PipelineError
from pipeline_processing.model import UploadRef
from pipeline_processing.runs.clean_up import Amount, CleanUp
from pipeline_processing.runs.store import RunHistory, RunLeftovers

_KEY_OF_A_RUN = re.compile(r"agency_id=[0-9]+/run_id=([A-Za-z0-9][A-Za-z0-9._-]{0,127})/[!-~]+")
"""Narrow, since others may have started uploads below the prefix, with keys that no run id could have."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` removed, or would remove, and what it left, and why."""

    removed: Amount
    in_use: int
    """Uploads here that may still be completed."""
    unknown: int
    """Uploads here of no run in the history. They may be somebody else's; leave them to the bucket's lifecycle rule."""
    elsewhere: Mapping[str, Amount]
    """What is lost at other destinations, by URL. Only a `gc` with those destinations can remove it."""
    problems: tuple[PipelineError, ...]
    """Why something here couldn't be removed."""


class GarbageCollector:
    """
    Finds lost uploads in two places: in the run table, and in the list of a destination's uploads, since a worker may
    die between starting an upload and recording it. Workers may be running meanwhile.
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
        Go through everything once.

        Before anything is touched, raises ForeignPrefix, or the destination's error if the prefix can't be verified.
        Raises HistoryUnavailable at any time. All other errors are among the problems.
        """
        # Below a foreign prefix, uploads of another history's runs with the same ids would look lost.
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
        """Abort the lost uploads that are here. Returns how many are left: those in use, and those of unknown runs."""
        # In this order: list, query the table, abort. A listed upload was started before the query. So if its attempt
        # goes on, the table has the run as `running`, or has the upload in a plan. In the other order, the table would
        # miss an attempt that began in between, and its upload would look lost. An upload that is lost at the query
        # stays lost until it is aborted: an ended attempt never resumes, and the next one starts uploads of its own.
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
        """Pending uploads by the run id in their keys; under None those without one."""
        by_run: defaultdict[str | None, list[UploadRef]] = defaultdict(list)
        for destination in self._destinations.all:
            try:
                async for upload in destination.pending_uploads():
                    named = _KEY_OF_A_RUN.fullmatch(upload.key)
                    by_run[named and named[1]].append(upload.model_copy(update={"destination": destination.url}))
            except PipelineError as problem:  # what was listed so far can still be looked up
                self._clean_up.problems.append(problem)
        return by_run
