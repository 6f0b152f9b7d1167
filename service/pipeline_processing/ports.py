"""
What the core needs from the outside, as small Protocols. Each implementation has a file of its own, and only
the composition root (`app.py`) imports it. No driver's exception crosses a port: see `errors.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from pydantic import SecretStr

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import Clock
from pipeline_processing.model import (
    Artifact,
    Compression,
    CsvOptions,
    DatasetCounts,
    FormatName,
    Staged,
    UploadRef,
)
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection

# -- rows ----------------------------------------------------------------------------------------

Records = Sequence[Sequence[Any]]
"""
What a source gives: for each row the values in the order of its columns.

Values are *carried*: as the fragment of output that Postgres itself would print (see `kinds.py`). So it costs nothing
to keep them exact until a step reads them.
"""

Row = dict[str, Any]
"""One row as steps see it: column name → value, carried until a step reads it."""
Rows = list[Row]


class Batches(Protocol):
    """The records of one dataset, batch by batch. Leaving the block closes the cursor."""

    columns: Columns

    def __aiter__(self) -> "Batches": ...

    async def __anext__(self) -> Records:
        """The next records, at least one. Batches should stay near 1 MiB and 1,000 records."""


class Snapshot(Protocol):
    """One consistent view of the source, over all datasets of a run."""

    taken_at: datetime

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """The columns of a dataset's records."""

    def records(
        self, dataset: str, arguments: Mapping[str, Any], *, carry: str
    ) -> AbstractAsyncContextManager[Batches]:
        """
        Read one dataset.

        `arguments` are the values that its options may name; `carry` is the form in which values travel: "json" or
        "text". Raises QueryInvalid, QueryFailed, SourceDataInvalid, AccessDenied, or a TransientError.
        """


class Source(Protocol):
    """Where an agency's rows come from."""

    def snapshot(self, datasets: Mapping[str, Any]) -> AbstractAsyncContextManager[Snapshot]:
        """
        Open a snapshot to read these datasets in: name → the options of its `source`, as in the job config.

        Leaving the block ends it. Raises as `Snapshot.records` does.
        """


class LookupTable(Protocol):
    """Finds rows of a database by their keys."""

    columns: Columns

    async def find(self, keys: Sequence[Any]) -> Rows:
        """All rows whose key is one of `keys` (natural values, none of them null)."""


class Upstream(Protocol):
    """An HTTP API, with its access, its rate limit and its retries."""

    def get(
        self, url: str, *, query: Mapping[str, str] | None = None, shown_as: str | None = None
    ) -> AbstractAsyncContextManager["Answer"]:
        """
        Ask, until the answer has a status below 400.

        Messages show the URL without its query; or `shown_as`, without its query, for a URL that holds values of rows.
        Raises UpstreamUnavailable or Throttled once the retries are used up, AccessDenied, or SourceDataInvalid for
        any other status.
        """


class Answer(Protocol):
    """An answer whose body is read piece by piece."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Found by their names in any case."""

    @property
    def url(self) -> str:
        """Where it came from, after redirects."""

    async def read(self, size: int = -1) -> bytes:
        """Up to so many bytes, all of them if -1; empty at the end. Raises UpstreamUnavailable if it breaks off."""


class Services(Protocol):
    """What steps may use of the outside world."""

    def lookup(self, query: str, *, secret: str | None, carry: str) -> AbstractAsyncContextManager[LookupTable]:
        """
        A query whose one parameter, `$1`, is a list of keys, on connections apart from the source's snapshot: to the
        source's server, or the one whose DSN is the secret of that name. Raises as `Snapshot.records` does.
        """

    def upstream(self, options: Any) -> AbstractAsyncContextManager[Upstream]:
        """An HTTP API as `UpstreamOptions` describe it. Raises SecretMissing."""

    def secret(self, name: str) -> SecretStr:
        """Raises SecretMissing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many runs share a process, and the bytes that each part of the data path may hold in memory."""

    runs: int
    """Most runs at once."""
    batch: int
    """One batch of rows."""
    row: int
    """The longest row, as the source sends it and as it is encoded."""
    large_rows: int
    """Rows larger than a batch, of all runs at a time."""
    uploads: ByteBudget
    """Parts of all uploads, which draw from it."""
    uploads_per_run: int = 2
    """To how many uploads that draw from it a run writes at once."""


