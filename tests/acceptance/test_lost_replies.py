"""
Calls that are carried out while their reply is lost: to whoever asked they look as if they had failed. However that
is told to the worker, the run ends once, as what it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.app import one_run as app
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.errors import DestinationUnavailable, HistoryUnavailable, PipelineError
from pipeline_processing.history.postgres.attempts import PostgresAttempts
from pipeline_processing.history.postgres.intake import PostgresIntake
from pipeline_processing.history.postgres.queue import PostgresQueue
from pipeline_processing.history.postgres.reads import PostgresHistory
from pipeline_processing.model import JobRequest, Run
from pipeline_processing.runs.executor import Reporting
from pipeline_processing.settings.loader import load_settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import telemetry_with
from tests.acceptance.service import JOB, LARGE, Service, changed, published_in

RUN = "lost-1"
Calls = list[str]


@pytest.fixture
def loses_replies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Lets a method lose its first replies, or those to the `nth` calls; gives a list of its calls."""

    def install(
        owner: type, method: str, error: Callable[[str], PipelineError], *, nth: tuple[int, ...] = (1,)
    ) -> Calls:
        calls: Calls = []
        real = getattr(owner, method)

        async def lossy(*arguments: Any, **options: Any) -> Any:
            calls.append(method)
            number = len(calls)
            answer = await real(*arguments, **options)
            if number in nth:
                raise error(f"the reply to {method} was lost")
            return answer

        monkeypatch.setattr(owner, method, lossy)
        return calls

    return install


def run(service: Service, job: Mapping[str, Any] = JOB, **environment: str) -> Run:
    """One run in this process, as the command line does it."""
    settings = load_settings({**service.environment, **environment}).settings
    config = load_job_config(service.job_config(job))

    async def once() -> Run:
        telemetry = telemetry_with([], {}, mask=Mask())
        reporting = Reporting(tracer=telemetry.tracer, mask=Mask(), on_progress=lambda progress: None)
        async with app.run_now(settings, config, reporting=reporting) as runner:
            request = JobRequest(agency_id=LARGE, run_id=RUN)
            return await runner.run(request, run_id=RUN, trace_id="ab" * 16, span_id="cd" * 8)

    return asyncio.run(once())


def succeeded_once(service: Service, finished: Run, *, outcomes: list[str]) -> None:
    """One success: one manifest, one event, nothing pending."""
    assert finished.state == "succeeded"
    manifest = published_in(service, RUN, LARGE)
    assert manifest["attempt"] == len(outcomes) == finished.attempt
    assert service.outcomes(RUN) == outcomes
    (event,) = service.events(RUN)
    assert json.loads(event["value"])["attempt"] == finished.attempt
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])


@pytest.mark.parametrize(
    ("port", "method"),
    [
        (PostgresIntake, "accept"),
        (PostgresAttempts, "start"),
        (PostgresAttempts, "prepare"),
        (PostgresAttempts, "plan"),
        (PostgresAttempts, "succeed"),
    ],
)
def test_a_write_to_the_history_loses_its_reply(
    service: Service, loses_replies: Callable[..., Calls], port: type, method: str
) -> None:
    """It is repeated, which is harmless, and the run is one attempt and one success."""
    calls = loses_replies(port, method, HistoryUnavailable)

    finished = run(service)

    assert calls
    succeeded_once(service, finished, outcomes=["succeeded"])


def test_a_claim_loses_its_reply(service: Service, loses_replies: Callable[..., Calls]) -> None:
    """The worker doesn't know that it holds the run, so it waits for that lease to end, and tries again."""
    loses_replies(PostgresQueue, "claim", HistoryUnavailable)

    finished = run(service, PIPELINE_WORKER__LEASE_SECONDS="1.5")

    succeeded_once(service, finished, outcomes=["lost", "succeeded"])


def test_recording_an_upload_loses_its_reply(service: Service, loses_replies: Callable[..., Calls]) -> None:
    """It is recorded again, before the first byte is sent."""
    loses_replies(PostgresAttempts, "record_upload", HistoryUnavailable)

    finished = run(service)

    succeeded_once(service, finished, outcomes=["succeeded"])


