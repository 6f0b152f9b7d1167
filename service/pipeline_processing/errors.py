"""
Every error of the service. Its type says what the caller does next.

    PipelineError
    ├── RunError                  ends one run; `retryable` says whether another attempt may help
    │   ├── DataError             1: a reason in the rows or a step; correct the data, then replay
    │   │   ├── StepFailed, StepAddedRows, TooManyRejected, ExpectationFailed, RowTooLarge, ArtifactTooLarge
    │   │   ├── QueryFailed, SourceDataInvalid
    │   ├── JobConfigError        65: correct the job config
    │   │   ├── UnknownColumn, InvalidStep, QueryInvalid
    │   ├── PublicationError      1: the destination holds something other than what this run decided
    │   │   ├── ConflictingObjects, PlanLost
    │   ├── TransientError        try again later: 69 where a server can't be reached, 75 otherwise
    │   │   ├── SourceUnavailable, UpstreamUnavailable, DestinationUnavailable, HistoryUnavailable, KafkaUnavailable
    │   │   ├── Throttled, StandbyConflict, ProcessEnded, AttemptsExhausted, DeadlineExceeded
    │   │   ├── SourceBusy
    │   │   │   └── TooManyConnections   and run fewer at once until then
    │   ├── AccessDenied          77: grant the permissions
    │   ├── BucketMissing, ForeignPrefix, DatabaseMisconfigured   78: correct the service's settings
    │   ├── RowsUnaccounted       70: a stage lost rows without counting them; a bug
    │   └── InternalError         70: an unexpected error; a bug
    ├── RequestError              65: the request can't be used; a dead letter when it came from Kafka
    │   ├── InvalidJson, InvalidRequest, InvalidEvent, UnknownJob, UnknownDataset, ConflictingRequest, RequestTooLarge
    ├── SettingsError             78: correct the service's settings
    │   ├── HistoryOutdated, HistoryTooNew   or migrate the history, or upgrade this service
    │   ├── DestinationChanged               or set the destination back
    │   ├── TopicMissing                     or create the topic
    │   ├── SecretMissing                    or set the secret that a job config names
    ├── InvalidTriggers           65: correct the triggers file
    ├── RunHeldElsewhere          75: another worker has the run
    ├── RunOfAnotherJobConfig     65: use the job config that the run was accepted with
    ├── RunPutOff                 75: the run is due later than `run` waits
    ├── RunUnknown                65: no such run in the history
    ├── PlaceUnknown              65: a topic has no message at that place
    ├── Superseded                stop and change nothing: another worker took over, or the run was cancelled
    ├── UploadMissing             the destination has neither the upload nor its object
    └── MessageRefused            the broker refuses a message permanently: sending it again won't help
        └── MessageTooLarge           because of its size: send less
"""

import difflib
import signal
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import ClassVar, Self


class PipelineError(Exception):
    """Base of every error that is raised on purpose. `str()` is a message for people, and includes the remedy."""

    kind: ClassVar[str] = "internal_error"
    """Stable name, published as `error.kind`."""
    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False
    step: int | None = None
    """Number of the dataset's step that it is about, from 1 on."""
    _located = False

    def at(self, place: str) -> Self:
        """Prefix the message with the place where the error happened, unless it already has one. Returns `self`."""
        if not self._located:
            self.args = (f"{place}: {self}",)
            self._located = True
        return self


class RunError(PipelineError):
    """Ends one run, or one attempt of it if `retryable`."""


# -- the data, or a step -------------------------------------------------------------------------


class DataError(RunError):
    """A reason in the rows or in a step: the same run would fail again."""

    kind = "data_error"
    exit_code = 1


class StepFailed(DataError):
    """A step raised, or returned what isn't rows."""

    kind = "step_failed"


class TooManyRejected(DataError):
    """More rows were rejected than `max_rejected` allows."""

    kind = "too_many_rejected"


class SourceDataInvalid(DataError):
    """An upstream API sent what isn't the pages that the job config describes."""

    kind = "source_data_invalid"


class StepAddedRows(DataError):
    """A step returned more rows than it got, so rows could no longer be accounted for."""

    kind = "step_added_rows"

    def __init__(self, *, step: str, dataset: str, got: int, returned: int) -> None:
        super().__init__(
            f"Step {step!r} of dataset {dataset!r} got {got} rows and returned {returned}. "
            "A step may change or drop rows, but never add any: produce extra rows in the query instead."
        )


class ExpectationFailed(DataError):
    """A check of `expect` isn't met."""

    kind = "expectation_failed"


