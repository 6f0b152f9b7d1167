"""
Decide runs, and publish decided runs.

Publishing needs only the stored plan, and this or a later worker may repeat it any number of times.
"""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import quote

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.processor import DatasetExport, Export
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import (
    ConflictingObjects,
    DestinationChanged,
    PipelineError,
    PlanLost,
    PublicationError,
    UploadMissing,
)
from pipeline_processing.log import get_logger
from pipeline_processing.model import Bill, Counts, Run, RunState
from pipeline_processing.plan import Artifact, InlineContent, Plan, Pointer, StagedTable
from pipeline_processing.runs.billing import planned_requests
from pipeline_processing.runs.failures import failure_of
from pipeline_processing.runs.manifest import (
    ContentMeta,
    Latest,
    Manifest,
    ManifestDataset,
    ManifestEntry,
    RejectedEntry,
)
from pipeline_processing.runs.store import Claim, Outcome, RunAttempts
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.spans import child_span

log = get_logger(__name__)

MANIFEST_NAME = "_manifest.json"
LATEST_NAME = "_latest.json"


def manifest_key(run: RunContext) -> str:
    """Return the key of a run's manifest, relative to the destination."""
    return f"{run.prefix}/{MANIFEST_NAME}"


def decide(
    run: RunContext, export: Export, *, destination_url: str, now: datetime, bill: Callable[[int], Bill]
) -> tuple[Plan, Outcome]:
    """
    Return the plan of an export, with the manifest's exact bytes, and the outcome for the history.

    `destination_url` is that of the primary destination, which holds the manifest. The manifest lists its artifacts.
    `bill` makes the run's bill, given how many S3 requests the plan takes.
    """
    counts = sum((dataset.counts for dataset in export.datasets), start=Counts())
    artifacts = [artifact for dataset in export.datasets for artifact in dataset.artifacts]
    here = [artifact for artifact in artifacts if artifact.destination == destination_url]
    manifest_url = f"{destination_url}/{manifest_key(run)}"
    latest = tuple(_pointer(run, export, dataset, manifest_url) for dataset in export.datasets if dataset.latest)
    billed = bill(planned_requests(artifacts, manifest_at=manifest_url, pointers=len(latest)))
    manifest = Manifest(
        job=run.request.job,
        agency_id=run.request.agency_id,
        run_id=run.run_id,
        attempt=run.attempt,
        trace_id=run.trace_id,
        config_id=run.config_id,
        labels=run.request.labels,
        requested_by=run.request.requested_by,
        snapshot_at=export.snapshot_at,
        created_at=now,
        **counts.model_dump(),
        bill=billed,
        datasets=tuple(
            ManifestDataset(**dataset.counts.model_dump(), schema=dataset.schema) for dataset in export.datasets
        ),
        entries=tuple(_entry(artifact) for artifact in here if not artifact.rejected),
        rejected=tuple(_rejected(artifact) for artifact in here if artifact.rejected),
    )
    plan = Plan(
        destination=destination_url,
        artifacts=tuple(sorted(artifacts, key=_when_completed)),
        metadata=run.metadata,
        manifest_key=manifest_key(run),
        manifest=manifest.model_dump_json(indent=2, by_alias=True) + "\n",
        latest=latest,
    )
    return plan, outcome_of(run, export, destination_url=destination_url, manifest_url=manifest_url, bill=billed)


def outcome_of(
    run: RunContext, export: Export, *, destination_url: str, manifest_url: str | None, bill: Bill
) -> Outcome:
    """Return the totals over all datasets."""
    timings: dict[str, float] = {}
    for dataset in export.datasets:
        for stage, seconds in dataset.seconds.items():
            timings[stage] = round(timings.get(stage, 0.0) + seconds * 1000, 3)
    covered = min(run.request.until or export.snapshot_at, export.snapshot_at)
    return Outcome(
        counts=sum((dataset.counts for dataset in export.datasets), start=Counts()),
        datasets=tuple(dataset.counts for dataset in export.datasets),
        schemas={each.counts.name: each.schema for each in export.datasets if each.schema is not None},
        # With a gap, the next `since: last_success` would skip rows that were never exported.
        covered_until=None if export.leaves_gap else covered,
        bytes_written=sum(
            artifact.size
            for dataset in export.datasets
            for artifact in dataset.artifacts
            if artifact.destination == destination_url
        ),
        timings=timings,
        manifest_url=manifest_url,
        bill=bill,
    )


