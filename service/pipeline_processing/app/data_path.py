"""
Build the data path (sources, services, destinations) from settings and a job config, in the composition root.

Drivers are imported when they are needed: a run that asks no HTTP API starts without one's client.
"""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from pydantic import SecretStr

from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig
from pipeline_processing.agency_data_job.identity import config_id, destination_entries
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import Clock, SystemClock
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Paces
from pipeline_processing.options.entry import Entry
from pipeline_processing.ports import Destination, Limits, LookupTable, Source, Upstream
from pipeline_processing.runs.executor import DataPath
from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.several import Sources
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics, Pool
from pipeline_processing.telemetry.spellings import basic_auth
from pipeline_processing.temporary_files import check_temporary_files
from pipeline_processing.user_code import user_code

_DRY_CONFIG_ID = "0" * 32
"""Any id will do: no other worker sees the run."""
MIB = 1024 * 1024


@asynccontextmanager
async def data_path(
    settings: Settings, config: AgencyJobConfig, *, runs: int, mask: Mask, clock: Clock, metrics: Metrics | None = None
) -> AsyncIterator[DataPath]:
    """
    Open the data path for up to `runs` concurrent runs.

    Raises SettingsError if a dataset needs temporary files and none can be made.
    """
    if any(dataset.needs_temporary_files for dataset in config.datasets):
        check_temporary_files()
    async with (
        sources(settings, config, runs=runs, mask=mask, clock=clock, metrics=metrics) as (source, context),
        destinations(settings, config, runs=runs, mask=mask, clock=clock, metrics=metrics) as where,
    ):
        yield DataPath(
            config=config,
            config_id=config_id(config, destination_entries(settings, config)),
            source=source,
            services=context,
            destinations=where,
            nowhere=Destinations([NullDestination()]),
            max_row_bytes=context.limits.row,
        )


@asynccontextmanager
async def dry_path(settings: Settings, config: AgencyJobConfig, *, mask: Mask) -> AsyncIterator[DataPath]:
    """Open the data path for one dry run, which needs neither a destination nor its secrets."""
    nowhere = Destinations([NullDestination()])
    async with sources(settings, config, runs=1, mask=mask) as (source, context):
        yield DataPath(
            config=config,
            config_id=_DRY_CONFIG_ID,
            source=source,
            services=context,
            destinations=nowhere,
            nowhere=nowhere,
            max_row_bytes=context.limits.row,
        )


