"""Reads an agency's rows from Postgres, all datasets in one repeatable-read snapshot."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from opentelemetry.trace import SpanKind
from pydantic import SecretStr

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import Clock, SystemClock
from pipeline_processing.errors import QueryInvalid, SourceUnavailable
from pipeline_processing.log import get_logger
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.arguments import bound, kind_of_key, misfit
from pipeline_processing.sources.postgres.batches import CursorBatches
from pipeline_processing.sources.postgres.copy_batches import CopyBatches, CopyLimits
from pipeline_processing.sources.postgres.copy_reader import CopyReader, NewDecoder
from pipeline_processing.sources.postgres.dataset_errors import DatasetErrors
from pipeline_processing.sources.postgres.metered import Meter
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from pipeline_processing.sources.postgres.shape import Shape, planning, shape_of
from pipeline_processing.sources.postgres.types import set_codecs
from pipeline_processing.telemetry.spans import child
from pipeline_processing.usage import current_usage

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
_LONGEST_QUERY_TOLD = 4000
"""Characters of a query in its span."""

_KEPT_SECONDS = 600.0
"""After this time a connection is replaced, so that a change of address, password or role takes effect."""

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"

_TAKEN_AT = """
SELECT (CASE WHEN pg_is_in_recovery() THEN least(statement_timestamp(), coalesce(
                 pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint())))
             ELSE statement_timestamp() END)::text,
       pg_is_in_recovery()::text
"""
"""
A standby shows what it has replayed, which may be old. If it has just started and replayed no commit yet, it has
everything up to its starting checkpoint. As text, which needs no codec.
"""

_SETS = r"""set_config(?!\s*\(\s*'[^'.]*'\s*,)|(^|\W)set\s+((local|session)\s+)?[\w"]+\."""
"""
Text of SQL that may set a custom setting, which has a dot in its name: after a rollback it is empty, but no longer
undefined. A regular expression for both Postgres and Python.
"""

_END = """
ROLLBACK;
SELECT pg_catalog.pg_advisory_unlock_all()::pg_catalog.text
UNION ALL SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql
UNION ALL SELECT lanname FROM pg_catalog.pg_language WHERE lanname NOT IN ('internal', 'c', 'sql', 'plpgsql')
UNION ALL SELECT extname FROM pg_catalog.pg_extension WHERE extname IN ('amqp', 'dblink', 'http', 'hypopg', 'orafce',
    'pg_background', 'pg_session_jwt', 'pg_variables', 'session_variable', 'set_user', 'temporal_tables')
""".lstrip()
"""
Rolling back undoes what a query may have done to its session: settings, temporary tables, cursors, LISTEN. Locks are
released here. If this returns more than one row, something may be left: statements that were prepared in SQL, or what
functions in other languages (`GD` of PL/Python, `%_SHARED` of PL/Perl) and of these extensions keep until the session
ends.
"""
_SETTERS = f"UNION ALL SELECT proname FROM pg_catalog.pg_proc WHERE oid >= 16384 AND prosrc ~* $re${_SETS}$re$"  # noqa: S608 a constant
"""Functions that may set a custom setting: added once for each connection, as there may be thousands to search."""
_NOTHING_LEFT = "SELECT 1"


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
        keep_connections: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """`decoder` is for COPY; None: cursors read everything. `keep_connections`: for other snapshots."""
        self.pool = database
        self._batch_bytes = batch_bytes
        self._max_row_bytes = max_row_bytes
        self._large_rows = ByteBudget(large_rows_bytes)
        copy_limits = CopyLimits(batch_bytes=batch_bytes, max_row_bytes=max_row_bytes, large_rows=self._large_rows)
        self._copy_reader = None if decoder is None else CopyReader(decoder, limits=copy_limits)
        self._keeps_connections = keep_connections
        self._clock = clock or SystemClock()
        self._shapes: dict[str, Shape] = {}
        """By query. All of them are in the job config."""

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, PostgresSourceConfig]) -> AsyncIterator["PostgresSnapshot"]:
        """
        Open a snapshot, which is taken at once. Leaving the block ends its transaction.

        All queries are planned first, so that an invalid one is found before any row is read. The connection is kept
        for another snapshot if nothing has failed and nothing may be left in its session.
        """
        keeps = self._keeps_connections and not any(re.search(_SETS, c.sql, re.I) for c in datasets.values())
        async with self.pool.connection() as connection:
            session = self._session(connection)
            succeeded = False
            try:
                with current_usage().waiting_for_database():
                    await connection.execute(_BEGIN)
                    # The transaction's first query takes the snapshot.
                    taken_at, in_recovery = await connection.fetchrow(_TAKEN_AT)
                    opened = {
                        name: await self._opened(name, config, session, standby=in_recovery == "true")
                        for name, config in datasets.items()
                    }
                at = datetime.fromisoformat(taken_at)
                yield PostgresSnapshot(session, opened, at, self._batch_bytes, self._copy_reader)
                succeeded = True
            finally:
                clean = False
                try:
                    with current_usage().waiting_for_database():
                        clean = await session.is_left_clean()
                finally:
                    if not (keeps and clean and succeeded and self._clock.monotonic() < session.kept_until):
                        with suppress(asyncpg.InterfaceError):  # the server has already closed it
                            connection.terminate()

    def _session(self, connection: asyncpg.Connection) -> "_Session":
        """Return what is known about a connection, which may be a new one."""
        known: _Session | None = connection.kept.get(self)
        if known is not None:
            return known.acquired(connection)
        meter = Meter.on(
            connection,
            fetch_bytes=2 * self._batch_bytes,
            max_row_bytes=self._max_row_bytes,
            budget=self._large_rows,
        )
        session = _Session(connection, meter, kept_until=self._clock.monotonic() + _KEPT_SECONDS)
        connection.kept[self] = session
        return session

    async def _opened(
        self, name: str, config: PostgresSourceConfig, session: "_Session", *, standby: bool
    ) -> "_Dataset":
        errors = DatasetErrors(name, database=self.pool, statement_timeout=config.statement_timeout, standby=standby)
        with errors.located():
            known = self._shapes.get(config.sql)
            doing = "plan the query" if config.table is None else f"read table '{config.table}'"
            shape, statement = await shape_of(session.connection, config.sql, known=known, doing=doing)
        self._shapes[config.sql] = shape
        return _Dataset(config, shape, errors, statement, carry=session.carry)


