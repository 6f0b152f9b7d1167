"""The event that announces a finished run: the same bytes, however often it is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline_processing.model import Run, RunCompletion

SOURCE = "/pipeline-processing"
"""`ce_source` of every event of this service."""


def cloud_event_headers(event_id: str, *, type_: str, at: datetime) -> dict[str, str]:
    """The attributes of a CloudEvent of this service, in binary mode."""
    return {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": SOURCE,
        "ce_type": type_,
        "ce_time": at.isoformat(),
        "content-type": "application/json",
    }


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One event: CloudEvents 1.0 in binary mode, attributes in the headers and the data in `value`."""

    event_id: str
    run_id: str
    type: str
    key: str
    headers: Mapping[str, str]
    value: bytes


def completion_event(run: Run) -> OutboxEvent:
    """The event of a finished run. Its id is fixed: a run finishes once."""
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
