"""Examples of messages for the AsyncAPI document, built as the service builds its messages."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline_processing.errors import InvalidRequest
from pipeline_processing.messaging.dead_letters import dead_letter
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import Bill, JobRequest, Run, RunFailure, RunState
from pipeline_processing.requests.job_messages import request_message
from pipeline_processing.runs.completions import RunProgress, cloud_event_headers, completion_event
from pipeline_processing.serving.progress_events import PROGRESS_TYPE
from pipeline_processing.telemetry.masking import Mask

_NOON = datetime(2026, 1, 18, 12, tzinfo=UTC)
_REQUEST = JobRequest(
    agency_id=123,
    run_id="run-20260118-123",
    datasets=("records",),
    requested_by="billing-service",
    labels={"team": "billing"},
)
_SUCCEEDED = Run(
    run_id="run-20260118-123",
    job=_REQUEST.job,
    agency_id=123,
    state=RunState.SUCCEEDED,
    attempt=1,
    request=_REQUEST,
    requested_by=_REQUEST.requested_by,
    labels=_REQUEST.labels,
    config_id="5b0f2c7a91d84e63b7c4a1f09d3e6827",
    queued_at=_NOON,
    started_at=_NOON + timedelta(milliseconds=412),
    finished_at=_NOON + timedelta(milliseconds=1646),
    duration_ms=1234,
    rows_read=10,
    rows_written=9,
    rows_filtered=0,
    rows_rejected=1,
    bytes_written=4321,
    bill=Bill(client_cpu_ms=81.5, database_ms=40.2, bytes_read=5120, bytes_written=4321, s3_requests=5),
    manifest_url="s3://exports/agencies/agency_id=123/run_id=run-20260118-123/_manifest.json",
    trace_id="6f1c0a9d27b84e53a1d2c3b4e5f60718",
    span_id="00f067aa0ba902b7",
)
_UNFINISHED: dict[str, Any] = {"bytes_written": 0, "bill": None, "manifest_url": None}


def examples() -> dict[str, list[dict[str, Any]]]:
    """Return examples by the name of their message."""
    failure = RunFailure(
        kind="unknown_column",
        message="Step 'select' reads column 'colour', but the rows there have id, name. Correct the step.",
        retryable=False,
        exit_code=65,
    )
    request = request_message(_REQUEST, topic="", now=_NOON, trace_headers={})
    event = {
        "specversion": "1.0",
        "id": "payment-88",
        "source": "/billing",
        "type": "billing.payment.made",
        "datacontenttype": "application/json",
        "data": {"agency_id": 123},
    }
    return {
        "jobRequest": [
            {"name": "minimal", "payload": {"agency_id": 123}},
            _example("cloudEvent", _texts(request.headers), request.value),
        ],
        "jobRequestStructured": [
            _example("structured", {"content-type": "application/cloudevents+json"}, json.dumps(event)),
        ],
        "runSucceeded": [_completion(_SUCCEEDED)],
        "runFailed": [
            _completion(_SUCCEEDED.model_copy(update={**_UNFINISHED, "state": RunState.FAILED, "error": failure}))
        ],
        "runCancelled": [_completion(_SUCCEEDED.model_copy(update={**_UNFINISHED, "state": RunState.CANCELLED}))],
        "runProgress": [_progress()],
        "deadLetter": [_letter()],
    }


def _completion(run: Run) -> dict[str, Any]:
    event = completion_event(run)
    return _example(run.state.value, event.headers, event.value)


def _progress() -> dict[str, Any]:
    at = _NOON + timedelta(seconds=1)
    progress = RunProgress(
        run_id=_SUCCEEDED.run_id,
        agency_id=_SUCCEEDED.agency_id,
        attempt=1,
        state=RunState.RUNNING,
        dataset="records",
        stage="source",
        rows_read=10,
        rows_written=9,
        bytes_written=4321,
        at=at,
        dataset_number=1,
        dataset_count=1,
        dataset_rows_read=10,
        dataset_rows_written=9,
        dataset_bytes_written=4321,
        rows_expected=12,
    )
    headers = cloud_event_headers("6ff0a1d4-52b7-4a38-8f3d-f3a7c3f2b5c1", type_=PROGRESS_TYPE, at=at)
    return _example("running", headers, progress.model_dump_json())


def _letter() -> dict[str, Any]:
    record = Record("agency-jobs.requests", 0, 42, int(_NOON.timestamp() * 1000), b"123", b'{"agency_id": "123"}')
    error = InvalidRequest("The request isn't valid: agency_id: Input should be a valid integer.")
    letter = dead_letter(record, error, topic="", now=_NOON, mask=Mask())
    return _example("invalidRequest", _texts(letter.headers), letter.value)


def _texts(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


def _example(name: str, headers: Any, value: bytes | str | None) -> dict[str, Any]:
    return {"name": name, "headers": dict(headers), "payload": json.loads(value or b"null")}
