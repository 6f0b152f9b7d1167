"""Access to the history's database: sessions, and translation of its errors."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pipeline_processing.errors import (
    HistoryOutdated,
    HistoryUnavailable,
    InternalError,
    PipelineError,
    QueryFailed,
    QueryInvalid,
    SourceBusy,
    StandbyConflict,
    Superseded,
)
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.errors import cause_of, is_invalid_value
from pipeline_processing.postgres.queries import Query
from pipeline_processing.runs.store import Claim

_REFUSED_DATA = ("22", "23", "54")
"""SQLSTATE classes: data exceptions, constraints, and limits such as that of an index entry."""


class DataRefused(InternalError):
    """The database can't store a value of a statement. To find out which, try each value separately."""


class HistoryDatabase:
    """
    Runs named queries in the history's schema, which is the client's search path.

    Every method raises HistoryUnavailable, HistoryOutdated, DataRefused or AccessDenied.
    """

    def __init__(self, client: DatabaseClient, *, schema: str) -> None:
        if client.search_path != schema:
            raise ValueError(f"the client's search path is {client.search_path!r}, the history's schema {schema!r}")
        self._client = client
        self._schema = schema

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Acquire a connection, outside a transaction."""
        try:
            async with self._client.connection() as connection:
                yield connection
        except (SourceBusy, StandbyConflict, QueryInvalid, QueryFailed) as error:
            raise _translated(error, self._schema) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Acquire a connection, inside a transaction."""
        async with self.session() as connection, connection.transaction():
            yield connection

    async def execute(self, query: Query, **values: Any) -> None:
        """Run a query that returns nothing."""
        async with self.session() as connection:
            await connection.execute(*query(**values))

    async def rows(self, query: Query, **values: Any) -> Sequence[Any]:
        """Return all records of a query."""
        async with self.session() as connection:
            rows: Sequence[Any] = await connection.fetch(*query(**values))
        return rows

    async def row(self, query: Query, **values: Any) -> Any:
        """Return the first record of a query, or None."""
        async with self.session() as connection:
            return await connection.fetchrow(*query(**values))

    async def value(self, query: Query, **values: Any) -> Any:
        """Return the first value of the first record, or None."""
        async with self.session() as connection:
            return await connection.fetchval(*query(**values))

    async def value_under(self, claim: Claim, query: Query, **values: Any) -> Any:
        """Return the first value of a query that finds a row only while the claim holds, or else raise Superseded."""
        value = await self.value(query, run_id=claim.run.run_id, fence=claim.fence, **values)
        if value is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return value


class PostgresPort:
    """Base of the ports of the run table."""

    def __init__(self, database: HistoryDatabase) -> None:
        self._database = database


def _translated(error: PipelineError, schema: str) -> PipelineError:
    """Translate a query's error. The queries are the service's own, so the job config is never at fault."""
    cause = error.__cause__
    sqlstate = getattr(cause, "sqlstate", None)
    if isinstance(error, SourceBusy | StandbyConflict) or sqlstate == "57014":
        return HistoryUnavailable(str(error))
    if sqlstate == "25006":
        return HistoryUnavailable(f"{error} The history needs a primary: is PIPELINE_HISTORY__DSN that of a standby?")
    if cause is not None and ((sqlstate or "")[:2] in _REFUSED_DATA or is_invalid_value(cause)):
        return DataRefused(cause)
    if isinstance(error, QueryInvalid):
        return HistoryOutdated(schema, cause=cause_of(cause) if cause is not None else None)
    return InternalError(cause or error)
