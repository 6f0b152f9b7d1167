"""
The composition root: what knows every adapter. It builds what a command needs from the settings, and hands everything
its dependencies. The data path is put together in `data_path.py`, `serve` in `service.py`; the checks of servers
are in `checks.py`.
"""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.processor import LastSuccesses
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock, HistoryClock, SystemClock
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.app.data_path import data_path, destinations, dry_path
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.history.memory.reads import MemoryHistory
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.letters import PostgresLetters
from pipeline_processing.history.postgres.migrate import migrate as migrate_schema
from pipeline_processing.history.postgres.store import postgres_run_store
from pipeline_processing.messaging.dead_letters import LetterStore
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Topics
from pipeline_processing.ports import LastSuccess
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.executor import DataPath, Executor, Reporting
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.runs.garbage import GarbageCollector
from pipeline_processing.runs.lease import Leases, Renewal
from pipeline_processing.runs.run_now import LONGEST_WAIT, RunNow
from pipeline_processing.runs.store import RunQueue, RunStore
from pipeline_processing.serving.watchdog import Watchdog
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask

_LEAVE_SECONDS = 10.0
"""How long `run` may take to hand its run back and clean up when it is interrupted."""
_DRY_LEASE = timedelta(days=365)
"""Nobody else could take over a dry run, so a step may block the event loop for as long as it likes."""


def new_run_id() -> str:
    """An id for a run that nobody named."""
    return f"run-{secrets.token_hex(8)}"


def worker_name() -> str:
    """The holder of a lease: host, process, and a random word, since process ids are reused."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


# -- the history ---------------------------------------------------------------------------------


@asynccontextmanager
async def history(settings: Settings, *, connections: int = 2) -> AsyncIterator[RunStore]:
    """The run history. Raises SettingsError if none is configured."""
    async with history_database(settings, connections=connections) as database:
        yield postgres_run_store(database, schema=settings.history.schema_name)


@asynccontextmanager
async def letters(settings: Settings) -> AsyncIterator[LetterStore]:
    """The dead letters that Kafka refuses for good. Raises SettingsError if no history is configured."""
    async with history_database(settings, connections=1) as database:
        yield PostgresLetters(HistoryDatabase(database, schema=settings.history.schema_name))


def history_database(
    settings: Settings, *, connections: int = 2, command_seconds: float | None = 30.0
) -> DatabaseClient:
    """
    The database that holds the run history. Its statements are short: one without an answer for `command_seconds` has
    lost its server.
    """
    return DatabaseClient(
        dsn=settings.require_history_dsn().get_secret_value(),
        unavailable=HistoryUnavailable,
        max_size=connections,
        search_path=settings.history.schema_name,
        # A process that hangs in the middle of a claim must not block the other runs of the agency.
        server_settings={"idle_in_transaction_session_timeout": "10s"},
        command_seconds=command_seconds,
    )


async def migrate(settings: Settings) -> list[str]:
    """Create the history's schema, or bring it up to date; the names of the migrations applied."""
    # No limit: it may have to wait for another process that migrates.
    async with history_database(settings, command_seconds=None) as database, database.connection() as connection:
        applied = await migrate_schema(connection, settings.history.schema_name)
    return [migration.name for migration in applied]


# -- limits --------------------------------------------------------------------------------------


def retry_policy(settings: Settings) -> RetryPolicy:
    """A worker's policy. A single attempt means no waiting."""
    attempts = settings.worker.max_attempts
    if attempts == 1:
        return RetryPolicy(max_attempts=1, patience=timedelta(), patience_for_servers=timedelta())
    return RetryPolicy(max_attempts=attempts)


def retry_policy_of_run(settings: Settings) -> RetryPolicy:
    """The policy of the `run` command: a person waits for it, and wants to know soon that a server can't be reached."""
    return replace(retry_policy(settings), patience_for_servers=timedelta())


# -- kafka ---------------------------------------------------------------------------------------


@asynccontextmanager
async def events(settings: Settings) -> AsyncIterator[Events]:
    """Sends messages. Connects when the first is sent."""
    async with KafkaEvents(settings=settings.kafka) as opened:
        yield opened


@asynccontextmanager
async def topics(settings: Settings) -> AsyncIterator[Topics]:
    """Looks into topics, and creates them. Connects for each call."""
    yield KafkaTopics(settings=settings.kafka)


# -- beside the main event loop -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aside:
    """A second event loop, and the watchdog that runs there."""

    loop: SideLoop
    watchdog: Watchdog


