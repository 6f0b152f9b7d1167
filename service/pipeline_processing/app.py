"""
The composition root: the one module that knows every adapter. It builds what a command needs from the settings, and
hands everything its dependencies.
"""

import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig, FileDestinationEntry, S3DestinationEntry
from pipeline_processing.agency_data_job.processor import AgencyProcessor, OnProgress, RunContext
from pipeline_processing.budget import ByteBudget
from pipeline_processing.clock import SystemClock
from pipeline_processing.errors import HistoryUnavailable, PipelineError, SettingsError, SourceUnavailable
from pipeline_processing.executor import Executor, RetryPolicy
from pipeline_processing.files.destination import FileDestination
from pipeline_processing.formats.formats import CARRY
from pipeline_processing.garbage import GarbageCollector
from pipeline_processing.health import Health, Pulse
from pipeline_processing.intake import Intake
from pipeline_processing.kafka.events import KafkaEvents
from pipeline_processing.kafka.requests import KafkaRequests
from pipeline_processing.kafka.topics import KafkaTopics
from pipeline_processing.lease import Leases
from pipeline_processing.locations import FileLocation, Location, S3Location
from pipeline_processing.messaging import Events, RequestStream, Topics
from pipeline_processing.model import RunCompletion, RunProgress, UploadRef
from pipeline_processing.null.destination import NullDestination
from pipeline_processing.outage import Outage
from pipeline_processing.outbox import Outbox
from pipeline_processing.ports import Clock, Destination, RunStore
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.migrate import migrate as migrate_schema
from pipeline_processing.postgres.migrate import pending
from pipeline_processing.postgres.run_store import PostgresRunStore
from pipeline_processing.postgres.source import SESSION_SETTINGS, PostgresSource
from pipeline_processing.progress_events import ProgressEvents
from pipeline_processing.run_now import RunNow, run_dry
from pipeline_processing.s3.client import S3Client
from pipeline_processing.s3.destination import S3Destination
from pipeline_processing.serve import Service
from pipeline_processing.settings import Settings
from pipeline_processing.steps.chain import bind
from pipeline_processing.web.health import health_server
from pipeline_processing.worker import Worker

APPLICATION_NAME = "pipeline-processing"
_MIB = 1024 * 1024
_OTHER_CONNECTIONS = 4
"""To the history, besides two a run (its writes and its lease): intake, outbox, claims, and one to spare."""


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
        executor = _executor(
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
            executor=executor,
            destination=where,
            clock=clock,
            retry=retry_policy(settings),
            jitter=random.random,
            after=after,
        )