@dataclass(slots=True, eq=False)
class _Session:
    """A connection with its meter and codecs, which are kept with it."""

    connection: asyncpg.Connection
    meter: Meter
    kept_until: float
    carry: str | None = None
    """The form that the codecs give values."""
    _setters: str = _SETTERS

    def acquired(self, connection: asyncpg.Connection) -> Self:
        """Use the connection as the pool has handed it out again."""
        self.connection = connection
        return self

    async def set_carry(self, carry: str) -> None:
        """Have values of statements prepared from now on in this form."""
        if carry != self.carry:
            self.carry = None
            await set_codecs(self.connection, carry)
            self.carry = carry

    async def is_left_clean(self) -> bool:
        """Roll back, and return whether another run may use this connection."""
        try:
            # asyncpg first cancels a running query. The time is limited, because the network may have failed.
            async with asyncio.timeout(_LEAVING_SECONDS):
                status = await self.connection.execute(_END + self._setters)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            log.debug("a snapshot couldn't be rolled back", error=str(error))
            return False
        self._setters = ""
        return bool(status == _NOTHING_LEFT) and self.meter.is_idle


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset's query in an open snapshot."""

    config: PostgresSourceConfig
    shape: Shape
    errors: DatasetErrors
    statement: PreparedStatement | None
    carry: str | None
    """The form in which the statement gives values."""


