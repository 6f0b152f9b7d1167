"""
What the core needs from the outside, as small Protocols. Each implementation has its own file, which only the
composition root (`app/`) imports. No driver's exception crosses a port: see `errors.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from pydantic import SecretStr

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import Clock
from pipeline_processing.model import Compression, CsvOptions, DatasetCounts, DatasetSchema, FormatName
from pipeline_processing.plan import Artifact, Staged, UploadRef
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.lines import Lines
from pipeline_processing.rows.projection import Projection

# -- rows ----------------------------------------------------------------------------------------

Records = Sequence[Sequence[Any]]
"""
What a source returns: for each row, the values in the order of its columns.

Values are *carried* as the fragment of output that Postgres would print (see `kinds.py`), so keeping them exact costs
nothing until a step reads them.
"""

Row = dict[str, Any]
"""One row as steps see it: column name → carried value."""
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Template:
    """
    How to write values of a record one behind the other: each after its prefix, then `tail`.

    With `csv` None, values are written as JSON, as `row_to_json` writes them: NaN and the infinities are strings.
    """

    columns: tuple[tuple[int, bytes], ...]
    """The index of a column, and the bytes before its value: `(0, b'{"id":'), (3, b',"name":')`."""
    tail: bytes
    csv: CsvOptions | None = None
    """
    If set, values are fields as `COPY … (FORMAT csv)` writes them with these options. If there is one field only and
    nothing but a line end behind it, `\\.` is quoted.
    """


class Batches(Protocol):
    """The records of one dataset, batch by batch. Leaving the block closes the cursor."""

    columns: Columns

    def __aiter__(self) -> "Batches": ...

    async def __anext__(self) -> Records | Lines:
        """Return the next records, at least one. Batches should be about 1 MiB and at most 1,000 records."""


@runtime_checkable
class Delivers(Protocol):
    """Batches that can deliver something else than whole records."""

    def deliver(self, outputs: Template | Sequence[int | Template]) -> bool:
        """
        Ask for it, before the first batch is read.

        A template asks for encoded rows, as `Lines`. A sequence asks for records that have only these values: the
        carried value of the column with an index, or what a template writes, as `msgspec.Raw` (in the form "text", as
        str). Returns False if that isn't possible for this dataset: records then have the values of all columns.
        """


class Snapshot(Protocol):
    """One consistent view of the source, for all datasets of a run."""

    taken_at: datetime

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """The columns of a dataset's records."""

    def records(
        self, dataset: str, arguments: Mapping[str, Any], *, carry: str
    ) -> AbstractAsyncContextManager[Batches]:
        """
        Read one dataset.

        `arguments` are the values that its options may name; `carry` is the form of carried values: "json" or "text".
        Raises QueryInvalid, QueryFailed, SourceDataInvalid, AccessDenied, or a TransientError.
        """


@runtime_checkable
class ChecksAgencyKey(Protocol):
    """A snapshot that can tell before a run whether a dataset can be asked for an agency."""

    def check_agency_key(self, dataset: str, key: AgencyKey) -> None:
        """Raise QueryInvalid if no key of this kind can be given to the dataset."""


class Source(Protocol):
    """Where an agency's rows come from."""

    def snapshot(self, datasets: Mapping[str, Any]) -> AbstractAsyncContextManager[Snapshot]:
        """
        Open a snapshot for these datasets: name → the options of its `source`, as in the job config.

        Leaving the block closes it. Raises the same errors as `Snapshot.records`.
        """


class LookupTable(Protocol):
    """Finds rows of a database by key."""

    columns: Columns

    async def find(self, keys: Sequence[Any]) -> Rows:
        """Return all rows whose key is one of `keys` (natural values, never None)."""


class Upstream(Protocol):
    """An HTTP API, with its credentials, rate limit and retries."""

    def get(
        self, url: str, *, query: Mapping[str, str] | None = None, shown_as: str | None = None
    ) -> AbstractAsyncContextManager["Answer"]:
        """
        Send a GET request, with retries, until the response has a status below 400.

        Messages show the URL without its query. Set `shown_as` if the URL contains values of rows: messages then show
        that instead. Raises UpstreamUnavailable or Throttled when the retries are exhausted, AccessDenied, or
        SourceDataInvalid for any other status.
        """


