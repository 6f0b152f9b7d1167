"""
Every instrument of this service, one line each: name, unit, attributes, and what it measures. docs/metrics.md lists them.

Measuring points get `Metrics` through their constructors. Without a meter it records nothing, and no library is
imported. `metering.py` provides meters.

No attribute names an agency or a run, so that the number of series stays bounded.
"""

from __future__ import annotations

import os
import resource
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from pipeline_processing import errors

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from pipeline_processing.model import Run

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that names such as `db.client.connection.count` follow."""

_DURATIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
_DELAYS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_MOST_EARLY = 1000
"""How many values a histogram keeps until there is a meter. The first scrape comes within a minute, if there are any."""

Listed = TypeVar("Listed", bound="Instrument")

Reading = tuple[float, tuple[str, ...]]
"""A value, and the values of the instrument's attributes."""

Read = Callable[[], Iterable[Reading]]
"""Returns the current readings. Called in another thread, so it must not wait, and must only read."""


@runtime_checkable
class Pool(Protocol):
    """A pool of connections to a database."""

    max_size: int

    def connections(self) -> tuple[int, int]:
        """Return how many connections are idle, and how many are in use. May be called in any thread."""


class Instrument(ABC):
    """
    One metric. `attributes` are the names of its attributes, in the order in which values are given. It is created in
    the meter by `connect`.
    """

    kind = ""

    def __init__(self, name: str, unit: str, attributes: tuple[str, ...], description: str) -> None:
        self.name = name
        self.unit = unit
        self.attributes = attributes
        self.description = description

    @abstractmethod
    def connect(self, meter: Meter) -> None:
        """Create it in a meter."""

    def _named(self, values: tuple[str | None, ...]) -> dict[str, str]:
        pairs = zip(self.attributes, values, strict=True)
        return {name: value for name, value in pairs if value is not None}


class Histogram(Instrument):
    """Counts values by size."""

    kind = "histogram"

    def __init__(self, is_read: bool, buckets: tuple[float, ...], *line: Any) -> None:
        super().__init__(*line)
        self._buckets = buckets
        self._made: Any = None
        self._early = deque[tuple[float, tuple[str | None, ...]]](maxlen=_MOST_EARLY if is_read else 0)
        """The last values before there was a meter."""
        self._lock = threading.Lock()

    def connect(self, meter: Meter) -> None:
        with self._lock:
            self._made = meter.create_histogram(
                self.name, self.unit, self.description, explicit_bucket_boundaries_advisory=self._buckets
            )
            for value, values in self._early:
                self._made.record(value, self._named(values))
            self._early.clear()

    def record(self, value: float, *values: str | None) -> None:
        """Record a value. `values` are those of the attributes; None leaves one out."""
        with self._lock:
            if self._made is None:
                self._early.append((value, values))
                return
        self._made.record(value, self._named(values))


class Observed(Instrument):
    """
    Values that are read when metrics are collected: gauges, up-down counters and counters. The SDK's own
    counters take 10 µs for each call, and a small run counts a dozen things.
    """

    def __init__(self, is_read: bool, kind: str, *line: Any) -> None:
        super().__init__(*line)
        self.kind = kind
        self._is_read = is_read
        self._reads: list[Read] = []
        self._values: dict[tuple[str | None, ...], float] = {}
        self._lock = threading.Lock()

    def connect(self, meter: Meter) -> None:
        create: dict[str, Callable[..., Any]] = {
            "gauge": meter.create_observable_gauge,
            "up-down counter": meter.create_observable_up_down_counter,
            "counter": meter.create_observable_counter,
        }
        create[self.kind](self.name, [self._observe], self.unit, self.description)

    def watch(self, read: Read) -> None:
        """Report these readings, too."""
        self._reads.append(read)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        with self._lock:
            readings = [(value, values) for values, value in self._values.items()]
        for read in self._reads.copy():  # another thread may add to it
            readings += read()
        return [Observation(value, self._named(values)) for value, values in readings]


class Gauge(Observed):
    """Rises and falls."""

    def set(self, value: float, *values: str) -> None:
        """Report this value until it is set again or forgotten. `values` are those of the attributes."""
        with self._lock:
            self._values[values] = value

    def forget(self) -> None:
        """Report none of the values that were set."""
        with self._lock:
            self._values.clear()


class Counter(Observed):
    """Only rises."""

    def add(self, amount: float, *values: str | None) -> None:
        """
        Add to the counter. `values` are those of the attributes; None leaves one out. Add 0 at the start for values
        that alerts watch: Prometheus sees a rise only from a value that it has seen.
        """
        if len(values) != len(self.attributes):
            raise ValueError(f"{self.name} has the attributes {self.attributes}, not {len(values)}")
        if self._is_read:
            with self._lock:
                self._values[values] = self._values.get(values, 0) + amount