def _when_completed(artifact: Artifact) -> int:
    """
    Uploads come first because they can be lost: if the first one is gone, nothing has been completed yet, and the plan
    can be voided. Tables come last because a merge can't be undone.
    """
    match artifact.staged:
        case StagedTable():
            return 2
        case InlineContent():
            return 1
    return 0


def _entry(artifact: Artifact) -> ManifestEntry:
    staged = artifact.staged
    place = quote(staged.target, safe="") if isinstance(staged, StagedTable) else artifact.key
    return ManifestEntry(
        url=f"{artifact.destination}/{place}",
        dataset=artifact.dataset,
        format=artifact.format,
        compression=artifact.compression,
        rows=artifact.rows,
        meta=ContentMeta(content_length=artifact.size),
        sha256=artifact.sha256,
    )


def _pointer(run: RunContext, export: Export, dataset: DatasetExport, manifest_url: str) -> Pointer:
    latest = Latest(
        job=run.request.job,
        agency_id=run.request.agency_id,
        dataset=dataset.counts.name,
        run_id=run.run_id,
        manifest=manifest_url,
        snapshot_at=export.snapshot_at,
        rows_written=dataset.counts.rows_written,
        fingerprint=dataset.schema and dataset.schema.fingerprint,
    )
    key = f"{run.agency_folder}/{dataset.counts.name}/{LATEST_NAME}"
    return Pointer(key=key, body=latest.model_dump_json(indent=2) + "\n")


def _rejected(artifact: Artifact) -> RejectedEntry:
    return RejectedEntry(
        url=f"{artifact.destination}/{artifact.key}",
        dataset=artifact.dataset,
        rows=artifact.rows,
        meta=ContentMeta(content_length=artifact.size),
        sha256=artifact.sha256,
    )


class Publisher:
    """Publishes prepared runs. `attempts` must repeat each call until the server answers."""

    def __init__(self, *, attempts: RunAttempts, destinations: Destinations, mask: Mask) -> None:
        self._attempts = attempts
        self._destinations = destinations
        self._mask = mask

    async def publish(self, claim: Claim, plan: Plan) -> Run:
        """
        Complete the plan's artifacts, publish its manifest, point to it, and finish the run. Return the run in its new
        state.

        That is `succeeded`, `queued` if the plan was void, or `failed` if it can never be published. Raises any other
        error of the destination; the plan then stays, and a later claim rolls it forward.
        """
        primary = self._destinations.primary
        gone = self._destinations.missing(plan)
        if gone or plan.destination != primary.url:
            raise DestinationChanged(
                claim.run.run_id,
                needed=gone or [plan.destination],
                here=[each.url for each in self._destinations.all],
            )
        try:
            with child_span("complete", attributes={"artifacts": len(plan.artifacts)}):
                for number, artifact in enumerate(plan.artifacts):
                    try:
                        await self._destinations.complete(artifact, metadata=plan.metadata)
                    except UploadMissing as missing:
                        if number == 0:
                            log.warning("plan is void: its first upload is gone", key=artifact.key)
                            return await self._attempts.void_plan(claim)
                        raise PlanLost(self._destinations.url(artifact)) from missing
            await self._destinations.manifests.publish(
                plan.manifest_key, plan.manifest.encode(), metadata=plan.metadata
            )
        except (ConflictingObjects, PlanLost) as error:
            return await self._give_up(claim, plan, error)
        # Whatever goes wrong from here on passes, or an operator mends it: the manifest is published.
        for pointer in plan.latest:
            latest = Latest.model_validate_json(pointer.body, extra="ignore")
            await self._destinations.pointers.replace(
                pointer.key, pointer.body.encode(), replaces=latest.replaces, metadata=plan.metadata
            )
        with child_span("finish"):
            return await self._attempts.succeed(claim)

    async def _give_up(self, claim: Claim, plan: Plan, error: PublicationError) -> Run:
        run = await self._attempts.fail(claim, failure_of(error, self._mask), state=RunState.PREPARED)
        # Delete only after `failed` is stored: it is final, so no other worker can roll this plan forward to success.
        # The plan stays in the history until `CleanUp` has aborted the remaining uploads and deleted the objects again.
        # Until then, a worker that hasn't learned of the failure could complete one, which only the plan names.
        for artifact in plan.artifacts:
            try:
                await self._destinations.delete(artifact, metadata=plan.metadata)
            except PipelineError as problem:
                log.warning("an object of a failed run could not be deleted", key=artifact.key, error=str(problem))
        return run
