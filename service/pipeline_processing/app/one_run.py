"""
The composition root: what knows every adapter. It builds what a command needs from the settings, and hands everything
its dependencies. The data path is put together in `app_data.py`, `serve` in `app_serve.py`; the checks of servers stand
in `app_checks.py`.
"""

import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor, OnProgress
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.app.data_path import (
    DataPath,
    data_path,
    destinations,
    max_row_bytes,
    sources,
)
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.letters import PostgresLetters
from pipeline_processing.history.postgres.migrate import migrate as migrate_schema
from pipeline_processing.history.postgres.store import postgres_run_store
from pipeline_processing.messaging.dead_letters import LetterStore
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Events, Topics
from pipeline_processing.model import UploadRef
from pipeline_processing.ports import LastSuccess
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.runs.executor import Executor, Isolated
from pipeline_processing.runs.garbage import GarbageCollector
from pipeline_processing.runs.history_clock import HistoryClock
from pipeline_processing.runs.lease import Leases
from pipeline_processing.runs.retrying import RetryPolicy
from pipeline_processing.runs.run_now import RunNow, run_dry
from pipeline_processing.runs.store import RunQueue, RunStore
from pipeline_processing.serving.watchdog import Watchdog
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask

_LEAVE_SECONDS = 10.0
"""How long `run` may take to hand its run back and clean up when it is interrupted."""


def new_run_id() -> str:
    """An id for a run that nobody named."""
    return f"run-{secrets.token_hex(8)}"


def worker_name() -> str:
    """Who holds a lease: host, process, and a word against the reuse of process ids."""
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
        # A process that stands still in the middle of a claim mustn't keep its agency's runs from the others.
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
    """A worker's. Who allows a single try wants no waiting."""
    attempts = settings.worker.max_attempts
    if attempts == 1:
        return RetryPolicy(max_attempts=1, patience=timedelta(), patience_for_servers=timedelta())
    return RetryPolicy(max_attempts=attempts)


def retry_policy_of_run(settings: Settings) -> RetryPolicy:
    """That of the `run` command: somebody waits for it, who wants to hear soon that a server can't be reached."""
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
    """For what must go on while this event loop is blocked, which the watchdog notices."""
    async with SideLoop() as loop:
        watchdog = Watchdog()
        watching = loop.start(watchdog.watch())
        try:
            yield Aside(loop, watchdog)
        finally:
            watching.cancel()


@asynccontextmanager
async def leases(
    settings: Settings, aside: Aside, *, queue: RunQueue, clock: HistoryClock, concurrency: int
) -> AsyncIterator[Leases]:
    """
    Leases that are renewed aside, by connections of their own: one a run, as a row may be locked for a while. The clock
    hears the history's time with each claim.
    """
    async with aside.loop.opened(history(settings, connections=concurrency)) as renewed_in:
        yield Leases(
            queue=queue,
            clock=clock,
            length=timedelta(seconds=settings.worker.lease_seconds),
            renewed_in=renewed_in.queue,
            start_aside=aside.loop.start,
            hangs=lambda: aside.watchdog.hangs,
            on_time=clock.hear,
        )


# -- one run -------------------------------------------------------------------------------------


@asynccontextmanager
async def run_now(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    tracer: Tracer,
    mask: Mask,
    on_progress: Callable[[RunProgress], None],
    after: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[RunNow]:
    """What the `run` command needs: the whole service but Kafka, for one run."""
    async with AsyncExitStack() as stack:
        clock, retry = HistoryClock(SystemClock()), retry_policy_of_run(settings)
        runs = await stack.enter_async_context(history(settings))
        aside = await stack.enter_async_context(watched_aside())
        path = await stack.enter_async_context(data_path(settings, config, runs=1, mask=mask, clock=clock))
        worker = executor(
            settings,
            config,
            runs=runs,
            leases=await stack.enter_async_context(
                leases(settings, aside, queue=runs.queue, clock=clock, concurrency=1)
            ),
            path=path,
            clock=clock,
            tracer=tracer,
            mask=mask,
            retry=retry,
            leave_seconds=_LEAVE_SECONDS,
            on_progress=on_progress,
            after=after,
        )
        yield RunNow(
            runs=runs,
            executor=worker,
            destinations=path.destinations,
            clock=clock,
            retry=retry,
            jitter=random.random,
            after=after,
        )


def executor(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    runs: RunStore,
    leases: Leases,
    path: DataPath,
    clock: HistoryClock,
    tracer: Tracer,
    mask: Mask,
    retry: RetryPolicy,
    leave_seconds: float,
    on_progress: Callable[[RunProgress], None],
    isolated: Isolated | None = None,
    after: Callable[[str], None] = lambda step: None,
) -> Executor:
    """Works on runs with what it is given, as `Executor` has it."""
    return Executor(
        worker=worker_name(),
        runs=runs,
        source=path.source,
        services=path.services,
        destinations=path.destinations,
        config=config,
        config_id=path.config_id,
        leases=leases,
        clock=clock,
        tracer=tracer,
        mask=mask,
        retry=retry,
        max_runs_per_agency=settings.worker.max_runs_per_agency,
        max_row_bytes=max_row_bytes(settings),
        jitter=random.random,
        leave_seconds=leave_seconds,
        on_progress=on_progress,
        isolated=isolated,
        after=after,
    )


async def run_without_a_trace(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    run: RunContext,
    tracer: Tracer,
    mask: Mask,
    on_progress: OnProgress,
) -> RunCompletion:
    """A dry run from the command line: reads and transforms, and writes nothing at all."""

    async def no_uploads(upload: UploadRef) -> None:
        raise AssertionError("a dry run uploads nothing")

    async with AsyncExitStack() as stack:
        source, services = await stack.enter_async_context(sources(settings, config, runs=1, mask=mask))

        async def last_success(agency_id: int, dataset: str) -> LastSuccess | None:
            # Opened only if it is asked for: most dry runs need no history.
            runs = await stack.enter_async_context(history(settings))
            return await runs.history.last_success(agency_id, dataset)

        processor = AgencyProcessor(
            run=run,
            source=source,
            services=services,
            outlet=Outlet(
                run=run,
                destinations=Destinations([NullDestination()]),
                on_upload=no_uploads,
                mask=mask,
                max_row_bytes=max_row_bytes(settings),
            ),
            last_success=last_success,
            on_progress=on_progress,
            tracer=tracer,
        )
        return await run_dry(
            run=run,
            processor=processor,
            config=config,
            clock=SystemClock(),
            mask=mask,
            retry=retry_policy_of_run(settings),
            jitter=random.random,
        )


# -- cleaning up ---------------------------------------------------------------------------------


@asynccontextmanager
async def garbage_collector(
    settings: Settings, config: AgencyJobConfig | None, *, mask: Mask, dry_run: bool = False
) -> AsyncIterator[GarbageCollector]:
    """What the `gc` command needs. Of a job config only the destinations count."""
    async with destinations(settings, config, runs=1, mask=mask) as where, history(settings) as runs:
        yield GarbageCollector(leftovers=runs.leftovers, history=runs.history, destinations=where, dry_run=dry_run)