@asynccontextmanager
async def sources(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    runs: int,
    mask: Mask,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[tuple[Source, "Context"]]:
    """
    Open the job config's sources and the services for its steps.

    `mask` learns the secrets in the job config. `clock` provides the snapshot's time if the source has none.
    """
    mask.know_all_in(config)
    context = Context(settings, mask, clock=clock or SystemClock(), limits=limits(settings, runs=runs))
    by_kind = {dataset.source.kind: dataset.source for dataset in config.datasets}
    opened: dict[str, Source] = {}
    async with AsyncExitStack() as stack:
        # Open the database first: its snapshot sets the time for all sources.
        for kind, entry in sorted(by_kind.items(), key=lambda each: not each[1].needs_source_database):
            opened[kind] = await _opened(stack, entry, context=context)
            if metrics is not None:
                for pool in _pools_of([opened[kind]]):
                    metrics.watch_pool("source", pool)
        yield Sources(opened, clock=context.clock), context


@asynccontextmanager
async def destinations(
    settings: Settings,
    config: AgencyJobConfig | None,
    *,
    runs: int,
    mask: Mask,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Destinations]:
    """Open the destinations for up to `runs` concurrent runs. Raises SettingsError if there are none."""
    mask.know_all_in(config)
    entries = destination_entries(settings, config)
    # A run writes one artifact at a time to each object store, and rejected rows to the first.
    uploads = 1 + sum(entry.buffers_parts for entry in entries)
    divided = limits(settings, runs=runs, uploads_per_run=uploads)
    if metrics is not None:
        metrics.budget_used.watch(lambda: [(divided.uploads.reserved, ())])
        metrics.budget_limit.set(divided.uploads.limit)
    agency_key = AgencyKey.INTEGER if config is None else config.agency_key
    context = Context(settings, mask, clock=clock or SystemClock(), limits=divided, agency_key=agency_key)
    async with AsyncExitStack() as stack:
        opened: list[Destination] = [await _opened(stack, each, each.options, context=context) for each in entries]
        if metrics is not None:
            for number, pool in enumerate(_pools_of(opened), start=1):
                metrics.watch_pool(f"tables-{number}", pool)
        first = next((at for at, entry in enumerate(entries) if entry.holds_manifest), 0)  # else all hold tables
        yield Destinations([opened.pop(first), *opened])


async def _opened(stack: AsyncExitStack, entry: Entry, *options: Any, context: "Context") -> Any:
    """Build the entry's plugin, and close it with the stack."""

    async def built() -> Any:
        made = entry.plugin.build(*options, context=context)
        return await stack.enter_async_context(made) if isinstance(made, AbstractAsyncContextManager) else made

    if not entry.is_plugin:
        return await built()
    with user_code(lambda what: InvalidJobConfig(f"The plugin {entry.kind!r} can't be built: {what}.")):
        return await built()


def _pools_of(opened: Iterable[object]) -> list[Pool]:
    return [pool for each in opened if isinstance(pool := getattr(each, "pool", None), Pool)]


# -- limits --------------------------------------------------------------------------------------


def limits(settings: Settings, *, runs: int, uploads_per_run: int = 2) -> Limits:
    """Divide the memory budget among the runs and their parts."""
    budget, concurrency = settings.worker.memory_budget_mib * MIB, settings.worker.concurrency
    # A large row takes up to seven times its size while it is read, encoded and written (measured). That has to fit
    # into the quarter of the budget that parts leave, plus the 50 MiB that a process is allowed beyond its own needs.
    large_rows = min(budget // 8, (budget // 4 + 50 * MIB) // 7)
    return Limits(
        runs=runs,
        # A megabyte, or less if many runs share little memory.
        batch=min(MIB, budget // concurrency // 16),
        # A quarter of a run's share, because a row is read, encoded and copied into a part.
        row=min(budget // concurrency // 4, large_rows),
        large_rows=large_rows,
        # What rows leave, but at least enough for S3's smallest parts.
        uploads=ByteBudget(max(budget * 3 // 4, min(budget, 32 * MIB))),
        uploads_per_run=uploads_per_run,
    )


# -- services ------------------------------------------------------------------------------------


class Context:
    """The `BuildContext` of all sources or of all destinations. It masks every secret that it hands out."""

    def __init__(
        self,
        settings: Settings,
        mask: Mask,
        *,
        clock: Clock,
        limits: Limits,
        agency_key: AgencyKey = AgencyKey.INTEGER,
    ) -> None:
        self.settings = settings
        self.agency_key = agency_key
        self.clock = clock
        self.limits = limits
        self._mask = mask
        self._paces = Paces(clock=clock)

    def secret(self, name: str) -> SecretStr:
        secret = self.settings.secret(name)
        self.learn([secret.get_secret_value()])
        return secret

    def dsn(self, secret: str | None) -> SecretStr:
        return self.settings.require_source_dsn() if secret is None else self.secret(secret)

    def learn(self, secrets: Iterable[str]) -> None:
        self._mask.know(secrets)

    def upstream(self, options: UpstreamOptions) -> AbstractAsyncContextManager[Upstream]:
        from pipeline_processing.http.client import HttpUpstream

        if options.auth is not None and (basic := options.auth.basic) is not None:
            password = self.secret(basic.password).get_secret_value()
            self.learn([basic_auth(basic.username, password)])
        return HttpUpstream(
            options=options, secret=self.secret, paces=self._paces, clock=self.clock, jitter=random.random
        )

    @asynccontextmanager
    async def lookup(self, query: str, *, secret: str | None, carry: str) -> AsyncIterator[LookupTable]:
        """See `Services`. Uses its own connection: in a shared pool, lookups could block each other."""
        from pipeline_processing.sources.postgres.lookup import PostgresLookup
        from pipeline_processing.sources.postgres.source import source_database

        async with (
            source_database(self.dsn(secret), connections=1) as database,
            PostgresLookup(database=database, query=query, carry=carry) as table,
        ):
            yield table