@asynccontextmanager
async def watched_aside() -> AsyncIterator[Aside]:
    """For what must go on while this event loop is blocked. The watchdog notices when it is."""
    async with SideLoop() as loop:
        watchdog = Watchdog()
        watching = loop.start(watchdog.watch())
        try:
            yield Aside(loop, watchdog)
        finally:
            watching.cancel()


@asynccontextmanager
async def leases(
    settings: Settings, aside: Aside, *, queue: RunQueue, clock: HistoryClock, config_id: str, concurrency: int
) -> AsyncIterator[Leases]:
    """Leases that are renewed aside, by a connection of its own for each run, as a row may be locked for a while."""
    async with aside.loop.opened(history(settings, connections=concurrency)) as renewed_in:
        yield Leases(
            queue=queue,
            clock=clock,
            worker=worker_name(),
            config_id=config_id,
            length=timedelta(seconds=settings.worker.lease_seconds),
            max_runs_per_agency=settings.worker.max_runs_per_agency,
            renewal=Renewal(renewed_in.queue, start=aside.loop.start, hangs=lambda: aside.watchdog.hangs),
        )


# -- one run -------------------------------------------------------------------------------------


@asynccontextmanager
async def run_now(settings: Settings, config: AgencyJobConfig, *, reporting: Reporting) -> AsyncIterator[RunNow]:
    """What the `run` command needs: the whole service but Kafka, for one run."""
    async with AsyncExitStack() as stack:
        clock, retry = HistoryClock(SystemClock()), retry_policy_of_run(settings)
        runs = await stack.enter_async_context(history(settings))
        aside = await stack.enter_async_context(watched_aside())
        path = await stack.enter_async_context(data_path(settings, config, runs=1, mask=reporting.mask, clock=clock))
        held = await stack.enter_async_context(
            leases(settings, aside, queue=runs.queue, clock=clock, config_id=path.config_id, concurrency=1)
        )
        yield _run_now(runs, held, path, clock=clock, retry=retry, reporting=reporting)


@asynccontextmanager
async def dry_run(settings: Settings, config: AgencyJobConfig, *, reporting: Reporting) -> AsyncIterator[RunNow]:
    """What `run --dry-run` needs: the same, on a run table in memory, and with a destination that keeps nothing."""
    async with AsyncExitStack() as stack, dry_path(settings, config, mask=reporting.mask) as path:

        async def last_success(agency_id: int, dataset: str) -> LastSuccess | None:
            # Opened only when a dataset looks back: most dry runs need no history.
            real = await stack.enter_async_context(history(settings))
            return await real.history.last_success(agency_id, dataset)

        clock = HistoryClock(SystemClock())
        # A run that would wait for longer than a command does must fail: nobody could go on with it later.
        retry = replace(retry_policy_of_run(settings), longest_delay=LONGEST_WAIT)
        table = RunTable(clock=clock)
        runs = replace(memory_run_store(table), history=_LookingBack(table, last_success))
        held = Leases(
            queue=runs.queue,
            clock=clock,
            worker=worker_name(),
            config_id=path.config_id,
            length=_DRY_LEASE,
            max_runs_per_agency=1,
        )
        yield _run_now(runs, held, path, clock=clock, retry=retry, reporting=reporting)


def _run_now(
    runs: RunStore, leases: Leases, path: DataPath, *, clock: Clock, retry: RetryPolicy, reporting: Reporting
) -> RunNow:
    executor = Executor(
        runs=runs,
        leases=leases,
        path=path,
        history=Server("the history", clock=clock),
        retry=retry,
        reporting=reporting,
        leave_seconds=_LEAVE_SECONDS,
    )
    return RunNow(runs=runs, executor=executor, clock=clock, retry=retry)


class _LookingBack(MemoryHistory):
    """The history of a dry run alone, but with the last successes of the real one."""

    def __init__(self, table: RunTable, last_success: LastSuccesses) -> None:
        super().__init__(table)
        self._last_success = last_success

    async def last_success(self, agency_id: int, dataset: str) -> LastSuccess | None:
        return await self._last_success(agency_id, dataset)


# -- cleaning up ---------------------------------------------------------------------------------


@asynccontextmanager
async def garbage_collector(
    settings: Settings, config: AgencyJobConfig | None, *, mask: Mask, dry_run: bool = False
) -> AsyncIterator[GarbageCollector]:
    """What the `gc` command needs. Of a job config only the destinations count."""
    async with destinations(settings, config, runs=1, mask=mask) as where, history(settings) as runs:
        yield GarbageCollector(leftovers=runs.leftovers, history=runs.history, destinations=where, dry_run=dry_run)
