"""Whether the configured servers are as a run needs them: part of the composition root."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pipeline_processing import app
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import PipelineError, SettingsError
from pipeline_processing.formats.formats import CARRY
from pipeline_processing.postgres.migrate import pending
from pipeline_processing.postgres.source import PostgresSource
from pipeline_processing.settings import Settings
from pipeline_processing.steps.chain import bind


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
        app.source_database(settings, connections=1) as database,
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
        app.destination(settings, config, runs=settings.worker.concurrency) as where,
    ):
        await where.verify_installation(await runs.installation_id())
        return where.url
