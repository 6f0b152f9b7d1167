"""
Models of requests and runs, as they are sent and stored.

All models are frozen. Times are timezone-aware; sizes are bytes; durations are milliseconds. The plan of a run is in
`plan.py`, its manifest in `runs/manifest.py`, and its events in `runs/completions.py`.
"""

import codecs
import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    field_validator,
    model_validator,
)

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.labels import Labels

JOB = "agency_data_job"

RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
ParamValue = int | FiniteFloat | bool | str | None
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ConfigId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
TraceId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

_INTEGERS = range(-(2**63), 2**63)
_WHOLE = 1e15
"""From here on, floats have hardly any fraction, and jsonb returns them as integers."""


def _as_stored(name: str, value: Any) -> Any:
    """Normalize a param to the value that the run table returns, so that stored and received requests are equal."""
    if isinstance(value, dict | list):
        raise ValueError(f"{name} must be text, a number, true, false or null")
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) >= _WHOLE else value + 0.0  # + 0.0 turns -0.0 into 0.0
    if isinstance(value, int) and value not in _INTEGERS:
        # pydantic would fall back to float and lose digits.
        raise ValueError(f"{name} has more than 64 bits: send it as text")
    return value


BUILT_IN_ARGUMENTS = ("agency_id", "run_id", "since", "until")
"""Arguments that queries and `add` steps may use besides the request's own params."""


def _check_moment(value: Any) -> Any:
    """Accept only text that looks like a time. pydantic would read numbers as seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and _MOMENT.fullmatch(value)):
        return value
    raise ValueError("must be a time with its zone, such as 2026-01-18T10:00:00Z")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from None


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)")

Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_check_moment), AfterValidator(_in_utc)]
"""A time with its zone, converted to UTC."""


class FormatName(StrEnum):
    """How rows become bytes."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


class Compression(StrEnum):
    """What is done to the bytes of an artifact."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def suffix(self) -> str:
        """The suffix of an artifact's key."""
        return {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}[self]


class Message(BaseModel):
    """Base of all models: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


_ASCII = "".join(map(chr, range(128)))


class CsvOptions(Message):
    """How CSV is written, where it isn't as `COPY … (FORMAT csv, HEADER)` does."""

    delimiter: str = Field(",", description="One character: what stands between two fields.")
    header: bool = Field(True, description="Whether the first line names the columns.")
    null: str = Field("", description="What stands for null; the empty string is then written as it is.")
    quote: Literal["minimal", "all"] = Field(
        "minimal", description="Which fields are quoted: those that need it, or all but nulls."
    )
    line_end: Literal["lf", "crlf"] = Field("lf", description="What ends a line. Line ends in values stay as they are.")
    encoding: str = Field("utf-8", description="One that contains ASCII, such as latin-1 or windows-1252.")
    unencodable: Literal["fail", "replace"] = Field(
        "fail", description="Whether a character that the encoding lacks fails the run, or is written as `?`."
    )
    bom: bool = Field(False, description="Whether a file begins with a byte-order mark, by which Excel detects UTF-8.")

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str) -> str:
        if len(delimiter) != 1 or not delimiter.isascii() or (not delimiter.isprintable() and delimiter != "\t"):
            raise ValueError("must be one printable ASCII character, or a tab")
        if delimiter == '"' or delimiter.isalnum() or delimiter == ".":
            raise ValueError("can't be a quote, a letter, a digit or a point, which values are made of")
        return delimiter

    @field_validator("encoding")
    @classmethod
    def _contains_ascii(cls, encoding: str) -> str:
        """Return its name in Python's spelling."""
        try:
            codec = codecs.lookup(encoding)
            contains_ascii = _ASCII.encode(codec.name) == bytes(range(128))
        except (LookupError, UnicodeError):
            raise ValueError("isn't a known encoding: use utf-8, latin-1, windows-1252, …") from None
        # The codecs of ISO-2022 switch between character sets with bytes of ASCII.
        if not contains_ascii or codec.name.startswith("iso2022"):
            raise ValueError("must contain ASCII, as utf-8, latin-1 and windows-1252 do; `bom: true` adds a BOM")
        return codec.name

    @model_validator(mode="after")
    def _told_apart(self) -> "CsvOptions":
        if self.bom and self.encoding != "utf-8":
            raise ValueError("`bom` needs `encoding: utf-8`: other encodings have no byte-order mark")
        if any(character in self.null for character in (self.delimiter, '"', "\r", "\n")):
            raise ValueError("`null` can't hold the delimiter, a quote or a line end")
        if self.unencodable == "replace" and "?" in self.delimiter + self.null:
            raise ValueError("`delimiter` and `null` can't hold `?`, which stands for what can't be encoded")
        try:
            self.null.encode(self.encoding)
        except UnicodeEncodeError:
            raise ValueError(f"`null` has a character that {self.encoding} can't encode") from None
        return self


# -- the request ---------------------------------------------------------------------------------


