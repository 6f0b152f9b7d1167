"""Reads an agency's rows from Postgres, all datasets in one repeatable-read snapshot."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from pydantic import SecretStr

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.errors import SourceUnavailable
from pipeline_processing.log import get_logger
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.arguments import bound
from pipeline_processing.sources.postgres.batches import CursorBatches
from pipeline_processing.sources.postgres.copy_batches import CopyBatches, CopyLimits
from pipeline_processing.sources.postgres.copy_reader import CopyReader, NewDecoder
from pipeline_processing.sources.postgres.dataset_errors import DatasetErrors
from pipeline_processing.sources.postgres.metered import Meter
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from pipeline_processing.sources.postgres.shape import Shape, planning, shape_of
from pipeline_processing.sources.postgres.types import set_codecs

log = get_logger(__name__)

SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}
"""The settings on which the text of values depends (see Values in the contract)."""

_LEAVING_SECONDS = 5.0

_TAKEN_AT = """
SELECT CASE WHEN pg_is_in_recovery() THEN least(statement_timestamp(), coalesce(
                pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint())))
            ELSE statement_timestamp() END,
       pg_is_in_recovery()
"""
"""
A standby shows what it has replayed, which may be old. If it has just started and replayed no commit yet, it has
everything up to its starting checkpoint.
"""


def source_database(dsn: SecretStr, *, connections: int) -> DatabaseClient:
    """Make a connection pool for reading rows, from the agencies' database or another."""
    return DatabaseClient(
        dsn=dsn.get_secret_value(),
        unavailable=SourceUnavailable,
        max_size=connections,
        server_settings=SESSION_SETTINGS,
    )


class PostgresSource:
    """
    Reads agencies' data from a database.

    A batch has about `batch_bytes`, estimated from earlier rows, and never more than twice that unless it is a single
    row. Two batches are in memory at a time. A row larger than `max_row_bytes`, as Postgres sends it, is rejected
    before it is read. Rows larger than a batch take at most `large_rows_bytes`, over all snapshots.
    """

    def __init__(
        self,
        *,
        database: DatabaseClient,
        batch_bytes: int = 1024 * 1024,
        max_row_bytes: int = 16 * 1024 * 1024,
        large_rows_bytes: int = 32 * 1024 * 1024,
        decoder: NewDecoder | None = None,
    ) -> None:
        self._database = database
        self._batch_bytes = batch_bytes
        self._max_row_bytes = max_row_bytes
        self._large_rows = ByteBudget(large_rows_bytes)
        copy_limits = CopyLimits(batch_bytes=batch_bytes, max_row_bytes=max_row_bytes, large_rows=self._large_rows)
        self._copy_reader = None if decoder is None else CopyReader(decoder, limits=copy_limits)

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, PostgresSourceConfig]) -> AsyncIterator["PostgresSnapshot"]:
        """
        Open a snapshot, which is taken at once. Leaving the block ends its transaction.

        All queries are planned first, so that an invalid one is found before any row is read.
        """
        async with self._database.connection() as connection:
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            try:
                await transaction.start()
                # The transaction's first query takes the snapshot.
                taken_at, standby = await connection.fetchrow(_TAKEN_AT)
                opened = {
                    name: await self._opened(name, config, connection, standby=standby)
                    for name, config in datasets.items()
                }
                meter = Meter.on(
                    connection,
                    fetch_bytes=2 * self._batch_bytes,
                    max_row_bytes=self._max_row_bytes,
                    budget=self._large_rows,
                )
                yield PostgresSnapshot(
                    connection,
                    opened,
                    meter=meter,
                    taken_at=taken_at,
                    batch_bytes=self._batch_bytes,
                    copy_reader=self._copy_reader,
                )
            finally:
                try:
                    # asyncpg first cancels a running query. The time is limited, because the network may have failed.
                    async with asyncio.timeout(_LEAVING_SECONDS):
                        await transaction.rollback()
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                    log.debug("a snapshot couldn't be rolled back", error=str(error))
                # The pool must not reuse a connection with this snapshot's codecs.
                with suppress(asyncpg.InterfaceError):  # the server has already closed it
                    connection.terminate()

    async def _opened(
        self, name: str, config: PostgresSourceConfig, connection: asyncpg.Connection, *, standby: bool
    ) -> "_Dataset":
        errors = DatasetErrors(
            name, database=self._database, statement_timeout=config.statement_timeout, standby=standby
        )
        with errors.located():
            return _Dataset(config, await shape_of(connection, config.query), errors)


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset's query in an open snapshot."""

    config: PostgresSourceConfig
    shape: Shape
    errors: DatasetErrors


class PostgresSnapshot:
    """An open transaction (repeatable read, read-only), and the datasets to read in it."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        datasets: Mapping[str, "_Dataset"],
        *,
        meter: Meter,
        taken_at: datetime,
        batch_bytes: int,
        copy_reader: CopyReader | None,
    ) -> None:
        self._copy_reader = copy_reader
        self._connection = connection
        self._meter = meter
        self._datasets = datasets
        self._batch_bytes = batch_bytes
        self._carry: str | None = None
        self.taken_at = taken_at

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """See `ports.Snapshot`."""
        return self._datasets[dataset].shape.carried(carry)[0]

    @asynccontextmanager
    async def records(
        self, dataset: str, arguments: Mapping[str, Any], *, carry: str
    ) -> AsyncIterator[CopyBatches | CursorBatches]:
        """See `ports.Snapshot`."""
        opened = self._datasets[dataset]
        # After an error the whole snapshot ends. Otherwise, rolling back closes the cursor, and makes the transaction
        # usable again after a cancelled fetch.
        savepoint = self._connection.transaction()
        with opened.errors.located():
            values = bound(opened.config.args, opened.shape.parameters, arguments)
            if carry != self._carry:
                await set_codecs(self._connection, carry)
                self._carry = carry
            await savepoint.start()
            await self._connection.execute(_timeout_setting(opened.config.statement_timeout))
            batches = await self._batches(dataset, values, carry=carry)
        try:
            yield batches
        finally:
            await batches.close()
        with opened.errors.located():
            await savepoint.rollback()

    async def _batches(self, dataset: str, values: Sequence[Any], *, carry: str) -> CopyBatches | CursorBatches:
        opened, connection = self._datasets[dataset], self._connection
        columns, query = opened.shape.carried(carry)
        located = opened.errors.located
        if (reader := self._copy_reader) and (
            statement := await reader.statement(connection, opened.shape, carry, dataset=dataset)
        ):
            with planning():
                return await reader.batches(
                    connection, statement, values, columns=columns, carry=carry, dataset=dataset, located=located
                )
        with planning():
            cursor = await (await connection.prepare(query)).cursor(*values)
        return CursorBatches(
            cursor, columns, dataset=dataset, meter=self._meter, batch_bytes=self._batch_bytes, located=located
        )


def _timeout_setting(timeout: timedelta | None) -> str:
    if timeout is None:
        return "SET LOCAL statement_timeout TO DEFAULT"
    return f"SET LOCAL statement_timeout TO {max(1, int(timeout.total_seconds() * 1000))}"