class RowTooLarge(DataError):
    """One row, as it is read or as it is encoded, doesn't fit into its share of the memory budget."""

    kind = "row_too_large"

    def __init__(self, *, dataset: str, size: int, limit: int) -> None:
        super().__init__(
            f"A row of dataset {dataset!r} takes {size:,} bytes, more than the {limit:,} that fit into this "
            "worker's memory budget. Raise PIPELINE_WORKER__MEMORY_BUDGET_MIB, or remove the large column from the "
            "query."
        )


class ArtifactTooLarge(DataError):
    """An artifact outgrew what one multipart upload can hold."""

    kind = "artifact_too_large"


class QueryFailed(DataError):
    """The query was planned, and failed while it ran."""

    kind = "query_failed"


# -- the job config ------------------------------------------------------------------------------


class JobConfigError(RunError):
    """The job config is wrong: no attempt can succeed until it is mended."""

    kind = "invalid_job_config"
    exit_code = 65
    key: str | None = None
    """The key of a step's options that is wrong, if it is a single one: a column of `derive`, say."""


class UnknownColumn(JobConfigError):
    """A step reads a column that nothing before it provides."""

    kind = "unknown_column"

    def __init__(self, column: str, *, step: str, available: Sequence[str], without: Collection[str] = ()) -> None:
        """`without` names the columns that earlier steps removed, for when not all columns are known."""
        self.column = column
        there = f"the rows there have {', '.join(available) or 'none'}"
        if column in without:
            there = "an earlier step left it out or renamed it"
        close = difflib.get_close_matches(column, available, n=1)
        super().__init__(
            f"Step {step!r} reads column {column!r}, but {there}. {f'Did you mean {close[0]!r}? ' if close else ''}"
            "Correct the step, or keep the column in an earlier `select`."
        )


class InvalidStep(JobConfigError):
    """A step can't be built from its config, or can't be applied to the rows before it."""

    kind = "invalid_step"


class QueryInvalid(JobConfigError):
    """Postgres can't parse or plan the query, or its result can't be exported."""

    kind = "query_invalid"


# -- publication ---------------------------------------------------------------------------------


class PublicationError(RunError):
    """What stands at the destination isn't what this run decided. Final: nothing is overwritten."""

    kind = "publication_error"
    exit_code = 1


class ConflictingObjects(PublicationError):
    """Another object stands where one of this run belongs."""

    kind = "conflicting_objects"

    def __init__(self, url: str, *, why: str) -> None:
        super().__init__(
            f"{url} already exists and isn't this run's: {why}. Nothing was overwritten. "
            "Find out what else writes below this prefix, then replay the run."
        )


class PlanLost(PublicationError):
    """Some uploads of a stored plan were removed from outside after others had been completed."""

    kind = "plan_lost"

    def __init__(self, url: str) -> None:
        super().__init__(
            f"The upload of {url} was removed from outside before it was complete. The run's other objects were "
            "deleted. Make the bucket's lifecycle rule keep incomplete uploads for longer than the longest run, then "
            "replay the run."
        )


# -- transient -----------------------------------------------------------------------------------


class TransientError(RunError):
    """A later attempt may succeed."""

    kind = "transient"
    exit_code = 75
    retryable = True
    passes: ClassVar[bool] = False
    """Whether the cause passes by itself, like an outage: such attempts don't count at first (`runs/failures.py`)."""

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        """`retry_after`: seconds to wait before the next attempt, if the server gave any."""
        super().__init__(*args)
        self.retry_after = retry_after


class SourceUnavailable(TransientError):
    """The database with the agencies' data can't be reached, or broke off."""

    kind = "source_unavailable"
    exit_code = 69
    passes = True


class DestinationUnavailable(TransientError):
    """The destination can't be reached, or answers with a server error."""

    kind = "destination_unavailable"
    exit_code = 69
    passes = True


class HistoryUnavailable(TransientError):
    """The database with the run history can't be reached, or broke off."""

    kind = "history_unavailable"
    exit_code = 69
    passes = True


class KafkaUnavailable(TransientError):
    """The Kafka brokers can't be reached, or broke off."""

    kind = "kafka_unavailable"
    exit_code = 69
    passes = True


class UpstreamUnavailable(TransientError):
    """An HTTP API that a source or a step asks can't be reached, or answers with a server error."""

    kind = "upstream_unavailable"
    exit_code = 69
    passes = True


class Throttled(TransientError):
    """A destination, or an HTTP API, asks for fewer requests."""

    kind = "throttled"
    passes = True


class StandbyConflict(TransientError):
    """A standby cancelled the query, because replay needed the rows that it reads."""

    kind = "standby_conflict"
    passes = True


class SourceBusy(TransientError):
    """The database has no resources left for this query just now (memory, disk, locks)."""

    kind = "source_busy"


class TooManyConnections(SourceBusy):
    """The database, or a pooler before it, has no connection left for this service's user."""

    kind = "too_many_connections"
    passes = True


