"""
How the data path is put together from the settings and a job config, its sources, services and destinations: part of
the composition root.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from pipeline_processing import plugins
from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig
from pipeline_processing.agency_data_job.destination_config import (
    FileDestinationEntry,
    PluginDestinationEntry,
    PostgresDestinationEntry,
    S3DestinationEntry,
)
from pipeline_processing.agency_data_job.destination_entries import destination_entries
from pipeline_processing.agency_data_job.identity import config_id
from pipeline_processing.agency_data_job.source_config import PluginSourceEntry
from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import Clock, SystemClock
from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.options import S3ConnectionOptions, S3DestinationConfig
from pipeline_processing.destinations.s3.session import AssumedRole
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.destinations.tables.destination import SESSION_SETTINGS as TARGET_SETTINGS
from pipeline_processing.destinations.tables.destination import PostgresDestination
from pipeline_processing.destinations.tables.options import PostgresDestinationConfig
from pipeline_processing.errors import DestinationUnavailable, SourceUnavailable
from pipeline_processing.http.client import HttpUpstream
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Paces
from pipeline_processing.ports import Destination, LookupTable, Services, Source, Upstream
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.http.source import HttpSource
from pipeline_processing.sources.postgres.lookup import PostgresLookup
from pipeline_processing.sources.postgres.source import SESSION_SETTINGS, PostgresSource
from pipeline_processing.sources.several import Sources
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.spellings import basic_auth
from pipeline_processing.temporary_files import check_temporary_files
from pipeline_processing.user_code import user_code

APPLICATION_NAME = "pipeline-processing"
AS_THE_SETTINGS_SAY = S3ConnectionOptions()
MIB = 1024 * 1024
_MAX_RECORD_BYTES = 4 * MIB
"""Reading a record takes many times its size, and keeps the event loop busy meanwhile."""


@dataclass(frozen=True, slots=True)
class DataPath:
    """What an agency's rows come from, pass through, and go to."""

    source: Source
    services: Services
    destinations: Destinations
    config_id: str


@asynccontextmanager
async def data_path(
    settings: Settings, config: AgencyJobConfig, *, runs: int, mask: Mask, clock: Clock
) -> AsyncIterator[DataPath]:
    """
    The data path of up to `runs` runs at once. Raises SettingsError where a dataset needs temporary files, and none can
    be made.
    """
    if any(dataset.needs_temporary_files for dataset in config.datasets):
        check_temporary_files()
    async with (
        sources(settings, config, runs=runs, mask=mask, clock=clock) as (source, services),
        destinations(settings, config, runs=runs, mask=mask) as where,
    ):
        yield DataPath(source, services, where, config_id(config, destination_entries(settings, config)))


# -- limits --------------------------------------------------------------------------------------


