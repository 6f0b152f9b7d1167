"""A primary and its standby, which cancels at once what keeps it from replaying."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import asyncpg

from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import Launch


class StandbyServer(PostgresServer):
    """A hot standby that has no patience with its queries."""

    name = "Standby"

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(install=primary.bin.parent)
        self._primary = primary

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(self._data, *self._account)
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--pgdata={self._data}")
        self._run_tool(self._as_account("pg_basebackup", *options, f"--dbname={self._primary.dsn()}"))

    def _launch(self) -> Launch:
        launch = super()._launch()
        impatient = ("-c", "max_standby_streaming_delay=0", "-c", "hot_standby_feedback=off")
        return replace(launch, command=(*launch.command, *impatient))


@dataclass(frozen=True, slots=True)
class Pair:
    """A session of each, and the standby's DSN."""

    primary: asyncpg.Connection
    standby: asyncpg.Connection
    dsn: str

    async def replayed(self) -> None:
        """Wait until the standby has what the primary has written."""
        written = await self.primary.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        async with asyncio.timeout(30):
            while not await self.standby.fetchval(  # noqa: ASYNC110 - Postgres doesn't tell
                "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written
            ):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def primary_and_standby() -> AsyncIterator[Pair]:
    """Both running."""
    with PostgresServer() as primary_server:
        primary = await asyncpg.connect(primary_server.dsn())
        hba = await primary.fetchval("SHOW hba_file")
        with open(hba, "a") as file:  # noqa: ASYNC230 - a line of a local file
            file.write("host replication all 127.0.0.1/32 trust\n")
        await primary.execute("SELECT pg_reload_conf()")
        with StandbyServer(primary_server) as standby_server:
            standby = await asyncpg.connect(standby_server.dsn())
            try:
                yield Pair(primary, standby, standby_server.dsn())
            finally:
                await standby.close()
                await primary.close()