class Answer(Protocol):
    """A response whose body is read piece by piece."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are case-insensitive."""

    @property
    def url(self) -> str:
        """The URL after redirects."""

    async def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all if -1; empty at the end. Raises UpstreamUnavailable if that fails."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to a POST request. `retry_after` is in seconds, if the server gave any."""

    status: int
    retry_after: float | None = None


class Poster(Protocol):
    """Sends POST requests to other services."""

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], shown_as: str) -> Posted:
        """
        Send one request, and return any answer. Redirects aren't followed: one could lead to an internal address.

        Messages show `shown_as` instead of the URL, which may contain secrets. Raises UpstreamUnavailable without an
        answer within 10 s.
        """


class Services(Protocol):
    """External services that steps may use."""

    def lookup(self, query: str, *, secret: str | None, carry: str) -> AbstractAsyncContextManager[LookupTable]:
        """
        Open a lookup by a query whose one parameter, `$1`, is a list of keys.

        It runs outside the source's snapshot, on the source's server or the one whose DSN is the secret of that name.
        Raises the same errors as `Snapshot.records`.
        """

    def upstream(self, options: Any) -> AbstractAsyncContextManager[Upstream]:
        """Open an HTTP API described by `UpstreamOptions`. Raises SecretMissing."""

    def secret(self, name: str) -> SecretStr:
        """Raises SecretMissing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many runs share a process, and how many bytes each part of the data path may hold in memory."""

    runs: int
    """Maximum concurrent runs."""
    batch: int
    """For one batch of rows."""
    row: int
    """The longest row, both as the source sends it and as encoded."""
    large_rows: int
    """For rows larger than a batch, over all runs."""
    uploads: ByteBudget
    """Shared by the parts of all uploads."""
    uploads_per_run: int = 2
    """How many uploads of one run draw from `uploads` at once."""


class BuildContext(Services, Protocol):
    """What sources and destinations are built with."""

    clock: Clock
    limits: Limits

    def dsn(self, secret: str | None) -> SecretStr:
        """Return the secret of that name, or PIPELINE_SOURCE__DSN if None. Raises SecretMissing or SettingsError."""

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on, mask these in everything that leaves the process."""


RowMaker = Callable[[Records], list[Any]]
"""A source's records → rows."""


class Packer(Protocol):
    """Makes the content of one artifact of encoded rows, as a stream. Output may lag behind the input."""

    @property
    def held(self) -> int:
        """Most bytes of output that are still to come for the rows so far."""

    def compress(self, data: bytes, /) -> bytes:
        """Take what `Format.encode` returned. Raises DataError for a value that the format can't hold."""

    def flush(self) -> bytes:
        """Return the remaining bytes and end the stream."""


class Format(Protocol):
    """Encodes rows as bytes of artifacts. An instance has the state of one dataset."""

    carry: str
    """The form of the carried values that it takes: "json" or "text"."""
    weight: int
    """How many times as much memory a row takes as in NDJSON. A row must be so much smaller to fit."""

    def head(self) -> bytes:
        """Return the bytes at the start of every artifact."""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Return a maker of rows in the shape that encodes fastest, for datasets whose rows no step reads."""

    def template(self, projection: Projection, *, whole: bool) -> Template | None:
        """
        Return how to write these values of a record: as a whole row or, if not `whole`, as what stands in a row for
        one value, that of the first column. None if the format can't write several values as one.
        """

    def encode(self, batch: list[Any]) -> bytes:
        """
        Encode a non-empty batch of dicts, of rows from `row_maker`, or of what the source has written by a `template`
        of whole rows.
        """

    def longest_row(self, encoded: bytes) -> int:
        """Return the length in bytes of the longest row in what `encode` returned."""

    def packer(self, compression: Compression, *, most_held: int) -> Packer:
        """Start the content of an artifact. It holds back about `most_held` bytes of rows at most."""


# -- artifacts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Content:
    """Describes the content of one artifact."""

    dataset: str
    format: FormatName = FormatName.NDJSON
    compression: Compression = Compression.NONE
    columns: tuple[str, ...] | None = None
    """Names of the columns; None if they depend on the rows."""
    snapshot_at: datetime | None = None
    """When its rows were read, by the source's clock; None for rejected rows."""
    csv: CsvOptions = field(default_factory=CsvOptions)
    inline: bool = True
    """Whether it may be stored in the plan itself if it is small: a plan has room for a few artifacts."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An upload whose bytes are all stored but not yet visible."""

    size: int
    sha256: str
    staged: Staged


