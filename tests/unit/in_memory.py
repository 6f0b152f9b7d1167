"""The run protocol on in-memory ports, and what a test may put in between to let things go wrong."""

from __future__ import annotations

import inspect
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import TracebackType
from typing import Any
from uuid import UUID

from opentelemetry.trace import Tracer
from pydantic import SecretStr

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.asking import Backoff, Server
from pipeline_processing.aio.clock import Clock, HistoryClock
from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunRecord, RunTable
from pipeline_processing.model import JobRequest, Run
from pipeline_processing.ports import Content, LookupTable, Upload, UploadStarted, Upstream
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.rows.lines import Lines
from pipeline_processing.rows.values import PLAIN_NUMBER, PLAIN_TEXT
from pipeline_processing.runs.billing import Ledger
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.runs.executor import DataPath, Executor, Reporting
from pipeline_processing.runs.failures import Attempted, RetryPolicy
from pipeline_processing.runs.isolated import Isolated
from pipeline_processing.runs.lease import Leases, Renewal
from pipeline_processing.runs.run_now import RunNow
from pipeline_processing.runs.store import Incoming, Origin, RunStore
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.memory.delivery import Outputs, delivered
from tests.memory.destination import MemoryDestination
from tests.unit.virtual_clock import VirtualClock

INSTALLATION = UUID("0192fe62-5a17-7cc0-8a4e-64d3f0a7c001")
TRACE_ID, SPAN_ID = "ab" * 16, "cd" * 8
CONFIG_ID = "c0" * 16
LEASE = timedelta(seconds=30)

Records = Sequence[tuple[Any, ...]]

COLUMNS = Columns(
    (
        Column("id", comparison=PLAIN_NUMBER, kind=Kind.INTEGER, origins=frozenset({"id"}), unchanged=True),
        Column("name", comparison=PLAIN_TEXT, kind=Kind.TEXT, origins=frozenset({"name"}), unchanged=True),
    )
)
ROWS: Mapping[str, Sequence[Records]] = {
    "small": [[(1, "a"), (2, "b")]],
    "large": [[(1, "x" * 400), (2, "y")], [(3, "z" * 400)]],
    "last": [[(1, "c")], [(2, "d")], [(3, "e")]],
}
"""Dataset → batches. `large` becomes an upload, the others stand in the plan."""

INLINE_LIMIT = 200


def incoming(
    run_id: str = "r",
    *,
    agency_id: int = 7,
    origin: Origin | None = None,
    config_id: str | None = None,
    **request: Any,
) -> Incoming:
    """A request for a run."""
    asked = JobRequest(agency_id=agency_id, **request)
    return Incoming(
        request=asked, run_id=run_id, trace_id=TRACE_ID, span_id=SPAN_ID, origin=origin, config_id=config_id
    )


def job(*names: str, **options: Any) -> AgencyJobConfig:
    """A job of these datasets, all with the same options."""
    source = {
        "postgres": {
            "query": "SELECT * FROM records WHERE a = $1 AND b >= $2 AND b < $3",
            "args": ["agency_id", "since", "until"],
        }
    }
    return AgencyJobConfig.model_validate({"datasets": [{"name": name, "source": source} | options for name in names]})


# -- in between ----------------------------------------------------------------------------------

Call = Callable[[], Awaitable[Any]]
Fault = Callable[[Call], Awaitable[Any]]
"""Called in place of a call, which it may make, or not."""


def refused(error: BaseException) -> Fault:
    """Nothing happens but an error."""

    async def fault(call: Call) -> Any:
        raise error

    return fault


def lost_reply(error: Exception) -> Fault:
    """The call is carried out, and looks as if it had failed."""

    async def fault(call: Call) -> Any:
        await call()
        raise error

    return fault


def after(before: Call) -> Fault:
    """Something else comes first."""

    async def fault(call: Call) -> Any:
        await before()
        return await call()

    return fault