def test_renewals_lose_their_replies(service: Service, loses_replies: Callable[..., Calls]) -> None:
    """Renewing is asked again well within the lease, so the attempt goes on undisturbed."""
    calls = loses_replies(PostgresQueue, "renew", HistoryUnavailable, nth=(1, 3))
    job = changed(JOB, records={"steps": [{"python": "tests.acceptance.acceptance_steps:take_a_second"}]})

    finished = run(service, job, PIPELINE_WORKER__LEASE_SECONDS="1.5")

    assert len(calls) >= 2
    succeeded_once(service, finished, outcomes=["succeeded"])


@pytest.mark.parametrize(("port", "method"), [(PostgresAttempts, "fail"), (PostgresHistory, "tries")])
def test_a_failure_loses_its_reply(
    service: Service, loses_replies: Callable[..., Calls], port: type, method: str
) -> None:
    """The run has failed once, with its own error and one event, and `run` knows it."""
    loses_replies(port, method, HistoryUnavailable)
    job = changed(JOB, payments={"expect": {"min_rows": 1000}})

    finished = run(service, job)

    assert finished.state == "failed"
    assert finished.error is not None
    assert finished.error.kind == "expectation_failed"
    assert service.outcomes(RUN) == ["failed"]
    (event,) = service.events(RUN)
    assert event["type"] == "agency.run.failed"
    assert (service.listed(), service.pending_uploads(), service.recorded_uploads()) == ([], [], [])


def test_a_retry_loses_its_reply(service: Service, loses_replies: Callable[..., Calls]) -> None:
    """The attempt is given up once, and the next one succeeds."""
    loses_replies(S3Client, "create_multipart_upload", DestinationUnavailable)
    loses_replies(PostgresAttempts, "retry", HistoryUnavailable)

    finished = run(service)

    assert finished.state == "succeeded"
    assert service.outcomes(RUN) == ["retrying", "succeeded"]
    published_in(service, RUN, LARGE)
    # An upload whose id never arrived is known to nobody: that is what the bucket's lifecycle rule is for.
    assert len(service.pending_uploads()) == 1
    assert service.recorded_uploads() == []


# The first that is published is the installation's mark, the second is the manifest.
@pytest.mark.parametrize(
    ("method", "nth"), [("complete", (1,)), ("complete", (2,)), ("complete", (1, 2, 3)), ("publish", (2, 3))]
)
def test_the_destination_loses_replies(
    service: Service, loses_replies: Callable[..., Calls], method: str, nth: tuple[int, ...]
) -> None:
    """The stored plan is rolled forward again: what is there already is recognised, and nothing is written twice."""
    loses_replies(S3Destination, method, DestinationUnavailable, nth=nth)

    finished = run(service)

    succeeded_once(service, finished, outcomes=["succeeded"])


@pytest.mark.parametrize(
    ("method", "nth"),
    [("complete_multipart_upload_if_absent", (1,)), ("put_object_if_absent", (2,)), ("put_object_if_absent", (2, 3))],
)
def test_s3_loses_replies(
    service: Service, loses_replies: Callable[..., Calls], method: str, nth: tuple[int, ...]
) -> None:
    """A look at the object settles what became of the call."""
    loses_replies(S3Client, method, DestinationUnavailable, nth=nth)

    finished = run(service)

    succeeded_once(service, finished, outcomes=["succeeded"])


def test_all_of_them_at_once(service: Service, loses_replies: Callable[..., Calls]) -> None:
    """Every first reply to a decision, a completion, a publication and an end is lost in one and the same run."""
    loses_replies(PostgresIntake, "accept", HistoryUnavailable)
    for method in ("start", "prepare", "succeed", "release"):
        loses_replies(PostgresAttempts, method, HistoryUnavailable)
    loses_replies(S3Destination, "complete", DestinationUnavailable)
    loses_replies(S3Destination, "publish", DestinationUnavailable, nth=(2,))

    finished = run(service)

    succeeded_once(service, finished, outcomes=["succeeded"])
