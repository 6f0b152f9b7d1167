"""Reads an agency's rows from Postgres: one repeatable-read snapshot, cursors in batches, the next one prefetched."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlglot
import structlog
from msgspec import Raw
from sqlglot import TokenType

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.errors import QueryInvalid
from pipeline_processing.ports import Batch, Columns, RowMaker
from pipeline_processing.postgres.arguments import bound
from pipeline_processing.postgres.client import DatabaseClient, quoted
from pipeline_processing.postgres.description import described
from pipeline_processing.postgres.types import carried_as, column_of, rendered, set_codecs
from pipeline_processing.projection import Projection

log = structlog.get_logger(__name__)

SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}
"""What the printed form of values depends on (the contract's Values)."""

MAX_BATCH_ROWS = 1000
"""More rows at a time are slower: they leave the processor's caches before they are encoded."""
_LEAVING_SECONDS = 5.0
_FIRST_BATCH_ROWS = 4
"""Few, as nothing is known yet of how wide the rows are."""


class PostgresSource:
    """
    A database with agencies' data.

    `batch_bytes` is what one batch should hold, as far as the rows before it tell; there are two at a time.
    """

    def __init__(self, *, database: DatabaseClient, batch_bytes: int = 1024 * 1024) -> None:
        self._database = database
        self._batch_bytes = batch_bytes

    @asynccontextmanager
    async def snapshot(self, datasets: Sequence[DatasetConfig]) -> AsyncIterator["PostgresSnapshot"]:
        """
        One snapshot, fixed here and now. Leaving the block ends its transaction.

        All queries are planned first, so that a wrong one is found before the first row of any is read.
        """
        async with self._database.connection() as connection:
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            try:
                await transaction.start()
                # The transaction's first query fixes the snapshot.
                taken_at = await connection.fetchval("SELECT statement_timestamp()")
                shapes = {dataset.name: await _shape(connection, dataset) for dataset in datasets}
                yield PostgresSnapshot(connection, shapes, taken_at=taken_at, batch_bytes=self._batch_bytes)
            finally:
                try:
                    # asyncpg cancels a query that is still running before it rolls back. Limited, because the network
                    # may be what has failed.
                    async with asyncio.timeout(_LEAVING_SECONDS):
                        await transaction.rollback()
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                    log.debug("a snapshot was cut off", error=str(error))
                # Its codecs are this snapshot's; the pool opens another connection for the next.
                connection.terminate()


class PostgresSnapshot:
    """One open repeatable-read, read-only transaction, with the shapes of the datasets to be read in it."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        shapes: Mapping[str, "_Shape"],
        *,
        taken_at: datetime,
        batch_bytes: int,
    ) -> None:
        self._connection = connection
        self._shapes = shapes
        self._batch_bytes = batch_bytes
        self._carry: str | None = None
        self.taken_at = taken_at

    def columns(self, dataset: DatasetConfig, *, carry: str) -> Columns:
        """What the dataset's query gives, as steps see it."""
        shape = self._shapes[dataset.name]
        return exact_query(shape.names, shape.types, shape.enums, dataset.source.postgres.query, carry)[0]

    @asynccontextmanager
    async def rows(
        self, dataset: DatasetConfig, arguments: Mapping[str, Any], *, carry: str
    ) -> AsyncIterator["CursorBatches"]:
        """The rows of one dataset's query; see `ports.Snapshot`."""
        shape = self._shapes[dataset.name]
        config = dataset.source.postgres
        values = bound(config.args, shape.parameters, arguments, dataset=dataset.name)
        columns, query = exact_query(shape.names, shape.types, shape.enums, config.query, carry)
        if carry != self._carry:
            await set_codecs(self._connection, carry)
            self._carry = carry
        async with self._savepoint():
            await self._connection.execute(_timeout_setting(config.statement_timeout))
            with _planning(dataset.name):
                cursor = await (await self._connection.prepare(query)).cursor(*values)
            batches = CursorBatches(cursor, columns, batch_bytes=self._batch_bytes)
            try:
                yield batches
            finally:
                await batches.close()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        """Rolled back after the block: that closes its cursors, and heals the transaction if a fetch was cancelled."""
        savepoint = self._connection.transaction()
        await savepoint.start()
        yield  # after an error the whole snapshot ends: there is nothing to heal
        await savepoint.rollback()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a query takes and gives, as Postgres describes it."""

    parameters: tuple[asyncpg.Type, ...]
    names: tuple[str, ...]
    types: tuple[asyncpg.Type, ...]
    enums: frozenset[int]
    """Object ids of the enums among them, which asyncpg doesn't tell apart; not of those with a cast to json."""


_ENUMS = """
SELECT oid FROM pg_type WHERE typtype = 'e' AND oid = ANY ($1)
    AND NOT EXISTS (SELECT FROM pg_cast WHERE castsource = pg_type.oid AND casttarget = 'json'::regtype)
"""


async def _shape(connection: asyncpg.Connection, dataset: DatasetConfig) -> _Shape:
    """Ask Postgres. With codecs of our own set, asyncpg would refuse some types here, such as ranges of them."""
    query = dataset.source.postgres.query
    with _planning(dataset.name):
        try:
            statement = await connection.prepare(query)
            attributes, parameters = statement.get_attributes(), statement.get_parameters()
            names, types = tuple(a.name for a in attributes), tuple(a.type for a in attributes)
        except (asyncpg.UnsupportedClientFeatureError, asyncpg.InternalClientError):
            parameters, names, types = await described(connection, _without_semicolon(query))
    _check_names(names, dataset.name)
    others = [pg_type.oid for pg_type in types if pg_type.schema != "pg_catalog"]
    enums = await connection.fetch(_ENUMS, others)
    return _Shape(
        parameters=parameters,
        names=names,
        types=types,
        enums=frozenset(record[0] for record in enums),
    )


def exact_query(
    names: Sequence[str], types: Sequence[asyncpg.Type], enums: Set[int], query: str, carry: str
) -> tuple[Columns, str]:
    """The query that gives every column in the form `carry`: the user's own where codecs are enough."""
    carried = [carried_as(pg_type, carry, is_enum=pg_type.oid in enums) for pg_type in types]
    columns = tuple(column_of(name, how, carry) for name, how in zip(names, carried, strict=True))
    if all(carried):
        return columns, query
    expressions = ", ".join(
        f"q.{quoted(name)}" if how else f"{rendered('q.' + quoted(name), carry)} AS {quoted(name)}"
        for name, how in zip(names, carried, strict=True)
    )
    aliases = ", ".join(map(quoted, names))
    # A subquery with ORDER BY is never flattened into the outer one, so the rows keep its order. Nothing but the
    # user's own query and quoted column names goes into the text.
    return columns, f"SELECT {expressions} FROM (\n{_without_semicolon(query)}\n) AS q ({aliases})"  # noqa: S608 see above


class CursorBatches:
    """Batches of one cursor. While a batch is worked on, the next is already on its way."""

    def __init__(self, cursor: Any, columns: Columns, *, batch_bytes: int) -> None:
        self.columns = columns
        self._cursor = cursor
        self.make_rows: RowMaker = Projection.of([column.name for column in columns]).rows
        self._batch_bytes = batch_bytes
        self._size = _FIRST_BATCH_ROWS
        self._next = asyncio.ensure_future(cursor.fetch(self._size))

    def __aiter__(self) -> "CursorBatches":
        return self

    async def __anext__(self) -> Batch:
        records = await self._next
        if not records:
            raise StopAsyncIteration
        self._size = self._rows_that_fit(records)
        self._next = asyncio.ensure_future(self._cursor.fetch(self._size))
        await asyncio.sleep(0)  # lets the request go out before this batch keeps the thread busy
        return self.make_rows(records)

    def _rows_that_fit(self, records: Sequence[Any]) -> int:
        """How many rows like these make a batch, judged by a few of them; it grows slowly and shrinks at once."""
        sample = records[:: len(records) // 8 + 1]
        row_bytes = max(sum(map(_size_of, record)) for record in sample)
        return max(1, min(MAX_BATCH_ROWS, self._size * 4, self._batch_bytes // row_bytes))

    async def close(self) -> None:
        """Give up the batch under way."""
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)


def _size_of(value: Any) -> int:
    return (
        32 + len(value) if isinstance(value, str | bytes) else 32 + len(bytes(value)) if isinstance(value, Raw) else 32
    )


@contextmanager
def _planning(dataset: str) -> Iterator[None]:
    """Errors in the block are the query's, or its arguments': asyncpg's own for those are DataErrors too (22000)."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if error.sqlstate[:2] in _CANNOT_PLAN and error.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise QueryInvalid(_cannot_plan(dataset, error)) from error
        raise


_CANNOT_PLAN = ("42", "22", "0A")
"""SQLSTATE classes of a query that Postgres can't parse or plan: syntax, wrong constants, not supported."""
_INSUFFICIENT_PRIVILEGE = "42501"


def _cannot_plan(dataset: str, error: asyncpg.PostgresError) -> str:
    hint = f" Hint: {error.hint}" if getattr(error, "hint", None) else ""
    return f"Postgres can't plan the query of dataset {dataset!r}: {error.args[0]}.{hint} Correct it in the job config."


def _check_names(names: Sequence[str], dataset: str) -> None:
    if not names:
        raise QueryInvalid(f"The query of dataset {dataset!r} returns no columns. Make it a SELECT of some.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryInvalid(
            f"The query of dataset {dataset!r} returns two columns named {', '.join(map(repr, twice))}. "
            "Give each a name of its own with AS."
        )


def _timeout_setting(timeout: timedelta | None) -> str:
    if timeout is None:
        return "SET LOCAL statement_timeout TO DEFAULT"
    return f"SET LOCAL statement_timeout TO {max(1, int(timeout.total_seconds() * 1000))}"


def _without_semicolon(query: str) -> str:
    """The query up to a semicolon at its end, which a subquery can't have."""
    tokens = sqlglot.tokenize(query, read="postgres")
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        query = query[: tokens.pop().start]
    return query