class Upload(Protocol):
    """One artifact being written."""

    async def write(self, data: bytes) -> None:
        """Append data. Waits while the memory budget is exhausted or too many parts are in flight."""

    async def seal(self) -> Sealed:
        """Store the remaining bytes. From then on, only a stored plan may complete the upload."""


UploadStarted = Callable[[UploadRef], Awaitable[None]]
"""Awaited before an upload's first byte is sent, so that the upload can be found after a crash."""


class Destination(Protocol):
    """
    Where artifacts go.

    Every method may raise DestinationUnavailable or Throttled (retry), AccessDenied or BucketMissing.
    """

    url: str
    """The root, e.g. `s3://exports/agencies`. Keys are relative to it."""
    holds_tables: bool
    """
    Whether it loads each dataset into a table, as one uncompressed artifact. Each write then contains whole records.
    """

    async def verify_installation(self, installation: UUID) -> None:
        """Check that no other installation uses this prefix, without writing. Raises ForeignPrefix."""

    async def mark_installation(self, installation: UUID) -> None:
        """Mark the prefix as this installation's if it is unmarked. Raises ForeignPrefix."""

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        """
        Start one artifact. It stays invisible until a stored plan completes it. Leaving the block without `seal()`, or
        with an exception, aborts the upload.
        """

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """
        Make one artifact visible. Idempotent.

        Raises UploadMissing if neither the upload nor the object exists, and ConflictingObjects if the object exists
        and isn't this artifact (by run, attempt, size and checksum).
        """

    async def abort(self, upload: UploadRef) -> None:
        """Remove an incomplete upload, if it exists."""

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """Remove a completed artifact if it is ours. Only for plans of runs that have failed permanently."""

    def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """Yield every incomplete upload below this destination, of any process."""


@runtime_checkable
class ManifestStore(Protocol):
    """A destination of objects that can also hold manifests. Raises the same errors as `Destination`."""

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """Write a small object unless it exists. Raises ConflictingObjects if it exists with other bytes."""

    async def exists(self, key: str) -> bool:
        """Return whether there is an object with that key."""


@runtime_checkable
class PointerStore(Protocol):
    """A destination of objects that can also hold objects which change. Raises the same errors as `Destination`."""

    async def replace(
        self, key: str, body: bytes, *, replaces: Callable[[bytes], bool], metadata: Mapping[str, str]
    ) -> None:
        """
        Write a small object if there is none, or if `replaces` is true of the content of the one that is there.

        The condition holds when the object is written, also if others write it at the same time.
        """


@runtime_checkable
class ChecksDatasets(Protocol):
    """A destination that can check before a run whether it accepts a job's datasets."""

    async def check(self, datasets: Sequence[str], *, columns: Mapping[str, Sequence[str]]) -> None:
        """
        Check the datasets without writing. `columns` are the known columns of each dataset.

        Raises JobConfigError with all faults, AccessDenied, or a TransientError.
        """


# -- the history --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastSuccess:
    """An agency's last successful export of one dataset."""

    run_id: str
    covered_until: datetime
    counts: DatasetCounts
    schema: DatasetSchema | None = None
    """The columns of its rows; None if they weren't known."""