class Metrics:
    """All instruments of a process. Unless they are `read`, in the meter that `connect` gets, they record nothing."""

    def __init__(self, *, read: bool = False) -> None:
        self.instruments: list[Instrument] = []
        """In the order of the documentation."""

        def listed(instrument: Listed) -> Listed:
            self.instruments.append(instrument)
            return instrument

        def gauge(*line: Any) -> Gauge:
            return listed(Gauge(read, "gauge", *line))

        def level(*line: Any) -> Gauge:
            return listed(Gauge(read, "up-down counter", *line))

        def counter(*line: Any) -> Counter:
            return listed(Counter(read, "counter", *line))

        def histogram(*line: Any, buckets: tuple[float, ...] = _DURATIONS) -> Histogram:
            return listed(Histogram(read, buckets, *line))

        # fmt: off
        # The history, as each `serve` sees it.
        self.runs = gauge("pipeline.runs.current", "{run}", ("state",), "Unfinished runs in the history, by state: `queued`, `running` or `prepared`.")
        self.oldest_run = gauge("pipeline.runs.oldest.age", "s", ("state",), "Age of the oldest run in that state: since it became due (`queued`), or since the run started (`running`, `prepared`).")
        self.unsent = gauge("pipeline.outbox.unsent", "{event}", (), "Completion events that Kafka has yet to store.")
        self.oldest_unsent = gauge("pipeline.outbox.oldest.age", "s", (), "Age of the oldest unsent completion event; 0 if there is none.")
        # The work of this process.
        self.finished = counter("pipeline.runs.finished", "{run}", ("state", "error.type"), "Runs that this process finished: `succeeded`, `failed` or `cancelled` while it worked on them. `error.type` is the kind of the error.")
        self.duration = histogram("pipeline.run.duration", "s", ("state",), "Time from the first attempt's start to the end of runs that this process finished.")
        self.rows = counter("pipeline.run.rows", "{row}", ("outcome",), "Rows of finished runs: `read`, and of these `written`, `filtered` and `rejected`.")
        self.bytes = counter("pipeline.run.bytes", "By", (), "Bytes of the artifacts of finished runs.")
        self.stage = histogram("pipeline.stage.duration", "s", ("stage",), "Time that a finished run was busy in each stage: `source`, `steps`, `format`, `upload`.")
        self.attempts = counter("pipeline.attempts", "{attempt}", ("outcome",), "Attempts that ended: `succeeded`, `failed`, `retrying`, `cancelled`, `lost` (taken over, or its lease ended), `released` (decided, but can't be published yet) or `handed_back` (at a stop).")
        self.active = gauge("pipeline.attempts.active", "{attempt}", (), "Attempts that this process works on now.")
        self.concurrency = gauge("pipeline.attempts.limit", "{attempt}", (), "How many attempts this process works on at once at most. Lower than the setting while a database has no connections left.")
        self.renewals = counter("pipeline.lease.renewals", "{renewal}", ("result",), "Calls that renew a lease: `ok` or `failed`.")
        self.losses = counter("pipeline.lease.losses", "{lease}", (), "Leases that were lost while this process worked on the run.")
        self.part_retries = counter("pipeline.part.retries", "{request}", (), "Requests that sent a part of an upload to S3 again.")
        self.letters = counter("pipeline.dead_letters", "{message}", ("reason",), "Messages that became dead letters, by `dlq_reason`.")
        self.messages = counter("pipeline.intake.messages", "{message}", ("messaging.destination.name", "result"), "Messages taken from a topic. Requests: `accepted`, `repeated` (the run was there already) or `dead_letter`. Events of triggers: `taken` or `dead_letter`.")
        self.lag = gauge("pipeline.intake.lag", "{message}", ("messaging.destination.name",), "Messages that this process has yet to take from its partitions of a topic. No value while that isn't known, as while Kafka or the history is away.")
        self.deliveries = counter("pipeline.webhook.deliveries", "{delivery}", ("webhook", "result"), "Tries to POST a completion event: `delivered`, `retrying`, or `failed` (given up).")
        self.windows = gauge("pipeline.triggers.windows.open", "{window}", (), "Open windows of this `triggers` process's share of the agencies.")
        self.overdue = gauge("pipeline.triggers.windows.overdue", "s", (), "For how long the window that should have closed first has been waiting; 0 if none is due.")
        # This process itself.
        self.servers = gauge("pipeline.server.up", "", ("server",), "1 if the last call of a server that this process needs was answered, else 0. Of source and destination, as its runs find them: one that is away has no value once 5 minutes have passed without a run that tries it.")
        self.delay = histogram("pipeline.event_loop.delay", "s", (), "How late the main event loop runs a callback, sampled every second.", buckets=_DELAYS)
        self.budget_used = gauge("pipeline.memory.budget.used", "By", (), "Bytes of buffered parts, of the memory budget.")
        self.budget_limit = gauge("pipeline.memory.budget.limit", "By", (), "The part of the memory budget that parts may take.")
        self.connections = level("db.client.connection.count", "{connection}", ("db.client.connection.pool.name", "db.client.connection.state"), "Connections to Postgres, `idle` or `used`, by pool: `history`, `leases` (which are renewed on connections of their own), `source`, `tables-1` (the first `tables` destination) and so on.")
        self.most_connections = level("db.client.connection.max", "{connection}", ("db.client.connection.pool.name",), "How many connections a pool may open.")
        self.cpu = counter("process.cpu.time", "s", ("cpu.mode",), "CPU time of this process, `user` or `system`.")
        self.memory = level("process.memory.usage", "By", (), "Resident memory of this process.")
        self.build = gauge("pipeline.build.info", "", ("version", "reader"), "Always 1. The version, and what reads rows from Postgres: `native` or `cursor`, or `none` in `triggers`.")
        # fmt: on
        self.cpu.watch(_cpu_times)
        self.memory.watch(_resident)

    def connect(self, meter: Meter) -> None:
        """Have all instruments read by a meter, once."""
        for instrument in self.instruments:
            instrument.connect(meter)

    def watch_pool(self, name: str, pool: Pool) -> None:
        """Report the connections of a pool."""

        def connections() -> list[Reading]:
            idle, used = pool.connections()
            return [(idle, (name, "idle")), (used, (name, "used"))]

        self.connections.watch(connections)
        self.most_connections.watch(lambda: [(pool.max_size, (name,))])

    def show_build(self, reader: str) -> None:
        """Report the version, and what reads rows: `native`, `cursor`, or `none`."""
        from importlib.metadata import version

        self.build.set(1, version("pipeline-processing"), reader)

    def start_attempts(self) -> None:
        """Report 0 for every outcome of attempts."""
        for outcome in ("succeeded", "failed", "retrying", "cancelled", "lost", "released", "handed_back"):
            self.attempts.add(0, outcome)
        self.losses.add(0)
        self.part_retries.add(0)
        for result in ("ok", "failed"):
            self.renewals.add(0, result)

    def attempt_ended(self, run: Run, outcome: str) -> None:
        """Count an attempt, and the run if the attempt has finished it. `run` is in its new state."""
        self.attempts.add(1, outcome)
        if outcome == "lost":
            self.losses.add(1)
        elif run.state.finished:
            self._run_finished(run)

    def _run_finished(self, run: Run) -> None:
        kind = None if run.error is None else known_kind(run.error.kind)
        self.finished.add(1, run.state.value, kind)
        if run.duration_ms is not None:
            self.duration.record(run.duration_ms / 1000, run.state.value)
        for row_outcome in ("read", "written", "filtered", "rejected"):
            self.rows.add(getattr(run, f"rows_{row_outcome}") or 0, row_outcome)
        self.bytes.add(run.bytes_written or 0)
        for stage, milliseconds in (run.timings or {}).items():
            self.stage.record(milliseconds / 1000, stage)


class IntakeMetrics:
    """The metrics of what is read from one topic. `results` are those that messages may have."""

    def __init__(self, metrics: Metrics, *, topic: str, results: tuple[str, ...] = ()) -> None:
        self._messages = metrics.messages
        self._topic = topic
        self._lag: int | None = None
        for result in results:
            self._messages.add(0, topic, result)
        metrics.lag.watch(lambda: [] if self._lag is None else [(self._lag, (topic,))])

    def settled(self, result: str, messages: int) -> None:
        """Count messages with this result."""
        self._messages.add(messages, self._topic, result)

    def lags(self, messages: int | None) -> None:
        """Report how many messages are yet to be taken; None if that isn't known."""
        self._lag = messages


_KINDS = frozenset(each.kind for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "kind"))


def known_kind(kind: str) -> str:
    """Return this kind of error, or `_OTHER` for those of plugins."""
    return kind if kind in _KINDS else "_OTHER"


def _cpu_times() -> list[Reading]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [(used.ru_utime, ("user",)), (used.ru_stime, ("system",))]


def _resident() -> list[Reading]:
    try:
        with open("/proc/self/statm") as statm:
            return [(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"), ())]
    except OSError:  # not Linux
        return []
