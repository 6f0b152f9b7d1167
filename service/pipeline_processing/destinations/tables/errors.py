"""Translate Postgres's errors while rows are loaded. No message quotes a row."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from pipeline_processing.errors import (
    ConflictingObjects,
    DataError,
    DestinationUnavailable,
    QueryFailed,
    QueryInvalid,
    SourceBusy,
    StandbyConflict,
    Throttled,
)
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.errors import Fault, condition_of, fault_of, without_values

_OF_THE_SERVER = ("25", "55", "57", "58", "HV", "XX")
"""SQLSTATE classes that aren't about rows and may pass: read-only, cancelled, …"""
_UNDEFINED_TABLE = "42P01"
_READ_ONLY = "25006"


class Refused(DataError):
    """
    Postgres refuses a statement because of rows or tables, and would refuse it again.

    The message names Postgres's condition, column, constraint and type. Postgres's own message isn't used: it quotes
    values, and may be in any language.
    """

    def __init__(self, error: asyncpg.PostgresError, *, column: str | None = None) -> None:
        self.sqlstate = error.sqlstate or ""
        self.column = column or getattr(error, "column_name", None)
        self.constraint = getattr(error, "constraint_name", None)
        super().__init__(_reason(error, self.column))

    @property
    def table_is_gone(self) -> bool:
        """Whether a table that the statement names doesn't exist."""
        return self.sqlstate == _UNDEFINED_TABLE


class TableConflict(ConflictingObjects):
    """A table can't take the rows of a decided run, or holds other rows of that run. It was not changed."""

    def __init__(self, url: str, *, why: str) -> None:
        # Skip the base class's message, which is about objects.
        super(ConflictingObjects, self).__init__(
            f"{url} can't take the run's rows: {why}. Nothing was changed there. Correct the table or the job config, "
            "then replay the run."
        )


@asynccontextmanager
async def session(database: DatabaseClient) -> AsyncIterator[asyncpg.Connection]:
    """
    Open a connection for loading. The server's errors leave the block as errors that a destination may raise, and
    refusals as Refused.
    """
    try:
        async with database.connection() as connection:
            with without_values():  # a trigger may raise any SQLSTATE, with a message that quotes a row
                try:
                    yield connection
                except asyncpg.PostgresError as error:
                    if is_refusal(error):
                        raise Refused(error) from None  # the cause would show the row in tracebacks
                    raise
    except SourceBusy as error:
        raise Throttled(str(error)) from error
    except (StandbyConflict, QueryFailed, QueryInvalid) as error:
        remedy = "Try again later."
        if getattr(error.__cause__, "sqlstate", None) == _READ_ONLY:
            remedy = "Is it a standby? Name the primary in the secret that the destination's `dsn` names."
        raise DestinationUnavailable(
            f"Postgres at {database.where} broke off the loading of rows: {_reason(error.__cause__)}. {remedy}"
        ) from error


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether the rows or tables caused the error, rather than the server's state."""
    return fault_of(error) in (Fault.FAILED, Fault.INVALID) and (error.sqlstate or "")[:2] not in _OF_THE_SERVER


def _reason(error: BaseException | None, column: str | None = None) -> str:
    """`not null violation (SQLSTATE 23502) in column 'id'`."""
    places = {
        "column": column,
        "constraint": getattr(error, "constraint_name", None),
        "type": getattr(error, "data_type_name", None),
    }
    named = ", ".join(f"{what} {name!r}" for what, name in places.items() if name)
    return f"{condition_of(error)} (SQLSTATE {getattr(error, 'sqlstate', None)})" + (f" in {named}" if named else "")