class Between:
    """Stands between the service and a port: keeps a log of all calls, and lets them go wrong as it is told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._next: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def on_next(self, method: str, *faults: Fault | None) -> None:
        """What becomes of the next calls of a method; None: nothing but the call."""
        self._next[method].extend(faults)

    def on_every(self, method: str, fault: Fault | None) -> None:
        """What becomes of all calls from here on, but those that `on_next` tells."""
        self._always.pop(method, None)
        if fault is not None:
            self._always[method] = fault

    async def __call__(self, method: str, call: Call) -> Any:
        self.log.append(method)
        fault = self._next[method].popleft() if self._next[method] else self._always.get(method)
        return await (call() if fault is None else fault(call))


Around = Callable[[str, Call], Awaitable[Any]]
"""Gets the name of each call and the call, and makes it."""


class Interposed:
    """A port, each of whose async calls goes through `around`."""

    def __init__(self, real: Any, around: Around) -> None:
        self._real = real
        self._around = around

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._around(name, lambda: attribute(*args, **kwargs))

        return call


def interposed(runs: RunStore, around: Around) -> RunStore:
    """A run store, each of whose calls goes through `around`."""
    ports: Any = {port.name: Interposed(getattr(runs, port.name), around) for port in fields(runs)}
    return RunStore(**ports)


class InterposedDestination(Interposed):
    """A destination, of whose uploads every call goes through `around`, too: `write`, `seal`, `leave`."""

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        return _InterposedUpload(self._real.open(key, content, metadata=metadata, on_started=on_started), self._around)


class _InterposedUpload(Interposed):
    async def __aenter__(self) -> _InterposedUpload:
        await self._real.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._around("leave", lambda: self._real.__aexit__(kind, error, trace))


# -- the source ----------------------------------------------------------------------------------


class MemorySource:
    """
    Batches of records by dataset. `around` gets every `snapshot`, and a `batch` for each one read. If it `delivers`, it
    gives what the steps ask for, else whole records.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[Records]],
        *,
        clock: Clock,
        around: Around,
        columns: Columns = COLUMNS,
        delivers: bool = True,
        asked: list[Mapping[str, Any]] | None = None,
    ) -> None:
        self.asked = [] if asked is None else asked
        """The arguments of each dataset read."""
        self.rows_by_dataset = rows
        self.columns = columns
        self.delivers = delivers
        self._clock = clock
        self._around = around

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, Any]) -> AsyncIterator[_MemorySnapshot]:
        async def opened() -> _MemorySnapshot:
            return _MemorySnapshot(self, self._clock, self._around)

        yield await self._around("snapshot", opened)


