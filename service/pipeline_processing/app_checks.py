"""Whether the configured servers are as a run needs them: part of the composition root."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from pipeline_processing import app
from pipeline_processing.agency_data_job.checking import step_context
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.verification import checks_of_rows
from pipeline_processing.app_data import destinations, sources
from pipeline_processing.errors import PipelineError, SettingsError
from pipeline_processing.formats.formats import CARRY
from pipeline_processing.postgres.destination import PostgresDestination
from pipeline_processing.postgres.migrate import pending
from pipeline_processing.settings import Settings
from pipeline_processing.steps.chain import bound


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
    entries = {dataset.name: dataset.source for dataset in config.datasets}
    async with (
        sources(settings, config, runs=1) as (source, services),
        source.snapshot(entries) as snapshot,
    ):
        for dataset in config.datasets:
            columns = snapshot.columns(dataset.name, carry=CARRY[dataset.format])
            context, checks = step_context(dataset, services), checks_of_rows(dataset.expect)
            async with bound(dataset.steps, context, columns, dataset=dataset.name, checks=checks):
                pass  # what they find out when they are opened is all that is asked
        kinds = ", ".join(dict.fromkeys(entry.kind for entry in entries.values()))
        return f"{kinds}; every query can be planned, and every step finds its columns"


async def _check_history(settings: Settings) -> str:
    schema = settings.history.schema_name
    async with app.history_database(settings) as database, database.connection() as connection:
        missing = await pending(connection, schema)
    if missing:
        raise SettingsError(
            f"The schema {schema!r} at {database.where} lacks {len(missing)} migrations. "
            "Run `pipeline-processing migrate`."
        )
    return f"{database.where}, schema {schema}"


async def _check_destination(settings: Settings, config: AgencyJobConfig) -> str:
    async with (
        app.history(settings) as runs,
        destinations(settings, config, runs=settings.worker.concurrency) as where,
    ):
        await where.verify_installation(await runs.installation_id())
        for table in where.tables:
            if isinstance(table, PostgresDestination):
                await table.check([dataset.name for dataset in config.datasets])
        return ", ".join(each.url for each in where.all)
