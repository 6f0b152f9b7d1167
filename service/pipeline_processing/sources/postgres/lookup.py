"""Looks up rows of a table by key, on a separate connection."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self

import asyncpg

from pipeline_processing.errors import SourceBusy, StepFailed
from pipeline_processing.ports import Rows
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.errors import without_values
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.key_list import KeyList, key_list_of
from pipeline_processing.sources.postgres.shape import planning, shape_of
from pipeline_processing.sources.postgres.tap import Tap, transport_of
from pipeline_processing.sources.postgres.types import set_codecs
from pipeline_processing.usage import current_usage

_LEAVING_SECONDS = 5.0


class PostgresLookup:
    """
    A lookup by a query whose one parameter is a list of keys; see `ports.LookupTable`.

    While open, it holds one connection of `database`, whose sessions must have the source's settings. A shared pool
    needs one connection for each lookup that may be open at once, or they deadlock. Each `find` runs in its own
    read-only transaction, so it sees what was committed before it.
    """

    columns: Columns

    def __init__(self, *, database: DatabaseClient, query: str, carry: str) -> None:
        self._database = database
        self._query = query
        self._carry = carry
        self._stack = AsyncExitStack()
        self._connection: asyncpg.Connection
        self._tap: Tap
        self._carried_query: str
        self._attributes: Sequence[asyncpg.Attribute]
        self._keys: KeyList

    async def __aenter__(self) -> Self:
        """Plan the query. Raises QueryInvalid, AccessDenied, DatabaseMisconfigured or a TransientError."""
        async with AsyncExitStack() as stack:
            self._connection = await stack.enter_async_context(self._database.connection())
            stack.callback(self._terminate)
            transport = transport_of(self._connection)
            self._tap = Tap(transport, transport.get_protocol())
            transport.set_protocol(self._tap)
            async with self._transaction():
                shape, _ = await shape_of(self._connection, self._query)
                self._keys = await key_list_of(self._connection, shape.parameters)
                self.columns, self._carried_query = shape.carried(self._carry)
                await set_codecs(self._connection, self._carry)
                with planning():
                    statement = await self._connection.prepare(self._carried_query)
                self._attributes = statement.get_attributes()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def is_closed(self) -> bool:
        """Whether its connection is closed. The next `find` opens another."""
        try:
            return bool(self._connection.is_closed())
        except asyncpg.InterfaceError:  # it is back in the pool
            return True

    async def find(self, keys: Sequence[Any]) -> Rows:
        """
        Return all rows whose key is one of `keys` (natural values, never None), with carried values.

        Raises StepFailed if there are more rows than keys, QueryInvalid if the query takes keys of another type,
        QueryFailed, or a TransientError.
        """
        fitted = self._keys.fitted(keys)
        if not fitted:
            return []
        if self.is_closed:  # some servers end idle sessions
            await self._stack.aclose()
            await self.__aenter__()
        received = self._tap.received
        with self._database.translated(), without_values():
            async with self._transaction():
                statement = await self._connection.prepare(self._carried_query)
                if statement.get_attributes() != self._attributes:
                    raise SourceBusy(
                        "A table of a lookup's query has been altered. The next attempt will use its new form."
                    )
                cursor = await statement.cursor(fitted)
                # One more than allowed is enough to detect duplicates; all of them might not fit into memory.
                records = await cursor.fetch(len(fitted) + 1)
        current_usage().bytes_read += self._tap.received - received
        if len(records) > len(fitted):
            raise StepFailed(
                f"its query returned more records than the {len(fitted):,} keys it was given, so some share a "
                "key. Make it return one record per key, and none for other keys: SELECT DISTINCT ON (key) … WHERE "
                "key = ANY($1) ORDER BY …"
            )
        names = self.columns.names
        return [dict(zip(names, record, strict=True)) for record in records]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        transaction = self._connection.transaction(readonly=True)
        try:
            with current_usage().waiting_for_database():
                await transaction.start()
                yield
                await transaction.commit()
        except BaseException:
            # asyncpg first cancels a running query. The time is limited, because the network may have failed.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                async with asyncio.timeout(_LEAVING_SECONDS):
                    await transaction.rollback()
            self._terminate()
            raise

    def _terminate(self) -> None:
        """Close the connection, because the pool must not reuse one with this lookup's codecs."""
        with suppress(asyncpg.InterfaceError):  # the server has already closed it
            self._connection.terminate()