class BuildContext(Services, Protocol):
    """What sources and destinations are built with."""

    clock: Clock
    limits: Limits

    def dsn(self, secret: str | None) -> SecretStr:
        """The secret of that name; without a name, PIPELINE_SOURCE__DSN. Raises SecretMissing or SettingsError."""

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these from now on in everything that leaves the process."""


RowMaker = Callable[[Records], list[Any]]
"""Makes rows of a source's records."""


class Format(Protocol):
    """Rows → bytes of one dataset's artifacts. An instance has the state of one dataset."""

    carry: str
    """The form in which it takes carried values: "json" or "text"."""

    def head(self) -> bytes:
        """What every artifact begins with."""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Makes rows in the shape that this format encodes fastest, for datasets whose rows no step reads."""

    def encode(self, batch: list[Any]) -> bytes:
        """One non-empty batch, of dicts or of what `row_maker` makes."""

    def longest_row(self, encoded: bytes) -> int:
        """Bytes of the longest row in what `encode` returned."""


# -- artifacts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Content:
    """What one artifact holds."""

    dataset: str
    format: FormatName = FormatName.NDJSON
    compression: Compression = Compression.NONE
    columns: tuple[str, ...] | None = None
    """Names of the columns; None where only the rows tell."""
    snapshot_at: datetime | None = None
    """How old its rows are, by the source's clock; None of rejected ones."""
    csv: CsvOptions = field(default_factory=CsvOptions)
    inline: bool = True
    """Whether a small one may stand in the plan itself: a plan has room for a few of them."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An upload whose bytes are all stored, and still invisible."""

    size: int
    sha256: str
    staged: Staged


class Upload(Protocol):
    """One artifact in the making."""

    async def write(self, data: bytes) -> None:
        """Append. Waits while the memory budget is spent or too many parts are under way."""

    async def seal(self) -> Sealed:
        """Store what is left. After it only a stored plan may complete the upload."""


UploadStarted = Callable[[UploadRef], Awaitable[None]]
"""Called, and awaited, before an upload's first byte is sent: whoever dies later leaves a trace of it."""


class Destination(Protocol):
    """
    Where artifacts go.

    Every method may raise DestinationUnavailable or Throttled (try again), AccessDenied or BucketMissing.
    """

    url: str
    """Its root, e.g. `s3://exports/agencies`. Keys are relative to it."""
    holds_tables: bool
    """
    Whether it loads the bytes of a whole dataset, as one artifact that is never compressed, into a table. Then each
    write holds whole records.
    """

    async def verify_installation(self, installation: UUID) -> None:
        """Check that no other installation uses this prefix. Writes nothing. Raises ForeignPrefix."""

    async def mark_installation(self, installation: UUID) -> None:
        """Mark the prefix as this installation's, unless it is marked. Raises ForeignPrefix."""

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        """
        Start one artifact. Nothing of it is visible until a stored plan completes it; leaving the block without
        `seal()`, or with an exception, aborts the upload.
        """

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """
        Make one artifact visible. Repeating it is harmless.

        Raises UploadMissing when neither the upload nor the object is there, and ConflictingObjects when the
        object is there and isn't this artifact (by run, attempt, size and checksum).
        """

    async def abort(self, upload: UploadRef) -> None:
        """Remove an incomplete upload. One that is gone already is fine."""

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """Remove one completed artifact if it is ours: only for plans of runs that have failed for good."""

    def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """Every incomplete upload below this destination, of any process."""


@runtime_checkable
class ManifestStore(Protocol):
    """Where manifests are published: what a destination of objects has beside its uploads. Raises as those do."""

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """Write a small object unless it is there. Raises ConflictingObjects if it is there with other bytes."""

    async def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""


@runtime_checkable
class ChecksDatasets(Protocol):
    """A destination that can tell before a run whether it takes a job's datasets."""

    async def check(self, datasets: Sequence[str], *, columns: Mapping[str, Sequence[str]]) -> None:
        """
        `columns` are those of each dataset, where they are known. Writes nothing.

        Raises JobConfigError, with all faults, AccessDenied, or a TransientError.
        """


# -- the history --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastSuccess:
    """An agency's last successful export of one dataset."""

    run_id: str
    covered_until: datetime
    counts: DatasetCounts
