"""The run store on Postgres."""

from pipeline_processing.history.postgres.attempts import PostgresAttempts
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.deliveries import PostgresDeliveries
from pipeline_processing.history.postgres.intake import PostgresIntake
from pipeline_processing.history.postgres.leftovers import PostgresLeftovers
from pipeline_processing.history.postgres.outbox import PostgresOutbox
from pipeline_processing.history.postgres.pruning import PostgresPruning
from pipeline_processing.history.postgres.queue import PostgresQueue
from pipeline_processing.history.postgres.reads import PostgresHistory
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.store import RunStore


def postgres_run_store(client: DatabaseClient, *, schema: str) -> RunStore:
    """Return all ports of the run table in `schema`, which must be the client's search path."""
    database = HistoryDatabase(client, schema=schema)
    return RunStore(
        intake=PostgresIntake(database),
        queue=PostgresQueue(database),
        attempts=PostgresAttempts(database),
        history=PostgresHistory(database),
        leftovers=PostgresLeftovers(database),
        outbox=PostgresOutbox(database),
        pruning=PostgresPruning(database),
        deliveries=PostgresDeliveries(database),
    )