class ProcessEnded(TransientError):
    """The process that worked on one run alone ended before the run did."""

    kind = "process_ended"

    def __init__(self, code: int) -> None:
        how = f"by signal {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
        super().__init__(
            f"The process that worked on this run alone ended {how}. Look at its log, at what the job config's own "
            "functions do, and at the machine's memory."
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class AttemptsExhausted(TransientError):
    """The last permitted attempt failed for a transient reason."""

    kind = "attempts_exhausted"
    retryable = False


class DeadlineExceeded(TransientError):
    """The request's deadline passed before the run was decided."""

    kind = "deadline_exceeded"
    retryable = False

    def __init__(self, deadline: datetime) -> None:
        super().__init__(
            f"The request's deadline, {deadline:%Y-%m-%dT%H:%M:%SZ}, passed before the run was decided. "
            "Replay the run, as a replay has no deadline, or give the next request a later one."
        )


# -- access and settings -------------------------------------------------------------------------


class AccessDenied(RunError):
    """A server refuses this service's identity."""

    kind = "access_denied"
    exit_code = 77


class BucketMissing(RunError):
    """The bucket or folder of a destination doesn't exist, and hasn't been there since the service was started."""

    kind = "bucket_missing"
    exit_code = 78


class ForeignPrefix(RunError):
    """The prefix belongs to another installation."""

    kind = "foreign_prefix"
    exit_code = 78


class DatabaseMisconfigured(RunError):
    """The DSN is wrong, or the server isn't set up as this service needs it."""

    kind = "database_misconfigured"
    exit_code = 78


class SettingsError(PipelineError):
    """The service's settings are wrong or incomplete. The message lists every fault."""

    kind = "invalid_settings"
    exit_code = 78


class SecretMissing(SettingsError):
    """The job config names a secret that the settings don't have."""

    kind = "secret_missing"

    def __init__(self, name: str, *, available: Sequence[str]) -> None:
        variable = f"PIPELINE_SECRETS__{name.upper()}"
        super().__init__(
            f"The job config needs the secret {name!r}, but the settings have {', '.join(available) or 'none'}. "
            f"Set {variable}, or set {variable}_FILE to a file that contains it."
        )


class DestinationChanged(SettingsError):
    """The settings are wrong or incomplete, or a stored plan needs a destination that they don't have any more."""

    def __init__(self, run_id: str, *, needed: Sequence[str], here: Sequence[str]) -> None:
        super().__init__(
            f"Run {run_id!r} is to be published at {', '.join(needed)}, but this service writes to {', '.join(here)}. "
            "Restore the former destination until the run is published."
        )


class HistoryOutdated(SettingsError):
    """The tables of the run history aren't there, are those of an older version, or can't be seen by this role."""

    kind = "history_outdated"

    def __init__(self, schema: str, *, cause: str | None = None) -> None:
        super().__init__(
            f"Schema {schema!r} has no run history, or one of an older version, or this role may not use it"
            f"{f' ({cause})' if cause else ''}. Run `pipeline-processing migrate`, grant the role USAGE on the schema, "
            "or correct PIPELINE_HISTORY__DSN and PIPELINE_HISTORY__SCHEMA."
        )


class HistoryTooNew(SettingsError):
    """The run history was migrated by a newer version of this service."""

    kind = "history_too_new"

    def __init__(self, schema: str, *, version: int, known: int) -> None:
        super().__init__(
            f"The run history in schema {schema!r} has version {version}, and this service knows versions up to "
            f"{known}. Upgrade this service, or set PIPELINE_HISTORY__SCHEMA to another schema."
        )


class TopicMissing(SettingsError):
    """A topic isn't there, and this service was told not to create any."""

    kind = "topic_missing"

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__(
            f"Kafka has no topic {', '.join(topics)}. Create it, let this service do so with "
            "PIPELINE_KAFKA__CREATE_TOPICS=true, or correct PIPELINE_KAFKA__…_TOPIC."
        )


# -- bugs ----------------------------------------------------------------------------------------


class RowsUnaccounted(RunError):
    """Rows read aren't the rows written, filtered and rejected."""

    kind = "rows_unaccounted"

    def __init__(self, dataset: str, *, read: int, written: int, filtered: int, rejected: int) -> None:
        super().__init__(
            f"Dataset {dataset!r}: {read} rows read, but {written} written, {filtered} filtered and {rejected} "
            "rejected. A stage lost or made up rows, so nothing was published. Please report this as a bug."
        )


class InternalError(RunError):
    """Something that nobody foresaw: a bug."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}. This is a bug: please report it with the log.")


# -- requests ------------------------------------------------------------------------------------


class RequestError(PipelineError):
    """The request can't be used. `kind` is also the `dlq_reason` of its dead letter."""

    kind = "invalid_request"
    exit_code = 65


class InvalidJson(RequestError):
    """The message's value isn't JSON."""

    kind = "invalid_json"


class InvalidEvent(RequestError):
    """The message's CloudEvents attributes are incomplete or wrong, or a trigger can't use the event."""

    kind = "invalid_event"


class RequestTooLarge(RequestError):
    """The message is larger than this service takes."""

    kind = "too_large"

    def __init__(self, size: int, *, limit: int) -> None:
        super().__init__(
            f"The message's value has {size:,} bytes, but a request may have {limit:,} at most. "
            "Send fewer or shorter params, or several requests."
        )


class InvalidRequest(RequestError):
    """The request breaks its schema, or has values that nothing uses. The message lists every fault."""


class UnknownJob(RequestError):
    """The request names a job that this service doesn't run."""

    kind = "unknown_job"

    def __init__(self, unknown: str, *, job: str) -> None:
        super().__init__(f"There is no job {unknown!r}. The job is {job}.")


class UnknownDataset(RequestError):
    """The request names a dataset that the job config doesn't have."""

    kind = "unknown_dataset"

    def __init__(self, unknown: Sequence[str], *, available: Sequence[str]) -> None:
        super().__init__(
            f"The job config has no dataset {', '.join(map(repr, unknown))}; it has {', '.join(available)}. "
            "Correct the request, or add the dataset to the job config."
        )


class ConflictingRequest(RequestError):
    """The run id was used before, with a different request."""

    kind = "conflicting_request"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Run {run_id!r} exists already, for a different request. A run id belongs to one request only: use "
            f"another id, or see `pipeline-processing history --run-id {run_id}`."
        )