def max_row_bytes(settings: Settings) -> int:
    """
    The longest row, as Postgres sends it and as it is encoded: a quarter of a run's share, since it is read, encoded,
    and copied into a part; and never more than all large rows together.
    """
    return min(_budget(settings) // settings.worker.concurrency // 4, _large_rows_bytes(settings))


def _budget(settings: Settings) -> int:
    return settings.worker.memory_budget_mib * MIB


def _large_rows_bytes(settings: Settings) -> int:
    """
    For rows larger than a batch, in all runs at a time.

    Such a row takes up to seven times its size while it is read, encoded and written (measured). That has to fit into
    the quarter of the budget that parts leave, and the 50 MiB that a process may take besides and doesn't by itself.
    """
    return min(_budget(settings) // 8, (_budget(settings) // 4 + 50 * MIB) // 7)


def _parts_bytes(settings: Settings) -> int:
    """For parts of uploads: what rows leave, but enough for the smallest parts that S3 takes."""
    return max(_budget(settings) * 3 // 4, min(_budget(settings), 32 * MIB))


def _batch_bytes(settings: Settings) -> int:
    """Of one batch of rows: a megabyte, or less where many runs share little memory."""
    return min(MIB, _budget(settings) // settings.worker.concurrency // 16)


# -- sources, and what steps use -----------------------------------------------------------------


@asynccontextmanager
async def sources(
    settings: Settings, config: AgencyJobConfig, *, runs: int, mask: Mask, clock: Clock | None = None
) -> AsyncIterator[tuple[Source, "ConfiguredServices"]]:
    """
    The sources that the job config names, and what its steps use.

    `mask` gets to know what secrets the job config holds; `clock` tells the time of what has no snapshot.
    """
    clock = clock or SystemClock()
    mask.know_all_in(config)
    async with AsyncExitStack() as stack:
        services = ConfiguredServices(settings, mask)
        by_kind: dict[str, Source] = {}
        if settings.source.dsn is not None:
            database = await stack.enter_async_context(source_database(settings, connections=runs))
            by_kind["postgres"] = PostgresSource(
                database=database,
                batch_bytes=_batch_bytes(settings),
                max_row_bytes=max_row_bytes(settings),
                large_rows_bytes=_large_rows_bytes(settings),
            )
        by_kind["http"] = HttpSource(
            upstream=services.upstream,
            clock=clock,
            batch_bytes=_batch_bytes(settings),
            max_record_bytes=min(_MAX_RECORD_BYTES, max_row_bytes(settings)),
        )
        for dataset in config.datasets:
            if isinstance(dataset.source, PluginSourceEntry) and dataset.source.kind not in by_kind:
                kind = dataset.source.kind
                with _building(kind):
                    by_kind[kind] = plugins.plugin(plugins.SOURCES, kind).build(context=services)
        yield Sources(by_kind, clock=clock), services


def source_database(settings: Settings, *, connections: int) -> DatabaseClient:
    """The database that holds the agencies' data."""
    return _read_database(settings.require_source_dsn(), connections=connections)


def _read_database(dsn: SecretStr, *, connections: int) -> DatabaseClient:
    return DatabaseClient(
        dsn=dsn.get_secret_value(),
        unavailable=SourceUnavailable,
        application_name=APPLICATION_NAME,
        max_size=connections,
        server_settings=SESSION_SETTINGS,
    )


def _building(plugin: str) -> AbstractContextManager[None]:
    """A block that builds or opens what a plugin offers, whose errors are told as the plugin's."""
    return user_code(lambda what: InvalidJobConfig(f"The plugin {plugin!r} can't be built: {what}."))


class ConfiguredServices:
    """The `Services` of a process. Whatever secret is asked for is masked from then on."""

    def __init__(self, settings: Settings, mask: Mask) -> None:
        self._settings = settings
        self._mask = mask
        self._paces = Paces(clock=SystemClock())

    def secret(self, name: str) -> SecretStr:
        """See `Services`."""
        secret = self._settings.secret(name)
        self._mask.know([secret.get_secret_value()])
        return secret

    def upstream(self, options: UpstreamOptions) -> AbstractAsyncContextManager[Upstream]:
        """See `Services`."""
        if options.auth is not None and (basic := options.auth.basic) is not None:
            password = self.secret(basic.password).get_secret_value()
            self._mask.know([basic_auth(basic.username, password)])
        return HttpUpstream(
            options=options, secret=self.secret, paces=self._paces, clock=SystemClock(), jitter=random.random
        )

    @asynccontextmanager
    async def lookup(self, query: str, *, secret: str | None, carry: str) -> AsyncIterator[LookupTable]:
        """See `Services`. On a connection of its own: from a shared pool, lookups could wait for each other."""
        dsn = self._settings.require_source_dsn() if secret is None else self.secret(secret)
        async with (
            _read_database(dsn, connections=1) as database,
            PostgresLookup(database=database, query=query, carry=carry) as table,
        ):
            yield table


# -- destinations --------------------------------------------------------------------------------


@asynccontextmanager
async def destinations(
    settings: Settings, config: AgencyJobConfig | None, *, runs: int, mask: Mask
) -> AsyncIterator[Destinations]:
    """Where the artifacts of up to `runs` runs at once go. Raises SettingsError if that is nowhere."""
    mask.know_all_in(config)
    entries = destination_entries(settings, config)
    stores = sum(isinstance(entry, S3DestinationEntry) for entry in entries)
    budget = ByteBudget(_parts_bytes(settings))
    async with AsyncExitStack() as stack:
        opened: list[Destination] = []
        for entry in entries:
            match entry:
                case S3DestinationEntry(s3=s3):
                    # A run writes one artifact at each store, and rejected rows at the first.
                    made = _s3_destination(
                        settings, s3, budget=budget, runs=runs, uploads_per_run=stores + 1, mask=mask
                    )
                case FileDestinationEntry(file=file):
                    opened.append(FileDestination(path=file.path))
                    continue
                case PostgresDestinationEntry(postgres=postgres):
                    made = _postgres_destination(settings, postgres, connections=2 * runs)
                case PluginDestinationEntry():
                    with _building(entry.name):
                        plugin = plugins.plugin(plugins.DESTINATIONS, entry.name)
                        made = plugin.build(entry.options, context=ConfiguredServices(settings, mask))
                        opened.append(await stack.enter_async_context(made))
                    continue
            opened.append(await stack.enter_async_context(made))
        # The first that can hold the manifest is the primary: another package's has no say in that.
        first = next(at for at, entry in enumerate(entries) if entry.kind in ("s3", "file"))
        yield Destinations([opened.pop(first), *opened])


@asynccontextmanager
async def _s3_destination(
    settings: Settings, config: S3DestinationConfig, *, budget: ByteBudget, runs: int, uploads_per_run: int, mask: Mask
) -> AsyncIterator[Destination]:
    async with s3_client(settings, config, learned=mask.know) as client:
        yield S3Destination(
            client=client,
            bucket=config.bucket,
            prefix=config.prefix,
            budget=budget,
            runs=runs,
            uploads_per_run=uploads_per_run,
            options=config,
        )


def s3_client(
    settings: Settings,
    config: S3ConnectionOptions = AS_THE_SETTINGS_SAY,
    *,
    learned: Callable[[Iterable[str]], None] = lambda secrets: None,
) -> S3Client:
    """A connection pool to the configured S3; `learned` as in `S3Client`."""
    s3 = settings.s3
    role = config.role_arn and AssumedRole(
        arn=config.role_arn, session_name=config.role_session_name, external_id=config.external_id
    )
    return S3Client(
        endpoint_url=config.endpoint_url or s3.endpoint_url,
        region=config.region or s3.region,
        access_key_id=s3.access_key_id.get_secret_value() if s3.access_key_id else None,
        secret_access_key=s3.secret_access_key,
        session_token=s3.session_token,
        addressing_style=config.addressing_style or s3.addressing_style,
        role=role or None,
        learned=learned,
    )


@asynccontextmanager
async def _postgres_destination(
    settings: Settings, config: PostgresDestinationConfig, *, connections: int
) -> AsyncIterator[Destination]:
    database = DatabaseClient(
        dsn=settings.secret(config.dsn).get_secret_value(),
        unavailable=DestinationUnavailable,
        application_name=APPLICATION_NAME,
        max_size=connections,
        server_settings=TARGET_SETTINGS,
    )
    async with database:
        yield PostgresDestination(database=database, config=config)