class _MemorySnapshot:
    def __init__(self, source: MemorySource, clock: Clock, around: Around) -> None:
        self.taken_at = clock.now()
        self._source = source
        self._around = around

    def columns(self, dataset: str, *, carry: str) -> Columns:
        return self._source.columns

    @asynccontextmanager
    async def records(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AsyncIterator[_MemoryBatches]:
        self._source.asked.append(arguments)
        yield _MemoryBatches(self._source, self._source.rows_by_dataset[dataset], self._around)


class _MemoryBatches:
    def __init__(self, source: MemorySource, batches: Sequence[Records], around: Around) -> None:
        self.columns = source.columns
        self._delivers = source.delivers
        self._left = deque(batches)
        self._around = around
        self._outputs: Outputs | None = None

    def deliver(self, outputs: Outputs) -> bool:
        if self._delivers:
            self._outputs = outputs
        return self._delivers

    def __aiter__(self) -> _MemoryBatches:
        return self

    async def __anext__(self) -> Sequence[Any] | Lines:
        async def read() -> Records | None:
            return self._left.popleft() if self._left else None

        batch: Records | None = await self._around("batch", read)
        if batch is None:
            raise StopAsyncIteration
        return delivered(batch, self._outputs)


class NoServices:
    """For steps that need nothing of the outside world."""

    def lookup(self, query: str, *, secret: str | None, carry: str) -> AbstractAsyncContextManager[LookupTable]:
        raise AssertionError("this step asks no database")

    def upstream(self, options: Any) -> AbstractAsyncContextManager[Upstream]:
        raise AssertionError("this step asks no API")

    def secret(self, name: str) -> SecretStr:
        raise AssertionError("this step has no secret")


# -- the service ---------------------------------------------------------------------------------


def without_jitter() -> Backoff:
    """A run's pauses, of which a test knows the length."""
    return Backoff(1.0, 60.0, jitter=lambda: 0.0)


@dataclass
class Service:
    """
    One history and one destination, and workers on them; `others` are destinations beside that one. `between` gets
    all calls of the first worker.
    """

    config: AgencyJobConfig = field(default_factory=lambda: job("small", "large", "last"))
    rows: Mapping[str, Sequence[Records]] = field(default_factory=lambda: ROWS)
    columns: Columns = COLUMNS
    delivers: bool = True
    """Whether the source delivers what the steps ask for, instead of whole records."""
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(backoff=without_jitter()))
    max_runs_per_agency: int = 1
    others: Sequence[MemoryDestination] = ()
    clock: VirtualClock = field(default_factory=VirtualClock)
    between: Between = field(default_factory=Between)
    progress: list[RunProgress] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    """The arguments with which datasets were read."""
    leave_seconds: float = 5.0
    tracer: Tracer = field(default_factory=IdsOnlyTracer)
    metrics: Metrics = field(default_factory=Metrics)
    ledger: Ledger = field(default_factory=lambda: Ledger(cpu=lambda: 0.0))

    def __post_init__(self) -> None:
        self.table = RunTable(clock=self.clock, installation_id=INSTALLATION)
        self.runs = memory_run_store(self.table)
        self.destination = MemoryDestination(inline_limit=INLINE_LIMIT)
        self.first = self.executor("first", around=self.between)
        self.second = self.executor("second")

    def executor(
        self,
        worker: str,
        *,
        around: Around | None = None,
        lease: timedelta = LEASE,
        config_id: str = CONFIG_ID,
        isolated: Isolated | None = None,
        own_clock: Clock | None = None,
    ) -> Executor:
        """A worker; `own_clock` is its machine's."""
        between = around or Between()
        clock = HistoryClock(own_clock or self.clock)
        runs = interposed(self.runs, between)
        return Executor(
            runs=runs,
            leases=Leases(
                queue=runs.queue,
                clock=clock,
                worker=worker,
                config_id=config_id,
                length=lease,
                max_runs_per_agency=self.max_runs_per_agency,
                renewal=Renewal(runs.queue, metrics=self.metrics),
            ),
            path=DataPath(
                config=self.config,
                config_id=config_id,
                source=MemorySource(
                    self.rows,
                    clock=clock,
                    around=between,
                    columns=self.columns,
                    delivers=self.delivers,
                    asked=self.asked,
                ),
                services=NoServices(),
                destinations=self.destinations(between),
                nowhere=Destinations([NullDestination()]),
                max_row_bytes=1_000_000,
            ),
            history=Server("the history", clock=clock),
            retry=self.retry,
            reporting=Reporting(
                tracer=self.tracer,
                mask=Mask(),
                on_progress=self.progress.append,
                metrics=self.metrics,
                ledger=self.ledger,
            ),
            leave_seconds=self.leave_seconds,
            isolated=isolated,
        )

    def run_now(self) -> RunNow:
        """The `run` command's own, with the first worker."""
        runs = interposed(self.runs, self.between)
        return RunNow(runs=runs, executor=self.first, clock=self.clock, retry=self.retry)

    def destinations(self, around: Around) -> Destinations:
        """All of them, the one with the manifest first."""
        interposed: list[Any] = [InterposedDestination(each, around) for each in (self.destination, *self.others)]
        return Destinations(interposed)

    async def accept(self, run_id: str = "r", *, agency_id: int = 7, **request: Any) -> Run:
        return await self.runs.intake.accept(incoming(run_id, agency_id=agency_id, **request))

    async def attempt(self, executor: Executor | None = None) -> Attempted:
        """Claim the next run, and work on it."""
        executor = executor or self.first
        held = await executor.claim()
        assert held is not None, "there is nothing to do"
        return await executor.execute(held)

    # -- what is there ---------------------------------------------------------------------------

    def record(self, run_id: str = "r") -> RunRecord:
        """All that the history has of a run."""
        return self.table.records[run_id]

    def outcomes(self, run_id: str = "r") -> list[str]:
        """How its attempts ended."""
        return [attempt.outcome for attempt in self.record(run_id).attempts]

    def events(self, run_id: str = "r") -> list[RunCompletion]:
        """Its events in the outbox."""
        return [RunCompletion.model_validate_json(event.value) for event in self.table.events if event.run_id == run_id]

    def visible(self) -> dict[str, bytes]:
        """What a reader sees, by its key below the agency, without the mark of the installation."""
        return {
            key.removeprefix("agency_id=7/"): body
            for key, (body, _) in self.destination.objects.items()
            if key != INSTALLATION_KEY
        }

    def left_over(self) -> tuple[list[Any], list[Any]]:
        """Uploads that are open at the destination, and those that the history remembers."""
        return self.destination.open_uploads, [upload for r in self.table.records.values() for upload in r.uploads]
