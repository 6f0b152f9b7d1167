"""
What the core needs from the outside, as small Protocols. Each implementation has a file of its own, and only
the composition root (`app.py`) imports it. No driver's exception crosses a port: see `errors.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from pydantic import SecretStr

from pipeline_processing.aio.clock import Clock as Clock
from pipeline_processing.errors import RequestError
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import (
    Artifact,
    Attempt,
    Compression,
    Counts,
    CsvOptions,
    DatasetCounts,
    FormatName,
    JobRequest,
    Plan,
    Run,
    RunCompletion,
    RunFailure,
    RunState,
    Staged,
    UploadRef,
)
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection
from pipeline_processing.runs.completions import OutboxEvent

# -- rows ----------------------------------------------------------------------------------------

Row = dict[str, Any]
"""
One row, column name → value. Until a step reads a value it is *carried*: as the fragment of output that Postgres
itself would print (see `kinds.py`), so that it costs nothing to keep exact.
"""
Rows = list[Row]


RowMaker = Callable[[Sequence[Sequence[Any]]], list[Any]]
"""Records of a source (values in the order of its columns) → rows."""


class Batches(Protocol):
    """The rows of one dataset, batch by batch. Leaving the block closes the cursor."""

    columns: Columns
    make_rows: RowMaker
    """How records become rows, to be set before the first is read; dicts of all columns if it isn't."""

    def __aiter__(self) -> "Batches": ...

    async def __anext__(self) -> list[Any]:
        """What `make_rows` makes of the next records; it is called once for each batch, just before."""