class JobRequest(Message):
    """One agency's data, please. Only `agency_id` is required."""

    # Strict: reject `"123"` as an agency id and `"yes"` as a boolean.
    model_config = ConfigDict(strict=True)

    agency_id: AgencyId
    run_id: RunId | None = Field(None, description="Names the run for good. Derived from the message if absent.")
    job: str = JOB
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Datasets of the job config; all if null."
    )
    params: dict[str, ParamValue] = Field(default_factory=dict, description="Values for queries and `add` steps.")
    since: Moment | None = Field(None, description="A time for queries.")
    until: Moment | None = Field(None, description="A time for queries.")
    format: FormatName | None = Field(None, description="Replaces the format of every dataset.")
    dry_run: bool = False
    requested_by: str | None = None
    labels: Labels = Field(
        default_factory=dict,
        description="Up to 16 texts by name, for the history, manifest, objects and event of the run. "
        "Percent-encoded, as in a URL's query, they take at most 1,536 bytes.",
    )
    priority: int = Field(0, ge=-(2**15), le=2**15 - 1, description="Higher goes first.")
    not_before: Moment | None = Field(None, description="The run isn't started before.")
    deadline: Moment | None = Field(None, description="The run fails if it isn't decided by then.")
    replay_of: RunId | None = None

    @field_validator("datasets")
    @classmethod
    def _named_once(cls, datasets: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if datasets is not None and len(set(datasets)) < len(datasets):
            raise ValueError("names a dataset twice")
        return datasets

    @field_validator("params", mode="before")
    @classmethod
    def _usable(cls, params: Any) -> Any:
        if not isinstance(params, dict):
            return params
        if named := [name for name in BUILT_IN_ARGUMENTS if name in params]:
            raise ValueError(f"{named[0]} is built in: a param needs another name")
        return {name: _as_stored(name, value) for name, value in params.items()}

    def digest(self) -> str:
        """
        Return the hex SHA-256 of the request without `run_id` and `requested_by`.

        Requests with the same run id must have the same digest. Defaults are left out, so that a new field doesn't
        change the digest of requests that don't use it.
        """
        asked = self.model_dump(mode="json", exclude={"run_id", "requested_by"}, exclude_defaults=True)
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


# -- the run -------------------------------------------------------------------------------------


class RunState(StrEnum):
    """`queued → running → prepared → succeeded`, or `failed`, or `cancelled`."""

    QUEUED = "queued"
    RUNNING = "running"
    PREPARED = "prepared"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class Counts(Message):
    """Rows of a dataset or a run, each counted where it happens."""

    rows_read: Count = 0
    rows_written: Count = 0
    rows_filtered: Count = 0
    rows_rejected: Count = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in Counts.model_fields})

    @property
    def accounted_for(self) -> bool:
        """Whether every row read was written, filtered or rejected."""
        return self.rows_read == self.rows_written + self.rows_filtered + self.rows_rejected


class _Named(Message):
    name: str


class DatasetCounts(Counts, _Named):
    """Rows of one dataset. Of two bases, so that the name stands first."""


class SchemaColumn(Message):
    """A column of a dataset's rows."""

    name: str
    type: str | None = Field(
        None,
        description="text, integer, number, float, boolean, date, timestamp, timestamptz, uuid or json; the source's "
        "own name of any other type; null if it isn't known, as after a `python` step.",
    )


class DatasetSchema(Message):
    """The columns of a dataset's rows, in order."""

    columns: tuple[SchemaColumn, ...]
    fingerprint: str = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="The same for equal columns: the first 32 hex digits of the SHA-256 of the JSON of all "
        "`[name, type]`, without white space.",
    )

    @classmethod
    def of(cls, columns: Iterable[tuple[str, str | None]]) -> "DatasetSchema":
        """Describe columns, each a name and a type."""
        pairs = [list(column) for column in columns]
        return cls(
            columns=tuple(SchemaColumn(name=name, type=type_) for name, type_ in pairs),
            fingerprint=hashlib.sha256(orjson.dumps(pairs)).hexdigest()[:32],
        )


class RunFailure(Message):
    """Why a run failed, as events and history tell it."""

    kind: str
    message: str
    retryable: bool
    exit_code: int


class Bill(Message):
    """What a run has used until it was decided, over all attempts that could report it."""

    client_cpu_ms: Milliseconds = Field(0.0, description="Processor time of the worker: the run's share of it.")
    database_ms: Milliseconds = Field(
        0.0, description="Time spent waiting for the databases that the job config reads from."
    )
    bytes_read: Count = Field(0, description="Bytes received from sources.")
    bytes_written: Count = Field(0, description="Bytes handed to uploads, at all destinations.")
    s3_requests: Count = Field(0, description="Requests to S3, with those that publish the run.")


class Run(Message):
    """One row of the history: a request and the state of its run."""

    run_id: RunId
    job: str
    agency_id: AgencyId
    state: RunState
    attempt: Count
    fence: int | None = None
    worker: str | None = None
    lease_expires_at: datetime | None = None
    request: JobRequest
    requested_by: str | None = None
    labels: Labels = Field(default_factory=dict)
    replay_of: str | None = None
    dry_run: bool = False
    config_id: ConfigId | None = None
    pinned: bool = False
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    not_before: datetime | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: int | None = None
    rows_read: int | None = None
    rows_written: int | None = None
    rows_filtered: int | None = None
    rows_rejected: int | None = None
    bytes_written: int | None = None
    timings: dict[str, Any] | None = None
    bill: Bill | None = None
    manifest_url: str | None = None
    error: RunFailure | None = None
    trace_id: TraceId | None = None
    span_id: str | None = None
    tracestate: str | None = None


class Attempt(Message):
    """One try of a run."""

    run_id: RunId
    attempt: int
    fence: int
    worker: str
    outcome: str = Field(
        description="running, prepared, succeeded, failed, retrying, handed_back, cancelled, voided, or lost"
    )
    started_at: datetime
    finished_at: datetime | None = None
    error_kind: str | None = None
    error_message: str | None = None
    trace_id: TraceId | None = None
    span_id: str | None = None
