"""A pool of connections to one Postgres."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any, Self

import asyncpg

from pipeline_processing.errors import TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.postgres.connection import SessionlessConnection
from pipeline_processing.postgres.dsn import address_of
from pipeline_processing.postgres.errors import NO_REMEDIES, translated
from pipeline_processing.postgres.identifiers import quoted

log = get_logger(__name__)

_RELEASE_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_IDLE_SECONDS = 30
_KEPT_SECONDS = 10.0
"""An unused connection is closed after this time, because others may need the server's connections."""
_PROBE_SECONDS = 10
_PROBES = 3


class DatabaseClient:
    """
    Connections to one Postgres, opened on demand and closed with the block.

    They also work through PgBouncer: see `SessionlessConnection`.

    `unavailable` is the error to raise if the server can't be reached. `search_path` names one schema, unquoted.
    `server_settings` are set in every transaction. `command_seconds` limits each command; set it where a longer silence
    means that the connection is dead.
    """

    def __init__(
        self,
        *,
        dsn: str,
        unavailable: type[TransientError],
        application_name: str = "pipeline-processing",
        max_size: int = 10,
        search_path: str | None = None,
        server_settings: Mapping[str, str] | None = None,
        connect_seconds: float = 10.0,
        command_seconds: float | None = None,
    ) -> None:
        self.search_path = search_path
        self.where = address_of(dsn)
        self._dsn = dsn
        self._unavailable = unavailable
        self.max_size = max_size
        self._connect_seconds = connect_seconds
        self._command_seconds = command_seconds
        self._application_name = application_name
        self._settings = dict(server_settings or {})
        self._pool: asyncpg.Pool | None = None

    async def __aenter__(self) -> Self:
        with translated(unavailable=self._unavailable, where=self.where, connecting=True):
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,  # connects on demand: if the server is down, the first query fails
                max_size=self.max_size,
                max_inactive_connection_lifetime=_KEPT_SECONDS,
                timeout=self._connect_seconds,
                command_timeout=self._command_seconds,
                # The only startup parameter of ours that PgBouncer accepts.
                server_settings={"application_name": self._application_name},
                connection_class=SessionlessConnection,
                init=self._prepare,
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()  # terminates the connections if it fails
        except Exception as problem:
            log.warning("connections were terminated", where=self.where, error=str(problem) or type(problem).__name__)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """
        Acquire a connection, waiting for a free one. asyncpg's errors leave the block as this service's.

        Raises `unavailable`, AccessDenied or DatabaseMisconfigured, and for queries QueryInvalid, QueryFailed,
        SourceBusy or StandbyConflict.
        """
        if self._pool is None:
            raise RuntimeError("connection() is for use inside `async with` of the client")
        pool = self._pool
        with translated(unavailable=self._unavailable, where=self.where, connecting=True):
            connection = await pool.acquire()
        try:
            with translated(unavailable=self._unavailable, where=self.where):
                yield connection
        except Exception as error:
            if _lost_track(error):
                with suppress(asyncpg.InterfaceError):  # it is closed already
                    connection.terminate()
            raise
        finally:
            await self._release(pool, connection)

    def connections(self) -> tuple[int, int]:
        """Return how many connections are idle, and how many are in use. May be called in any thread."""
        if (pool := self._pool) is None:
            return 0, 0
        idle = pool.get_idle_size()
        return idle, pool.get_size() - idle

    def translated(self, *, remedies: Mapping[str, str] = NO_REMEDIES) -> AbstractContextManager[None]:
        """
        Return a block that translates asyncpg's errors inside `connection()`, for callers that handle the result.
        `remedies` replaces the usual remedies, by SQLSTATE.
        """
        return translated(unavailable=self._unavailable, where=self.where, remedies=remedies)

    async def _prepare(self, connection: SessionlessConnection) -> None:
        _enable_keepalive(connection)
        search_path = None if self.search_path is None else quoted(self.search_path)
        await connection.use_settings(self._settings, search_path=search_path)

    async def _release(self, pool: asyncpg.Pool, connection: Any) -> None:
        """Return a connection to the pool. Never raises, as the work on it has succeeded or failed already."""
        try:
            await pool.release(connection, timeout=_RELEASE_SECONDS)
        except Exception as problem:
            # asyncpg has terminated it, and the pool will open another one.
            log.debug("a connection could not be reset", where=self.where, error=str(problem))


def _lost_track(error: Exception) -> bool:
    """
    Whether asyncpg may have lost track of the connection. It does if the server closes the connection and asyncpg has
    read the reason, but not yet the end of the stream. Until then, the pool would hand the connection out again.
    """
    return isinstance(error.__cause__ or error, asyncpg.InternalClientError | asyncpg.InterfaceError)


def _enable_keepalive(connection: Any) -> None:
    """Have the kernel close a connection whose peer has vanished, since a query may be silent for hours."""
    # asyncpg has no option for it, and no public access to the socket.
    socket_ = connection._transport.get_extra_info("socket")
    if socket_ is None or socket_.family not in (socket.AF_INET, socket.AF_INET6):
        return
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        unanswered_ms = (_IDLE_SECONDS + _PROBE_SECONDS * _PROBES) * 1000
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unanswered_ms)