class Snapshot(Protocol):
    """One consistent view of the source, over all datasets of a run."""

    taken_at: datetime

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """What a dataset's rows have."""

    def rows(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AbstractAsyncContextManager[Batches]:
        """
        Read one dataset.

        `arguments` are the values that its options may name; `carry` is the form in which values travel: "json" or
        "text". Raises QueryInvalid, QueryFailed, SourceDataInvalid, AccessDenied, or a TransientError.
        """


class Source(Protocol):
    """Where an agency's rows come from."""

    def snapshot(self, datasets: Mapping[str, Any]) -> AbstractAsyncContextManager[Snapshot]:
        """
        Open a snapshot to read these datasets in: name → the options of its `source`, as the job config has them.

        Leaving the block ends it. Raises as `Snapshot.rows` does.
        """


class LookupTable(Protocol):
    """Rows of a database found by their keys."""

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
        source's server, or the one whose DSN is the secret of that name. Raises as `Snapshot.rows` does.
        """

    def upstream(self, options: Any) -> AbstractAsyncContextManager[Upstream]:
        """An HTTP API as `UpstreamOptions` describe it. Raises SecretMissing."""

    def secret(self, name: str) -> SecretStr:
        """Raises SecretMissing."""


class Format(Protocol):
    """Rows → bytes of one dataset's artifacts. An instance has the state of one dataset."""

    carry: str
    """The form in which it takes carried values: "json" or "text"."""
    rows: int
    """Rows encoded so far."""

    def begin(self, names: Sequence[str]) -> None:
        """The columns, as far as they are known before the first row."""

    def head(self) -> bytes:
        """What every artifact begins with. Where only rows tell the columns, those of the first one encoded do."""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Makes rows in the shape that this format encodes fastest, where no step has to read them."""

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
    Where artifacts go. `url` is its root, e.g. `s3://exports/agencies`; keys are relative to it.

    One that `holds_tables` takes the bytes of a whole dataset as one artifact, never compressed, and puts them into a
    table; it has no manifest, so `publish` and `exists` aren't called.

    Every method may raise DestinationUnavailable or Throttled (try again), AccessDenied or BucketMissing.
    """

    url: str
    holds_tables: bool

    async def verify_installation(self, installation: UUID) -> None:
        """Check that this prefix is nobody else's. Writes nothing. Raises ForeignPrefix."""

    async def mark_installation(self, installation: UUID) -> None:
        """Mark the prefix as this installation's, if nobody has. Raises ForeignPrefix."""

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

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """Write a small object unless it is there. Raises ConflictingObjects if it is there with other bytes."""

    async def exists(self, key: str) -> bool: ...

    async def abort(self, upload: UploadRef) -> None:
        """Remove an incomplete upload. One that is gone already is fine."""

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """Remove one completed artifact if it is ours: only for plans of runs that have failed for good."""

    def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """Every incomplete upload below this destination, whoever started it."""


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The exclusive right to work on a run, until the lease ends or the fence is superseded.

    `run` is the run as it stood at the claim: its state is `running`, or `prepared` when a stored plan is to be
    rolled forward. A `suspect` was lost with its worker before, and may have ended it: no other run may be in the same
    process.
    """

    run: Run
    fence: int
    worker: str
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that is valid in itself, with the id of its run and the trace that it continues."""

    request: JobRequest
    run_id: str
    trace_id: str
    span_id: str
    tracestate: str | None = None
    """W3C `tracestate`, carried through to the completion event."""
    origin: Origin | None = None
    config_id: str | None = None
    """The job config that it is accepted with; see `config_id`."""

    @property
    def pinned(self) -> bool:
        """
        Whether only a worker with this job config may export the run. A request from Kafka asks the service, whatever
        job config that has by then.
        """
        return self.origin is None and self.config_id is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt measured: totals, bytes of all artifacts, milliseconds per stage."""

    counts: Counts = field(default_factory=Counts)
    datasets: tuple[DatasetCounts, ...] = ()
    covered_until: datetime | None = None
    """Up to when the datasets are exported: the snapshot's time, or the request's `until` if that is earlier."""
    bytes_written: int = 0
    timings: Mapping[str, Any] = field(default_factory=dict)
    manifest_url: str | None = None


@dataclass(frozen=True, slots=True)
class LastSuccess:
    """An agency's last successful export of one dataset."""

    run_id: str
    covered_until: datetime
    counts: DatasetCounts


Announce = Callable[[Sequence[OutboxEvent]], Awaitable[None]]
"""Sends events; returns once all of them are stored by the broker."""


class RunStore(Protocol):
    """
    The run table: queue and history. It holds the truth about every run.

    Every write names the fence and the state that it starts from, and raises Superseded when either has moved
    on. One whose reply was lost may be repeated: it gives the run as the first left it. All times are the
    database's. Any method may raise HistoryUnavailable.
    """

    async def installation_id(self) -> UUID:
        """Which history this is. Raises DatabaseMisconfigured where it can't store any text."""

    async def now(self) -> datetime:
        """The time of day here, by which leases, `not_before` and deadlines are meant."""

    async def accept(self, incoming: Incoming) -> Run:
        """
        Write the request as a `queued` run, unless the run id is known; either way, the run as it stands.

        Raises ConflictingRequest if the id was used for another request, and InvalidRequest for text with a NUL.
        """

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        """
        The same for many: to each its run, or why it can't be one, such as text that the database can't store. Of
        several with one run id, the first counts. After an error some may have been written: repeating it is harmless.

        A finished run that is asked for again by a message has its event put back among the unsent ones.
        """

    async def claim(
        self,
        *,
        worker: str,
        lease: timedelta,
        max_runs_per_agency: int,
        config_id: str | None = None,
        run_id: str | None = None,
    ) -> Claim | None:
        """
        Take one run: a `prepared` one that nobody holds first, then, of those due (queued, or running with a lease
        that has ended), by priority, agencies in turn, age. With `run_id`, that run or none.

        `config_id` is the worker's job config: runs pinned to another one are left alone, unless they are prepared.
        The attempt goes up by one, except for a prepared run. A run that was lost beside others, for the first time,
        is a suspect, but the lost attempt doesn't count as a try.
        """

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        """Extend the lease from now. Raises Superseded also when the run was cancelled."""

    async def check(self, claim: Claim) -> None:
        """Raises Superseded if the claim holds no longer: taken over, or the run was cancelled. Changes nothing."""

    async def start_attempt(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        """Note the attempt's own trace in `run_attempts`."""

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        """Remember an upload before its first byte is sent."""

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        """Uploads that were aborted or completed need no clean-up any more."""

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        """
        Uploads of a run that nobody will complete: their fence is superseded, or the run is neither `running` nor
        `prepared`, and no plan that can still be completed names them. A failed run's plan can't: `failed` is final.
        """

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        """
        Of uploads that were found at their destination *before* this call: those that nobody will complete, by the
        rule of `lost_uploads`. One that isn't recorded is lost unless the run is `running` or unknown.
        """

    async def runs_to_clean_up(self) -> list[str]:
        """Ids of the runs with lost uploads, or with a plan that can't be completed any more."""

    async def failed_plan(self, run_id: str) -> Plan | None:
        """The plan of a run that failed after its decision, whose objects may not all have been deleted."""

    async def forget_failed_plan(self, run_id: str) -> None:
        """Its objects are gone."""

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        """The decision: `running → prepared`, storing the plan. Repeating it with the same fence is harmless."""

    async def plan(self, claim: Claim) -> Plan:
        """The stored plan of a prepared run."""

    async def succeed(self, claim: Claim) -> Run:
        """`prepared → succeeded`, with its event in the outbox, in one transaction."""

    async def succeed_dry(self, claim: Claim, outcome: Outcome) -> Run:
        """`running → succeeded` for a dry run, which has no plan; with its event."""

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        """`running → failed`, or `prepared → failed` where the plan can't be published; with its event."""

    async def retry(self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True) -> Run:
        """`running → queued`, not before `delay` from now. Unless it `counts`, the attempt isn't a try."""

    async def hand_back(self, claim: Claim) -> Run:
        """`running → queued`, due at once, and the attempt doesn't count as a try; a prepared run is only let go."""

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        """Give up the lease of a `prepared` run; it can be claimed again after `delay`."""

    async def void_plan(self, claim: Claim) -> Run:
        """`prepared → queued`: the plan's first upload is gone and nothing was completed, so export again."""

    async def cancel(self, run_id: str) -> Run:
        """
        `queued` or `running` → `cancelled`, with its event. A run in any other state is returned as it is.

        Raises RunUnknown.
        """

    async def tries(self, run_id: str) -> int:
        """Attempts so far that count against the maximum. Raises RunUnknown."""

    async def get(self, run_id: str) -> Run | None: ...

    async def history(
        self,
        *,
        agency_id: int | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 50,
    ) -> list[Run]:
        """Runs, newest first, by the time they were accepted: at `since` or later, and before `until`."""

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Those of the runs that there are, by id."""

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many runs are replays of each of these; without those that have none."""

    async def last_success(self, agency_id: int, dataset: str) -> LastSuccess | None:
        """
        The successful export of that dataset, dry runs aside, that covers most: the latest `covered_until`, and of
        several the one that finished last.
        """

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        """
        What one run did of each of its datasets, in their order. Empty before it is decided, for a dry run, and where
        an attempt that failed measured nothing.
        """

    async def attempts(self, run_id: str) -> list[Attempt]:
        """All attempts of one run, oldest first."""

    async def events(self, run_id: str) -> list[tuple[str, RunCompletion]]:
        """The run's events in the outbox: id and content."""

    # -- announcing ------------------------------------------------------------------------------

    async def announce(self, send: Announce, *, limit: int) -> int:
        """
        Give up to `limit` unsent events, oldest first, to `send`, and mark them sent when it has returned; their
        number. Whoever calls this meanwhile is given others. If `send` raises, they stay unsent.
        """

    async def idle(self, *, config_id: str | None = None) -> bool:
        """
        Whether nothing is left to do for a worker with this job config: no run is due, running, prepared, or waiting
        for another attempt, and every event is sent. A request that isn't to start yet doesn't count, nor does a run
        pinned to another job config.
        """

    async def waiting_for_another_config(self, config_id: str) -> int:
        """How many runs are due that are pinned to another job config."""


# -- dead letters --------------------------------------------------------------------------------


class LetterStore(Protocol):
    """
    Dead letters that Kafka refuses for good. They stand in the database of the run history, numbered from 1; as
    records, they have the partition `STORED` and their number as the offset. Any method may raise HistoryUnavailable.
    """

    async def keep(self, letters: Sequence[Outgoing]) -> None:
        """Store these, all or none. One whose request has a letter here already isn't stored again."""

    def kept(self, *, since: datetime | None = None) -> AsyncGenerator[Record, None]:
        """All, or those put aside since then, the newest first."""

    async def numbered(self, numbers: Collection[int]) -> dict[int, Record]:
        """Those of these that are there, by number."""
