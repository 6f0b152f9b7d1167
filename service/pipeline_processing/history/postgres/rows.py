"""Convert records of the run table to the model, and back."""

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline_processing.agency_keys import AgencyId, number_of
from pipeline_processing.model import Attempt, Bill, Counts, DatasetCounts, JobRequest, Run, RunFailure
from pipeline_processing.plan import Plan
from pipeline_processing.runs.run_filter import RunFilter
from pipeline_processing.runs.store import Outcome

_RUN_COLUMNS = tuple(Run.model_fields.keys() - {"agency_id", "request", "labels", "timings", "bill", "error"})
_ATTEMPT_COLUMNS = tuple(Attempt.model_fields)
_OUTCOME_COLUMNS = (*Counts.model_fields, "bytes_written", "timings", "manifest_url", "bill")


def run_of(row: Mapping[str, Any]) -> Run:
    """Convert a record of `runs`. Fields that a newer version added to it or its request are ignored."""
    error = None
    if row["error_kind"] is not None:
        error = RunFailure(
            kind=row["error_kind"],
            message=row["error_message"],
            retryable=row["error_retryable"],
            exit_code=row["error_exit_code"],
        )
    return Run(
        **{column: row[column] for column in _RUN_COLUMNS},
        agency_id=agency_of(row),
        request=JobRequest.model_validate_json(row["request"], extra="ignore"),
        labels=orjson.loads(row["labels"]),
        timings=None if row["timings"] is None else orjson.loads(row["timings"]),
        bill=None if row["bill"] is None else Bill.model_validate_json(row["bill"], extra="ignore"),
        error=error,
    )


def agency_of(row: Mapping[str, Any]) -> AgencyId:
    """Return the agency of a record of `runs`. `agency_id` is the number of a key that is text."""
    key: AgencyId = row["agency_id"] if row["agency_key"] is None else row["agency_key"]
    return key


def agency_columns(agency_id: AgencyId) -> dict[str, Any]:
    """Return an agency's columns in `runs`."""
    return {"agency_id": number_of(agency_id), "agency_key": agency_id if isinstance(agency_id, str) else None}


def attempt_of(row: Mapping[str, Any]) -> Attempt:
    """Convert a record of `run_attempts`."""
    return Attempt(**{column: row[column] for column in _ATTEMPT_COLUMNS})


def plan_of(stored: str) -> Plan:
    """Parse a stored plan. Fields that a newer version added are ignored."""
    return Plan.model_validate_json(stored, extra="ignore")


def dataset_counts_of(row: Mapping[str, Any]) -> DatasetCounts:
    """Convert a record of `run_datasets`."""
    return DatasetCounts(name=row["dataset"], **{column: row[column] for column in Counts.model_fields})


def dataset_columns(outcome: Outcome) -> dict[str, Any]:
    """Return the counts of each dataset, as one list per column."""
    return {
        "datasets": [counts.name for counts in outcome.datasets],
        **{
            column.replace("rows_", "datasets_"): [getattr(counts, column) for counts in outcome.datasets]
            for column in Counts.model_fields
        },
        "datasets_schema": [
            schema.model_dump_json() if (schema := outcome.schemas.get(counts.name)) else None
            for counts in outcome.datasets
        ],
        "covered_until": outcome.covered_until,
    }


def outcome_columns(outcome: Outcome | None) -> dict[str, Any]:
    """Return an attempt's counts and timings by column; all null without an outcome."""
    if outcome is None:
        return dict.fromkeys(_OUTCOME_COLUMNS)
    return {
        **outcome.counts.model_dump(),
        "bytes_written": outcome.bytes_written,
        "timings": orjson.dumps(dict(outcome.timings)).decode(),
        "manifest_url": outcome.manifest_url,
        "bill": bill_column(outcome.bill),
    }


def bill_column(bill: Bill | None) -> str | None:
    """Return a bill as JSON."""
    return None if bill is None else bill.model_dump_json()


def failure_columns(failure: RunFailure | None) -> dict[str, Any]:
    """Return an error's fields by column; all null without an error."""
    return {
        "error_kind": failure and failure.kind,
        "error_message": failure and failure.message,
        "error_retryable": failure and failure.retryable,
        "error_exit_code": failure and failure.exit_code,
    }


def filter_values(wanted: RunFilter) -> dict[str, Any]:
    """Return a filter as the parameters of a query; null for what matches every run."""
    return {
        "agency_id": wanted.agency_id and number_of(wanted.agency_id),
        "agency": wanted.agency_id and str(wanted.agency_id),
        "states": [state.value for state in wanted.states] or None,
        "labels": orjson.dumps(dict(wanted.labels)).decode() if wanted.labels else None,
        "error_kinds": list(wanted.error_kinds) or None,
        "requested_by": wanted.requested_by,
        "text": wanted.text,
        "since": wanted.since,
        "until": wanted.until,
        "after_time": wanted.after and wanted.after.queued_at,
        "after_id": wanted.after and wanted.after.run_id,
    }
