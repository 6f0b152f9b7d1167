"""
The composition root: what knows every adapter. It builds what a command needs from the settings, and hands everything
its dependencies. `serve` is put together in `app_serve.py`, the checks of servers stand in `app_checks.py`.
"""

import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig, FileDestinationEntry, S3DestinationEntry
from pipeline_processing.agency_data_job.processor import AgencyProcessor, OnProgress, RunContext
from pipeline_processing.budget import ByteBudget
from pipeline_processing.clock import SystemClock
from pipeline_processing.errors import HistoryUnavailable, SourceUnavailable
from pipeline_processing.executor import Executor, RetryPolicy
from pipeline_processing.files.destination import FileDestination
from pipeline_processing.garbage import GarbageCollector
from pipeline_processing.kafka.events import KafkaEvents
from pipeline_processing.kafka.topics import KafkaTopics
from pipeline_processing.lease import Leases
from pipeline_processing.locations import FileLocation, Location, S3Location
from pipeline_processing.messaging import Events, Topics
from pipeline_processing.model import RunCompletion, RunProgress, UploadRef
from pipeline_processing.null.destination import NullDestination
from pipeline_processing.ports import Clock, Destination, RunStore
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.migrate import migrate as migrate_schema
from pipeline_processing.postgres.run_store import PostgresRunStore
from pipeline_processing.postgres.source import SESSION_SETTINGS, PostgresSource
from pipeline_processing.run_now import RunNow, run_dry
from pipeline_processing.s3.client import S3Client
from pipeline_processing.s3.destination import S3Destination
from pipeline_processing.settings import Settings

APPLICATION_NAME = "pipeline-processing"
_MIB = 1024 * 1024


def new_run_id() -> str:
    """An id for a run that nobody named."""
    return f"run-{secrets.token_hex(8)}"


def worker_name() -> str:
    """Who holds a lease: host, process, and a word against the reuse of process ids."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def destination_of(settings: Settings, config: AgencyJobConfig | None) -> Location:
    """The job config's destination, or else the settings'. Raises SettingsError if neither names one."""
    if config is None or not config.destinations:
        return settings.require_destination()
    match config.destinations[0]:
        case S3DestinationEntry(s3=s3):
            return S3Location(bucket=s3.bucket, prefix=s3.prefix.strip("/"))
        case FileDestinationEntry(file=file):
            return FileLocation(path=file.path)


# -- the history ---------------------------------------------------------------------------------


@asynccontextmanager
async def history(settings: Settings, *, connections: int = 2) -> AsyncIterator[RunStore]:
    """The run history. Raises SettingsError if none is configured."""
    async with history_database(settings, connections=connections) as database:
        yield PostgresRunStore(database=database, schema=settings.history.schema_name)


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
        application_name=APPLICATION_NAME,
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


# -- source and destination ----------------------------------------------------------------------


def source_database(settings: Settings, *, connections: int) -> DatabaseClient:
    """The database that holds the agencies' data."""
    return DatabaseClient(
        dsn=settings.require_source_dsn().get_secret_value(),
        unavailable=SourceUnavailable,
        application_name=APPLICATION_NAME,
        max_size=connections,
        server_settings=SESSION_SETTINGS,
    )


@asynccontextmanager
async def destination(settings: Settings, config: AgencyJobConfig | None, *, runs: int) -> AsyncIterator[Destination]:
    """Where the artifacts of up to `runs` runs at once go."""
    location = destination_of(settings, config)
    if isinstance(location, FileLocation):
        yield FileDestination(path=location.path)
        return
    async with s3_client(settings) as client:
        yield S3Destination(
            client=client,
            bucket=location.bucket,
            prefix=location.prefix,
            budget=ByteBudget(settings.worker.memory_budget_mib * _MIB),
            runs=runs,
        )


def s3_client(settings: Settings) -> S3Client:
    """A connection pool to the configured S3."""
    s3 = settings.s3
    return S3Client(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key_id=s3.access_key_id.get_secret_value() if s3.access_key_id else None,
        secret_access_key=s3.secret_access_key,
        addressing_style=s3.addressing_style,
    )


def max_row_bytes(settings: Settings) -> int:
    """The longest encoded row: a quarter of a run's share, since it is read, encoded, and copied into a part."""
    return settings.worker.memory_budget_mib * _MIB // settings.worker.concurrency // 4


def retry_policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(max_attempts=settings.worker.max_attempts)


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


# -- one run -------------------------------------------------------------------------------------


@asynccontextmanager
async def run_now(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    tracer: Tracer,
    on_progress: Callable[[RunProgress], None],
    after: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[RunNow]:
    """What the `run` command needs: the whole service but Kafka, for one run."""
    async with AsyncExitStack() as stack:
        runs = await stack.enter_async_context(history(settings))
        database = await stack.enter_async_context(source_database(settings, connections=1))
        where = await stack.enter_async_context(destination(settings, config, runs=1))
        clock = SystemClock()
        worker = executor(
            settings,
            config,
            runs=runs,
            database=database,
            destination=where,
            clock=clock,
            tracer=tracer,
            on_progress=on_progress,
            after=after,
        )
        yield RunNow(
            runs=runs,
            executor=worker,
            destination=where,
            clock=clock,
            retry=retry_policy(settings),
            jitter=random.random,
            after=after,
        )


def executor(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    runs: RunStore,
    database: DatabaseClient,
    destination: Destination,
    clock: Clock,
    tracer: Tracer,
    on_progress: Callable[[RunProgress], None],
    after: Callable[[str], None] = lambda step: None,
) -> Executor:
    """Works on runs with what it is given; `after` as in `Executor`."""
    return Executor(
        worker=worker_name(),
        runs=runs,
        source=PostgresSource(database=database),
        destination=destination,
        config=config,
        leases=Leases(runs=runs, clock=clock, length=timedelta(seconds=settings.worker.lease_seconds)),
        clock=clock,
        tracer=tracer,
        retry=retry_policy(settings),
        max_runs_per_agency=settings.worker.max_runs_per_agency,
        max_row_bytes=max_row_bytes(settings),
        jitter=random.random,
        on_progress=on_progress,
        after=after,
    )


async def run_without_a_trace(
    settings: Settings, config: AgencyJobConfig, *, run: RunContext, tracer: Tracer, on_progress: OnProgress
) -> RunCompletion:
    """A dry run from the command line: reads and transforms, and writes nothing at all."""

    async def no_uploads(upload: UploadRef) -> None:
        raise AssertionError("a dry run uploads nothing")

    async with source_database(settings, connections=1) as database:
        processor = AgencyProcessor(
            run=run,
            source=PostgresSource(database=database),
            destination=NullDestination(),
            on_upload=no_uploads,
            on_progress=on_progress,
            tracer=tracer,
            max_row_bytes=max_row_bytes(settings),
        )
        return await run_dry(
            run=run,
            processor=processor,
            config=config,
            clock=SystemClock(),
            retry=retry_policy(settings),
            jitter=random.random,
        )


# -- cleaning up ---------------------------------------------------------------------------------


@asynccontextmanager
async def garbage_collector(
    settings: Settings, config: AgencyJobConfig | None, *, dry_run: bool = False
) -> AsyncIterator[GarbageCollector]:
    """What the `gc` command needs. Of a job config only the destination counts."""
    async with destination(settings, config, runs=1) as where, history(settings) as runs:
        yield GarbageCollector(runs=runs, destination=where, dry_run=dry_run)