class InvalidTriggers(PipelineError):
    """The triggers file can't be read or used. The message lists every fault."""

    kind = "invalid_triggers"
    exit_code = 65


# -- the run protocol ----------------------------------------------------------------------------


class RunHeldElsewhere(PipelineError):
    """Another worker holds the run's lease."""

    kind = "run_held_elsewhere"
    exit_code = 75
    retryable = True

    def __init__(self, run_id: str, *, worker: str | None) -> None:
        super().__init__(
            f"Run {run_id!r} is held by worker {worker or 'unknown'}. Wait for it, or try again when its lease "
            f"has ended: `pipeline-processing history --run-id {run_id}` shows both."
        )


class RunOfAnotherJobConfig(PipelineError):
    """A run that has not finished was accepted with another job config than the one at hand."""

    kind = "run_of_another_job_config"
    exit_code = 65

    def __init__(self, run_id: str, *, accepted: str | None, given: str) -> None:
        super().__init__(
            f"Run {run_id!r} was accepted with the job config {accepted}, but this one is {given}. Use the job config "
            f"and destination that it was accepted with, end it with `pipeline-processing cancel {run_id}`, or use "
            "another run id."
        )


class RunPutOff(PipelineError):
    """The run is due again only after a long time, as a server asks for."""

    kind = "run_put_off"
    exit_code = 75
    retryable = True

    def __init__(self, run_id: str, *, until: datetime, cause: str | None) -> None:
        """`cause`: why the last attempt failed."""
        super().__init__(
            f"Run {run_id!r} is put off until {until:%Y-%m-%dT%H:%M:%SZ}, and `run` doesn't wait that long. Repeat the "
            f"command then, with `--run-id {run_id}`, or let a `serve` continue the run."
            + (f" The last attempt: {cause}" if cause else "")
        )


class RunUnknown(PipelineError):
    """No such run in the history."""

    kind = "run_unknown"
    exit_code = 65

    def __init__(self, run_id: str, *, remedy: str = "`pipeline-processing history` lists the runs it has.") -> None:
        super().__init__(f"The history has no run {run_id!r}. {remedy}")


class PlaceUnknown(PipelineError):
    """Nothing stands at that place of a topic, or nothing any more."""

    kind = "place_unknown"
    exit_code = 65


class Superseded(PipelineError):
    """The fence or the state has moved on: this worker may change nothing any more."""

    kind = "superseded"
    exit_code = 75

    def __init__(self, run_id: str, *, fence: int | None) -> None:
        super().__init__(f"Run {run_id!r} was taken over or cancelled: fence {fence} no longer holds it.")


class UploadMissing(PipelineError):
    """Neither the upload nor the object that it should have become is there."""

    kind = "upload_missing"

    def __init__(self, url: str) -> None:
        super().__init__(f"The upload of {url} is gone, and the object doesn't exist.")


class MessageRefused(PipelineError):
    """The broker refuses a message for good, whenever it is sent."""

    kind = "message_refused"


class MessageTooLarge(MessageRefused):
    """The broker refuses a message for its size."""

    kind = "message_too_large"


RUN_CANCELLED_EXIT_CODE = 79
"""Exit code of a run that ended `cancelled`, which has no error."""