@dataclass(slots=True)
class PostgresSnapshot:
    """An open transaction (repeatable read, read-only), and the datasets to read in it."""

    _session: _Session
    _datasets: Mapping[str, _Dataset]
    taken_at: datetime
    _batch_bytes: int
    _copy_reader: CopyReader | None
    _has_savepoint: bool = False

    def columns(self, dataset: str, *, carry: str) -> Columns:
        return self._datasets[dataset].shape.carried(carry)[0]

    def check_agency_key(self, dataset: str, key: AgencyKey) -> None:
        """See `ports.ChecksAgencyKey`."""
        opened = self._datasets[dataset]
        if (found := misfit(opened.config.sql_args, opened.shape.parameters, key)) is None:
            return
        number, type_name = found
        if opened.config.table is None:
            what, culprit = f"`agency_id` is ${number} of the query, which", "the query"
        else:
            what, culprit = (
                f"Column {opened.config.agency_column!r} of table '{opened.config.table}'",
                "`agency_column`",
            )
        fitting = kind_of_key(type_name)
        remedy = f"Correct {culprit}." if fitting is None else f"Set `agency_key: {fitting}`, or correct {culprit}."
        with opened.errors.located():
            raise QueryInvalid(f"{what} has the type {type_name}, but the job config's `agency_key` is {key}. {remedy}")

    @asynccontextmanager
    async def records(
        self, dataset: str, arguments: Mapping[str, Any], *, carry: str
    ) -> AsyncIterator[CopyBatches | CursorBatches]:
        opened = self._datasets[dataset]
        # Not the current span, below which the requests to destinations would stand.
        span = child(
            f"query {dataset}",
            kind=SpanKind.CLIENT,
            attributes={
                "db.system.name": "postgresql",
                # As the job config has it: arguments are parameters, and no part of it.
                "db.query.text": _cut(opened.config.sql),
            },
        )
        try:
            with opened.errors.located(), current_usage().waiting_for_database():
                values = bound(opened.config.sql_args, opened.shape.parameters, arguments)
                await self._session.set_carry(carry)
                await self._start(_timeout_setting(opened.config.statement_timeout))
                batches = await self._copied(dataset, values, carry) or await self._fetched(dataset, values, carry)
            span.set_attribute("reader", "copy" if isinstance(batches, CopyBatches) else "cursor")
            try:
                yield batches
            finally:
                await batches.close()
        finally:
            span.end()

    async def _copied(self, dataset: str, values: Sequence[Any], carry: str) -> CopyBatches | None:
        """Read a dataset by COPY, if it can be."""
        reader, opened, connection = self._copy_reader, self._datasets[dataset], self._session.connection
        if reader is None:
            return None
        statement = await reader.statement(connection, opened.shape, carry, values, dataset=dataset)
        if statement is None:
            return None
        with planning():
            return await reader.batches(
                connection,
                statement,
                values,
                columns=opened.shape.carried(carry)[0],
                carry=carry,
                dataset=dataset,
                located=opened.errors.located,
            )

    async def _fetched(self, dataset: str, values: Sequence[Any], carry: str) -> CursorBatches:
        """Read a dataset by a cursor."""
        opened = self._datasets[dataset]
        columns, query = opened.shape.carried(carry)
        with planning():
            statement = opened.statement
            if statement is None or (query, carry) != (opened.config.sql, opened.carry):
                statement = await self._session.connection.prepare(query)
            cursor = await statement.cursor(*values)
        return CursorBatches(
            cursor,
            columns,
            dataset=dataset,
            meter=self._session.meter,
            batch_bytes=self._batch_bytes,
            located=opened.errors.located,
        )

    async def _start(self, setting: str) -> None:
        """
        Prepare the transaction for a dataset. After an error the whole snapshot ends; else rolling back to a savepoint
        closes the previous cursor, and makes the transaction usable again after a cancelled command.
        """
        savepoint = "ROLLBACK TO SAVEPOINT dataset" if self._has_savepoint else "SAVEPOINT dataset"
        await self._session.connection.execute(f"{savepoint}; {setting}")
        self._has_savepoint = True


def _cut(query: str) -> str:
    return query if len(query) <= _LONGEST_QUERY_TOLD else f"{query[:_LONGEST_QUERY_TOLD]}…"


def _timeout_setting(timeout: timedelta | None) -> str:
    if timeout is None:
        return "SET LOCAL statement_timeout TO DEFAULT"
    return f"SET LOCAL statement_timeout TO {max(1, int(timeout.total_seconds() * 1000))}"
