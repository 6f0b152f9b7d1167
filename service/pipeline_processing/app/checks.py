"""Check that a run could use the configured servers. Part of the composition root."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.checking import AnyArgument
from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.app import history, kafka
from pipeline_processing.app.data_path import destinations, sources
from pipeline_processing.errors import JobConfigError, PipelineError, QueryInvalid, SettingsError, UpstreamUnavailable
from pipeline_processing.history.postgres.migrate import pending
from pipeline_processing.http.client import check_reachable
from pipeline_processing.http.urls import origin_of, without_user
from pipeline_processing.messaging.port import Topics
from pipeline_processing.options.config_file import Location
from pipeline_processing.options.entry import Entry
from pipeline_processing.ports import ChecksAgencyKey, ChecksDatasets, Destination
from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.postgres.agency_ids import PostgresAgencyIds
from pipeline_processing.sources.postgres.copy_reader import chosen_reader
from pipeline_processing.sources.postgres.source import source_database
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.temporary_files import check_temporary_files
from pipeline_processing.triggers.config import AgencyQuery, Triggers

_WEBHOOK_SECONDS = 10.0
NO_COLUMNS: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of checking one server."""

    name: str
    ok: bool
    detail: str
    error: PipelineError | None = None
    location: Location = ()
    """Where the job config has what is wrong, if that is known."""


async def check_servers(settings: Settings, config: AgencyJobConfig, *, mask: Mask) -> AsyncIterator[CheckResult]:
    """Check every configured server, and yield a result for each. Writes nothing."""
    columns: dict[str, Sequence[str]] = {}
    async for result in check_inputs(settings, config, columns=columns, mask=mask):
        yield result
    yield await _checked("history", partial(_check_history, settings))
    for result in await _check_destinations(settings, config, columns, mask):
        yield result
    async for result in check_webhooks(settings):
        yield result


async def check_inputs(
    settings: Settings, config: AgencyJobConfig, *, columns: dict[str, Sequence[str]], mask: Mask
) -> AsyncIterator[CheckResult]:
    """Check what runs read and use on the way. Adds the columns of each dataset to `columns` if all are known."""
    if any(dataset.needs_temporary_files for dataset in config.datasets):
        yield await _checked("temp files", _check_temporary_files)
    for dataset in config.datasets:
        result = await _checked("source", partial(_check_dataset, settings, config, dataset, columns, mask))
        yield replace(result, location=_location(dataset, result.error))
    for options in _apis(config):
        yield await _checked("api", partial(check_reachable, options.url, seconds=options.timeout.total_seconds()))


async def check_webhooks(settings: Settings) -> AsyncIterator[CheckResult]:
    """Connect to each webhook."""
    for name, webhook in settings.webhooks.items():
        yield await _checked("webhook", partial(_check_webhook, name, webhook.url.get_secret_value()))


async def check_triggers(
    settings: Settings, triggers: Triggers, *, agency_key: AgencyKey
) -> AsyncIterator[CheckResult]:
    """Look up each topic of the triggers, and run the queries of the schedules. Yields a result for each."""
    async with kafka.topics(settings) as topics:
        for topic in triggers.topics:
            yield await _checked("topic", partial(_check_topic, topics, topic))
    for trigger in triggers.schedules:
        if isinstance(trigger.schedule.agencies, AgencyQuery):
            yield await _checked(
                "agencies", partial(_check_query, settings, trigger.name, trigger.schedule.agencies, agency_key)
            )


async def _check_topic(topics: Topics, topic: str) -> str:
    return f"{topic}: {len(await topics.ends(topic))} partitions"


async def _check_query(settings: Settings, name: str, agencies: AgencyQuery, agency_key: AgencyKey) -> str:
    async with source_database(settings.require_source_dsn(), connections=1) as database:
        found = await PostgresAgencyIds(database=database, agency_key=agency_key).listed(agencies.query)
    return f"{name}: the query returns {len(found):,} agencies"


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(name, ok=True, detail=await check())
    except PipelineError as error:
        return CheckResult(name, ok=False, detail=error.kind, error=error)


