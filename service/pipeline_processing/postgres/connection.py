"""
A connection that doesn't depend on session state.

Behind a pooler in transaction mode, such as PgBouncer, each transaction may run in another server session, which other
clients have used before. So every statement runs in a transaction, every transaction sets its own settings, and no
prepared statement outlives its execution. This also works without a pooler, and costs little: settings are sent along
with BEGIN, a statement is parsed, bound and executed in one round trip, and a session needs no reset.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

_ROLLBACK_SECONDS = 5.0


class SessionlessConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """An asyncpg connection that applies `settings` (see `local_settings`) in each of its transactions."""

    settings = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: dict[Any, Any] = {}
        """What those who use this connection know about it, for as long as it is open."""

    def transaction(self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False) -> Any:
        """Like asyncpg's, but defaults to READ COMMITTED, regardless of the session's default."""
        if isolation is None and self._needs_begin():
            isolation = "read_committed"
        return super().transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if query.startswith("BEGIN"):  # asyncpg's own, as are the ROLLBACKs
            status = await super().execute(f"{query} {self.settings}", **options)
        elif query.startswith("ROLLBACK"):
            status = await self._roll_back(query)
        else:
            async with self._in_transaction():
                status = await super().execute(query, *args, **options)
        return str(status)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        async with self._in_transaction():
            await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetchval(query, *args, **options)

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        async with self._in_transaction():
            return str(await super().copy_to_table(table_name, **options))

    async def prepare(self, query: str, **options: Any) -> Any:
        if self._needs_begin():
            raise asyncpg.InterfaceError("prepare() is for use in a transaction")
        return await super().prepare(query, **options)

    def get_reset_query(self) -> str:
        """Return no query, as a pooler would run it in another client's session."""
        return ""

    async def _get_statement(self, *args: Any, **options: Any) -> Any:
        # asyncpg names statements to reuse them in the same session. With `named=""` they are unnamed: parsed at each
        # execution, while asyncpg caches only their description.
        statement = await super()._get_statement(*args, **{**options, "named": ""})
        statement.mark_unprepared()
        return statement

    @asynccontextmanager
    async def _in_transaction(self) -> AsyncIterator[None]:
        """Use the open transaction, or else open one for this block."""
        if not self._needs_begin():
            yield
        else:
            async with self.transaction():
                yield

    def _needs_begin(self) -> bool:
        return not (self.is_closed() or self.is_in_transaction())  # if closed, asyncpg raises its own error

    async def _roll_back(self, query: str) -> str:
        """Roll back within a time limit, as asyncpg first waits indefinitely for a cancelled statement to end."""
        try:
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                return str(await super().execute(query))
        except TimeoutError:
            self.terminate()  # makes the server roll back
            return query


def local_settings(settings: Mapping[str, str], *, search_path: str | None) -> str:
    """
    Return SQL that applies these settings for the rest of a transaction. `search_path` is a list of quoted names; None
    means the user's default.
    """
    values = {name: _literal(value) for name, value in settings.items()} | {"search_path": search_path or "DEFAULT"}
    return " ".join(f"SET LOCAL {name} TO {value};" for name, value in values.items())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
