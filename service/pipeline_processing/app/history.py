"""Open the run history. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.letters import PostgresLetters
from pipeline_processing.history.postgres.migrate import migrate as migrate_schema
from pipeline_processing.history.postgres.store import postgres_run_store
from pipeline_processing.history.postgres.waiting import PostgresWaiting
from pipeline_processing.messaging.dead_letters import LetterStore
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.queue_reads import QueueReads
from pipeline_processing.runs.store import RunStore
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.metrics import Metrics


@asynccontextmanager
async def run_store(
    settings: Settings, *, connections: int = 2, metrics: Metrics | None = None, pool: str = "history"
) -> AsyncIterator[RunStore]:
    """Open the run history; `pool` is its name in the metrics. Raises SettingsError if none is configured."""
    async with database(settings, connections=connections) as client:
        if metrics is not None:
            metrics.watch_pool(pool, client)
        yield postgres_run_store(client, schema=settings.history.schema_name)


@asynccontextmanager
async def run_store_and_queue(settings: Settings) -> AsyncIterator[tuple[RunStore, QueueReads]]:
    """Open the run history and the queries of its queue. Raises SettingsError if none is configured."""
    async with database(settings) as client:
        schema = settings.history.schema_name
        yield postgres_run_store(client, schema=schema), PostgresWaiting(HistoryDatabase(client, schema=schema))


@asynccontextmanager
async def letters(settings: Settings) -> AsyncIterator[LetterStore]:
    """Open the store for dead letters that Kafka refuses. Raises SettingsError if no history is configured."""
    async with database(settings, connections=1) as client:
        yield PostgresLetters(HistoryDatabase(client, schema=settings.history.schema_name))


def database(
    settings: Settings, *, connections: int = 2, command_seconds: float | None = 30.0, read_only: bool = False
) -> DatabaseClient:
    """Return a client of the history's database. Statements are short: after `command_seconds`, the server is lost."""
    # A process that hangs during a claim must not block the agency's other runs.
    in_transactions = {"idle_in_transaction_session_timeout": "10s"}
    if read_only:
        in_transactions["transaction_read_only"] = "on"
    return DatabaseClient(
        dsn=settings.require_history_dsn().get_secret_value(),
        unavailable=HistoryUnavailable,
        max_size=connections,
        search_path=settings.history.schema_name,
        server_settings=in_transactions,
        command_seconds=command_seconds,
    )


async def migrate(settings: Settings) -> list[str]:
    """Create or update the history's schema. Return the names of the applied migrations."""
    # No time limit, because another process may be migrating.
    async with database(settings, command_seconds=None) as client, client.connection() as connection:
        applied = await migrate_schema(connection, settings.history.schema_name)
    return [migration.name for migration in applied]
