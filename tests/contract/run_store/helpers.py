"""Runs on their way, for the tests of what every run store promises."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import Bill, Compression, Counts, FormatName, JobRequest, Run, RunFailure
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, Plan, StagedFile, UploadedPart, UploadRef
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.store import Claim, Incoming, Origin, Outcome, RunStore
from tests.contract.run_store.conftest import Backend

LEASE = timedelta(minutes=5)
PAST_THE_LEASE = 301.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FAILURE = RunFailure(kind="source_unavailable", message="no answer", retryable=True, exit_code=69)
OUTCOME = Outcome(
    counts=Counts(rows_read=10, rows_written=8, rows_filtered=1, rows_rejected=1),
    bytes_written=4321,
    timings={"read": 1.5},
    manifest_url="s3://exports/agencies/_manifest.json",
    bill=Bill(client_cpu_ms=12.345, database_ms=3.0, bytes_read=9_000_000_000, bytes_written=4321, s3_requests=11),
)


def artifact(key: str, staged: MultipartUpload | InlineContent | StagedFile) -> Artifact:
    return Artifact(
        key=key,
        dataset="records",
        format=FormatName.NDJSON,
        compression=Compression.NONE,
        rows=1,
        size=1,
        sha256="0" * 64,
        staged=staged,
    )


PLAN = Plan(
    destination="s3://exports",
    artifacts=(
        artifact(
            "large", MultipartUpload(upload_id="u-1", parts=(UploadedPart(number=1, etag='"e"', crc32="AAAAAA=="),))
        ),
        artifact("file", StagedFile(path="h-1")),
        artifact("small", InlineContent(content="AA==")),
    ),
    metadata={"run-id": "r"},
    manifest_key="_manifest.json",
    manifest='{"exact":  "bytes \\u0000 é"}\n',
)
PLANNED = [UploadRef(key="large", upload_id="u-1"), UploadRef(key="file", upload_id="h-1")]
UNPLANNED = UploadRef(key="large", upload_id="u-0")


def incoming(
    run_id: str = "r",
    *,
    agency_id: AgencyId = 7,
    origin: Origin | None = None,
    config_id: str | None = None,
    **request: Any,
) -> Incoming:
    """A request for a run."""
    asked = JobRequest(agency_id=agency_id, **request)
    return Incoming(request=asked, run_id=run_id, trace_id=TRACE, span_id=SPAN, origin=origin, config_id=config_id)


def message(run_id: str = "r", *, offset: int = 0, **request: Any) -> Incoming:
    """The same, from Kafka."""
    return incoming(run_id, origin=Origin(topic="requests", partition=0, offset=offset), **request)


async def accepted(runs: RunStore, run_id: str = "r", *, agency_id: AgencyId = 7, **request: Any) -> Run:
    return await runs.intake.accept(incoming(run_id, agency_id=agency_id, **request))


async def claimed(
    runs: RunStore,
    run_id: str | None = None,
    *,
    worker: str = "w-1",
    at_most: int = 99,
    config_id: str | None = None,
) -> Claim:
    claim = await runs.queue.claim(
        worker=worker, lease=LEASE, max_runs_per_agency=at_most, config_id=config_id, run_id=run_id
    )
    assert claim is not None
    return claim


async def nothing_to_claim(
    runs: RunStore, run_id: str | None = None, *, at_most: int = 99, config_id: str | None = None
) -> bool:
    claim = await runs.queue.claim(
        worker="w-9", lease=LEASE, max_runs_per_agency=at_most, config_id=config_id, run_id=run_id
    )
    return claim is None


async def prepared(runs: RunStore, run_id: str = "r", **request: Any) -> Claim:
    """A claim on a run that was prepared, with its uploads, and one more that its plan doesn't name."""
    await accepted(runs, run_id, **request)
    claim = await claimed(runs, run_id)
    for upload in (UNPLANNED, *PLANNED):
        await runs.attempts.record_upload(claim, upload)
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    return claim


async def finished(runs: RunStore, run_id: str = "r", **request: Any) -> Run:
    """A run that has failed."""
    await accepted(runs, run_id, **request)
    return await runs.attempts.fail(await claimed(runs, run_id), FAILURE)


async def events(backend: Backend, run_id: str) -> list[tuple[str, RunCompletion]]:
    """The run's events: id and content."""
    return [(each.event_id, RunCompletion.model_validate_json(each.value)) for each in await backend.outbox(run_id)]


async def standing(runs: RunStore, run_id: str = "r") -> Run:
    run = await runs.history.get(run_id)
    assert run is not None
    return run


async def taken_over(backend: Backend, claim: Claim) -> Claim:
    await backend.age(claim.run.run_id, PAST_THE_LEASE)
    return await claimed(backend.runs, claim.run.run_id, worker="w-2")


def set_of(uploads: list[UploadRef]) -> set[tuple[str, str]]:
    return {(upload.key, upload.upload_id) for upload in uploads}
