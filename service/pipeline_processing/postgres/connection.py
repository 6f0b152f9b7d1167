"""
A connection that also works behind a pooler, such as PgBouncer.

In a pooler's transaction mode, each transaction may run in another server session, which other clients have used. So
every statement runs in a transaction, every transaction sets its own settings, and no prepared statement outlives its
execution. Without a pooler the session is this connection's own, which saves two round trips per statement: the
settings are set once, a single statement needs no explicit transaction, and statements stay prepared, except for those
of `prepare()`, which are users' own. A session needs no reset in either case.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pipeline_processing.postgres.identifiers import literal

_ROLLBACK_SECONDS = 5.0

_DEFAULTS = {
    "transaction_isolation": "default_transaction_isolation",
    "transaction_read_only": "default_transaction_read_only",
}
"""Settings that last as long as a transaction → those that last as long as the session."""

_NO_SETTING = ("COMMIT", "SAVEPOINT", "RELEASE")

_LOST_CLIENTS_NOTICED = {"client_connection_check_interval": "5s"}
"""
Ends the query of a process that was killed. Otherwise the server notices its loss only when it sends rows, so a query
that sorts for an hour would keep running beside that of the next attempt.
"""

_SESSION = r"""
SELECT pg_catalog.pg_backend_pid(),
       pg_catalog.current_setting('server_version_num')::int >= 140000
       AND pg_catalog.version() !~* 'windows|mingw|msvc|visual c'
"""
"""Whose session this is, and whether the server has that setting: since Postgres 14, and not on Windows."""


class SessionlessConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """An asyncpg connection whose transactions all have the settings given to `use_settings`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._local = self._for_session = ""
        self._owns_session = False
        self._is_set_up = False
        """Whether the session has the settings."""
        self.kept: dict[Any, Any] = {}
        """What those who use this connection know about it, for as long as it is open."""

    async def use_settings(self, settings: Mapping[str, str], *, search_path: str | None) -> None:
        """
        Apply these settings in every transaction. `search_path` is a list of quoted names; None means the user's
        default. Finds out whether there is a pooler in between.
        """
        pid, notices_lost_clients = await self.fetchrow(_SESSION)
        # A pooler answers for many sessions, so it makes up the process id that it tells a client.
        self._owns_session = pid == self.get_server_pid()
        settings = {**settings, **(_LOST_CLIENTS_NOTICED if notices_lost_clients else {})}
        values = {name: literal(value) for name, value in settings.items()} | {"search_path": search_path or "DEFAULT"}
        self._local = " ".join(f"SET LOCAL {name} TO {value};" for name, value in values.items())
        values["transaction_isolation"] = "'read committed'"
        self._for_session = " ".join(f"SET {_DEFAULTS.get(name, name)} TO {value};" for name, value in values.items())

    def transaction(self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False) -> Any:
        """Like asyncpg's, but defaults to READ COMMITTED, regardless of the session's default."""
        if isolation is None and self._needs_begin():
            isolation = "read_committed"
        return super().transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if query.startswith("BEGIN"):  # asyncpg's own, as are the ROLLBACKs
            await self._set()
            status = await super().execute(query if self._is_set_up else f"{query} {self._local}", **options)
        elif query.startswith("ROLLBACK"):
            status = await self._roll_back(query)
        else:
            async with self._in_transaction():
                status = await super().execute(query, *args, **options)
            if not args and not query.startswith(_NO_SETTING):
                self._is_set_up = False  # it may have been a SET
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
        if self._owns_session and options.get("use_cache", True):
            return await super()._get_statement(*args, **options)
        # asyncpg names statements to reuse them in the same session. With `named=""` they are unnamed: parsed at each
        # execution, while asyncpg caches only their description.
        statement = await super()._get_statement(*args, **{**options, "named": ""})
        statement.mark_unprepared()
        return statement

    @asynccontextmanager
    async def _in_transaction(self) -> AsyncIterator[None]:
        """Use the open transaction, or else open one for this block. In a session of its own, a statement is one."""
        if not self._needs_begin():
            yield
            return
        await self._set()
        if self._is_set_up:
            yield
        else:
            async with self.transaction():
                yield

    async def _set(self) -> None:
        """Apply the settings to the session if it is this connection's own."""
        if self._owns_session and not self._is_set_up:
            await super().execute(self._for_session)
            self._is_set_up = True

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