def _executor(
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


# -- the long-running service --------------------------------------------------------------------


@asynccontextmanager
async def service(
    settings: Settings, config: AgencyJobConfig, *, tracer: Tracer, after: Callable[[str], None] = lambda step: None
) -> AsyncIterator[Service]:
    """All of `serve`."""
    clock, concurrency = SystemClock(), settings.worker.concurrency
    kafka, database_of_runs, storage = Outage("Kafka"), Outage("the history"), Outage("the destination")
    pulses = {name: Pulse(name, clock=clock) for name in ("intake", "worker", "outbox")}
    health = Health(pulses=list(pulses.values()), outages=(kafka, database_of_runs, storage))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(health_server(health, host=settings.http.host, port=settings.http.port))
        runs = await stack.enter_async_context(history(settings, connections=2 * concurrency + _OTHER_CONNECTIONS))
        database = await stack.enter_async_context(source_database(settings, connections=concurrency))
        where = await stack.enter_async_context(destination(settings, config, runs=concurrency))
        sender = await stack.enter_async_context(events(settings))
        looker = await stack.enter_async_context(topics(settings))
        outbox = Outbox(
            runs=runs,
            events=sender,
            topic=settings.kafka.completions_topic,
            clock=clock,
            pulse=pulses["outbox"],
            kafka=kafka,
            history=database_of_runs,
        )
        progress = ProgressEvents(events=sender, topic=settings.kafka.progress_topic, clock=clock)

        def ended(run_id: str) -> None:
            progress.forget(run_id)
            outbox.wake()

        worker = Worker(
            executor=_executor(
                settings,
                config,
                runs=runs,
                database=database,
                destination=where,
                clock=clock,
                tracer=tracer,
                on_progress=progress.tell,
                after=after,
            ),
            concurrency=concurrency,
            drain_seconds=settings.worker.drain_seconds,
            clock=clock,
            pulse=pulses["worker"],
            history=database_of_runs,
            on_ended=ended,
        )

        def accepted() -> None:
            worker.wake()
            outbox.wake()  # a finished run that was asked for again sends its event again

        @asynccontextmanager
        async def subscribed() -> AsyncIterator[RequestStream]:
            await looker.ensure()
            async with KafkaRequests(settings=settings.kafka) as stream:
                yield stream

        yield Service(
            intake=Intake(
                subscribe=subscribed,
                events=sender,
                dead_letters_topic=settings.kafka.dead_letters_topic,
                runs=runs,
                config=config,
                clock=clock,
                tracer=tracer,
                pulse=pulses["intake"],
                kafka=kafka,
                history=database_of_runs,
                on_accepted=accepted,
            ),
            worker=worker,
            outbox=outbox,
            progress=progress,
            runs=runs,
            destination=where,
            topics=looker,
            requests_topic=settings.kafka.requests_topic,
            clock=clock,
            health=health,
            kafka=kafka,
            history=database_of_runs,
            storage=storage,
        )


# -- cleaning up ---------------------------------------------------------------------------------


@asynccontextmanager
async def garbage_collector(
    settings: Settings, config: AgencyJobConfig | None, *, dry_run: bool = False
) -> AsyncIterator[GarbageCollector]:
    """What the `gc` command needs. Of a job config only the destination counts."""
    async with destination(settings, config, runs=1) as where, history(settings) as runs:
        yield GarbageCollector(runs=runs, destination=where, dry_run=dry_run)


# -- checking the servers ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of asking one server."""

    name: str
    ok: bool
    detail: str
    error: PipelineError | None = None


async def check_servers(settings: Settings, config: AgencyJobConfig) -> AsyncIterator[CheckResult]:
    """Ask each configured server whether a run could use it. Writes nothing."""
    yield await _checked("source", lambda: _check_source(settings, config))
    yield await _checked("history", lambda: _check_history(settings))
    yield await _checked("destination", lambda: _check_destination(settings, config))


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(name, ok=True, detail=await check())
    except PipelineError as error:
        return CheckResult(name, ok=False, detail=error.kind, error=error)


async def _check_source(settings: Settings, config: AgencyJobConfig) -> str:
    async with (
        source_database(settings, connections=1) as database,
        PostgresSource(database=database).snapshot(config.datasets) as snapshot,
    ):
        for dataset in config.datasets:
            columns = snapshot.columns(dataset, carry=CARRY[dataset.format])
            bind(dataset.steps, columns, dataset=dataset.name, arguments=_AnyArgument())
        return f"{database.where}; Postgres can plan every query, and every step finds its columns"


class _AnyArgument(dict[str, Any]):
    """Stands for the params of a request that isn't there yet: has every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


async def _check_history(settings: Settings) -> str:
    schema = settings.history.schema_name
    async with history_database(settings) as database, database.connection() as connection:
        missing = await pending(connection, schema)
    if missing:
        raise SettingsError(
            f"The schema {schema!r} at {database.where} lacks {len(missing)} migrations. "
            "Run `pipeline-processing migrate`."
        )
    return f"{database.where}, schema {schema}"


async def _check_destination(settings: Settings, config: AgencyJobConfig) -> str:
    async with history(settings) as runs, destination(settings, config, runs=settings.worker.concurrency) as where:
        await where.verify_installation(await runs.installation_id())
        return where.url
