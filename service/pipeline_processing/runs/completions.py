"""Progress and completion events of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.labels import Labels
from pipeline_processing.model import (
    Bill,
    ConfigId,
    Count,
    Message,
    Run,
    RunFailure,
    RunId,
    RunState,
    TraceId,
)

SOURCE = "/pipeline-processing"
"""The `ce_source` of all events of this service."""


def since_0_2(description: str, **default: Any) -> Any:
    """Describe a field that events and manifests of earlier versions lack. Its default is null unless one is given."""
    return Field(description=description, json_schema_extra={"x-since": "0.2"}, **(default or {"default": None}))


def cloud_event_headers(event_id: str, *, type_: str, at: datetime) -> dict[str, str]:
    """Return the headers of a CloudEvent in binary mode."""
    return {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": SOURCE,
        "ce_type": type_,
        "ce_time": at.isoformat(),
        "content-type": "application/json",
    }


class RunCompletion(Message):
    """What is announced when a run has finished: RunSucceeded, RunFailed or RunCancelled, by `state`."""

    run_id: RunId
    job: str
    agency_id: AgencyId
    state: Literal["succeeded", "failed", "cancelled"]
    attempt: Count
    dry_run: bool
    config_id: ConfigId | None = since_0_2("Identity of the job config that the run was exported with.")
    labels: Labels = since_0_2("The request's labels.", default_factory=dict)
    requested_by: str | None = since_0_2("Who asked for the run, as the request says.")
    replay_of: RunId | None
    requested_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime
    duration_ms: Count
    rows_read: Count
    rows_written: Count
    rows_filtered: Count
    rows_rejected: Count
    bytes_written: Count
    bill: Bill | None = since_0_2(
        "What the run has used. The same in history, manifest and event; null if it isn't known."
    )
    manifest: str | None
    trace_id: TraceId | None
    error: RunFailure | None

    @property
    def event_type(self) -> str:
        """The CloudEvents type."""
        return f"agency.run.{self.state}"

    @classmethod
    def of(cls, run: Run) -> "RunCompletion":
        """Describe a finished run. Raises ValueError if it hasn't finished."""
        if not run.state.finished or run.finished_at is None:
            raise ValueError(f"run {run.run_id} has not finished")
        return cls(
            run_id=run.run_id,
            job=run.job,
            agency_id=run.agency_id,
            state=run.state.value,
            attempt=run.attempt,
            dry_run=run.dry_run,
            config_id=run.config_id,
            labels=run.labels,
            requested_by=run.requested_by,
            replay_of=run.replay_of,
            requested_at=run.queued_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            duration_ms=run.duration_ms or 0,
            rows_read=run.rows_read or 0,
            rows_written=run.rows_written or 0,
            rows_filtered=run.rows_filtered or 0,
            rows_rejected=run.rows_rejected or 0,
            bytes_written=run.bytes_written or 0,
            bill=run.bill,
            manifest=run.manifest_url if run.state is RunState.SUCCEEDED else None,
            trace_id=run.trace_id,
            error=run.error,
        )


class RunProgress(Message):
    """How far a run is. Type `agency.run.progress`."""

    run_id: RunId
    agency_id: AgencyId
    attempt: Count
    state: RunState
    dataset: str | None
    stage: str | None
    rows_read: Count
    rows_written: Count
    bytes_written: Count
    at: AwareDatetime
    dataset_number: Count | None = since_0_2("Which of the run's datasets this is, from 1.")
    dataset_count: Count | None = since_0_2("How many datasets the run exports.")
    dataset_rows_read: Count | None = since_0_2("Rows read of this dataset alone.")
    dataset_rows_written: Count | None = since_0_2("Rows written of this dataset alone.")
    dataset_bytes_written: Count | None = since_0_2("Bytes written of this dataset alone.")
    rows_expected: Count | None = since_0_2(
        "Rows that the last successful exports of the same datasets read; null in the run's first seconds, "
        "and if one of them has none."
    )


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """A CloudEvents 1.0 event in binary mode: attributes in the headers, data in `value`."""

    event_id: str
    run_id: str
    type: str
    key: str
    headers: Mapping[str, str]
    value: bytes


def completion_event(run: Run) -> OutboxEvent:
    """Return the event of a finished run. Its id is stable, because a run finishes only once."""
    completion = RunCompletion.of(run)
    event_id = f"{run.run_id}:{run.state.value}"
    headers = cloud_event_headers(event_id, type_=completion.event_type, at=completion.finished_at)
    if run.trace_id is not None and run.span_id is not None:
        headers["traceparent"] = f"00-{run.trace_id}-{run.span_id}-01"
        if run.tracestate is not None:
            headers["tracestate"] = run.tracestate
    return OutboxEvent(
        event_id=event_id,
        run_id=run.run_id,
        type=completion.event_type,
        key=str(run.agency_id),
        headers=headers,
        value=completion.model_dump_json().encode(),
    )