async def _check_dataset(
    settings: Settings, config: AgencyJobConfig, dataset: DatasetConfig, columns: dict[str, Sequence[str]], mask: Mask
) -> str:
    """Check a dataset's source and steps. Records its columns in `columns` if all are known."""
    async with (
        sources(settings, config, runs=1, mask=mask) as (source, services),
        source.snapshot({dataset.name: dataset.source}) as snapshot,
    ):
        if isinstance(snapshot, ChecksAgencyKey):
            snapshot.check_agency_key(dataset.name, config.agency_key)
        there = snapshot.columns(dataset.name, carry=dataset.carry)
        async with Chain.open(
            dataset, there, arguments=AnyArgument(), services=services, tally=Tally(dataset.name)
        ) as chain:  # opening the steps checks them
            if chain.columns.complete:
                columns[dataset.name] = chain.columns.names
    reader = chosen_reader(settings.source.reader).description if dataset.source.needs_source_database else ""
    return (
        f"{dataset.name} ({dataset.source.kind}): every query can be planned, and every step finds its columns"
        f"{reader and f'; {reader}'}"
    )


def _location(dataset: DatasetConfig, error: PipelineError | None) -> Location:
    """Return where the job config has what an error is about; nothing if it is about a server."""
    if not isinstance(error, JobConfigError):
        return ()
    at: Location = ("datasets", dataset.name)
    if error.step is not None:
        return (*at, "steps", error.step - 1)
    return (*at, "source", dataset.source.kind) if isinstance(error, QueryInvalid) else at


def _apis(config: AgencyJobConfig) -> Collection[Any]:
    """Return the options of sources and steps that call an API, one per API."""
    parts: list[Entry] = [part for dataset in config.datasets for part in (dataset.source, *dataset.steps)]
    options = [part.options for part in parts if part.asked("url", "")]
    return {origin_of(each.url.partition("{")[0]): each for each in options}.values()


async def _check_temporary_files() -> str:
    check_temporary_files()
    return f"{tempfile.gettempdir()}: keys of `dedupe` and `expect.unique` can be stored there"


async def _check_webhook(name: str, url: str) -> str:
    try:
        return f"{name}: {await check_reachable(without_user(url), seconds=_WEBHOOK_SECONDS)}"
    except UpstreamUnavailable as error:
        raise error.at(f"Webhook {name!r}") from error.__cause__


async def _check_history(settings: Settings) -> str:
    schema = settings.history.schema_name
    async with history.database(settings) as database, database.connection() as connection:
        missing = await pending(connection, schema)
    if missing:
        raise SettingsError(
            f"The schema {schema!r} at {database.where} lacks {len(missing)} migrations. "
            "Run `pipeline-processing migrate`."
        )
    return f"{database.where}, schema {schema}"


async def check_destination(
    destination: Destination, datasets: Sequence[str], *, columns: Mapping[str, Sequence[str]] = NO_COLUMNS
) -> str:
    """Have a destination check the datasets, if it can. Returns its URL."""
    if isinstance(destination, ChecksDatasets):
        await destination.check(datasets, columns=columns)
    return destination.url


async def _check_destinations(
    settings: Settings, config: AgencyJobConfig, columns: Mapping[str, Sequence[str]], mask: Mask
) -> Sequence[CheckResult]:
    async def check(destination: Destination) -> str:
        await check_destination(destination, [dataset.name for dataset in config.datasets], columns=columns)
        async with history.run_store(settings) as runs:
            await destination.verify_installation(await runs.history.installation_id())
        return destination.url

    try:
        async with destinations(settings, config, runs=settings.worker.concurrency, mask=mask) as where:
            return [await _checked("destination", partial(check, each)) for each in where.all]
    except PipelineError as error:
        return [CheckResult("destination", ok=False, detail=error.kind, error=error)]
