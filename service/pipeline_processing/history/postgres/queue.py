"""The queue of runs and their leases, on Postgres. The SQL is in `queue.sql`."""

from datetime import datetime, timedelta
from typing import Any

import asyncpg

from pipeline_processing.errors import RunUnknown
from pipeline_processing.history.postgres.attempts import finish, locked_run
from pipeline_processing.history.postgres.database import HistoryDatabase, PostgresPort
from pipeline_processing.history.postgres.reads import GET_ALL
from pipeline_processing.history.postgres.rows import run_of
from pipeline_processing.model import Run, RunState
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.store import Backlog, Claim

QUERIES = load_queries(__package__, "queue.sql")

_CHOICE = 100
"""Maximum number of agencies that the query `next_agencies` returns."""


class PostgresQueue(PostgresPort):
    """
    `RunQueue` on Postgres.

    If many agencies are waiting, their order is cached for the next claims while it is valid, as it would be slow to
    read all of them for each claim.
    """

    def __init__(self, database: HistoryDatabase) -> None:
        super().__init__(database)
        self._chosen: list[asyncpg.Record] = []
        """The cached order: agencies whose turn is next."""

    async def claim(
        self,
        *,
        worker: str,
        lease: timedelta,
        max_runs_per_agency: int,
        config_id: str | None = None,
        run_id: str | None = None,
    ) -> Claim | None:
        due = {"worker": worker, "lease": lease, "max_runs": max_runs_per_agency, "config_id": config_id}
        async with self._database.session() as connection:
            row = await connection.fetchrow(*QUERIES["claim_prepared"](worker=worker, lease=lease, run_id=run_id))
            if row is None and run_id is None:
                row = await self._claim_next(connection, **due)
            elif row is None:
                row = await self._claim_one(connection, run_id=run_id, **due)
        if row is None:
            return None
        suspect = row["suspect"] and row["state"] == RunState.RUNNING
        return Claim(run=run_of(row), fence=row["fence"], worker=worker, suspect=suspect)

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        await self._database.value_under(claim, QUERIES["renew"], lease=lease)

    async def check(self, claim: Claim) -> None:
        await self._database.value_under(claim, QUERIES["check"])

    async def cancel(self, run_id: str) -> Run:
        async with self._database.transaction() as connection:
            row = await locked_run(connection, run_id) or await connection.fetchrow(*GET_ALL(run_ids=[run_id]))
            if row is None:
                raise RunUnknown(run_id)
            run = run_of(row)
            if run.state not in (RunState.QUEUED, RunState.RUNNING):
                return run
            return await finish(connection, run_id, run.fence, run.state, RunState.CANCELLED)

    async def idle(self, *, config_id: str | None = None) -> bool:
        return bool(await self._database.value(QUERIES["idle"], config_id=config_id))

    async def waiting_for_another_config(self, config_id: str) -> int:
        return int(await self._database.value(QUERIES["waiting_for_another_config"], config_id=config_id))

    async def backlog(self) -> Backlog:
        row = await self._database.row(QUERIES["backlog"])
        states = (RunState.QUEUED, RunState.RUNNING, RunState.PREPARED)
        return Backlog(
            runs={state: row[state.value] for state in states},
            oldest={state: row[f"{state.value}_age"] for state in states},
            unsent=row["unsent"],
            oldest_unsent=row["unsent_age"],
        )

    async def now(self) -> datetime:
        now = await self._database.value(QUERIES["now"])
        assert isinstance(now, datetime)
        return now

    # -- inside a session ------------------------------------------------------------------------

    async def _claim_one(self, connection: asyncpg.Connection, *, run_id: str | None, **due: Any) -> Any:
        """Claim this run for its next attempt. Returns its record, or None."""
        async with connection.transaction():
            agency_id = await connection.fetchval(*QUERIES["agency_of"](run_id=run_id))
            return await connection.fetchrow(*QUERIES["claim_due"](agency_id=agency_id, run_id=run_id, **due))

    async def _claim_next(self, connection: asyncpg.Connection, **due: Any) -> Any:
        """Claim the next due run; agencies take turns. Returns its record, or None."""
        chosen, self._chosen = self._chosen, []
        row = await self._claim_of(connection, chosen, kept=True, **due)
        if row is None:
            limits = {"max_runs": due["max_runs"], "config_id": due["config_id"]}
            chosen = await connection.fetch(*QUERIES["next_agencies"](**limits))
            row = await self._claim_of(connection, chosen, kept=False, **due)
            if len(chosen) < _CHOICE:
                self._chosen = []
        return row

    async def _claim_of(
        self, connection: asyncpg.Connection, chosen: list[asyncpg.Record], *, kept: bool, **due: Any
    ) -> Any:
        """
        Claim a run of the first agency with a claimable run. Agencies after it are cached for the next claim.

        Each agency is tried in a separate transaction, so that no claim waits for one agency while it locks another.
        """
        while chosen:
            async with connection.transaction():
                agency_id = await connection.fetchval(
                    *QUERIES["take_turn"](
                        agency_ids=[each["agency_id"] for each in chosen],
                        last_claimed_at=[each["last_claimed_at"] for each in chosen],
                        chosen_at=chosen[0]["chosen_at"],
                        kept=kept,
                    )
                )
                if agency_id is None:
                    return None
                row = await connection.fetchrow(*QUERIES["claim_due"](agency_id=agency_id, run_id=None, **due))
            chosen = [each for each in chosen if each["agency_id"] != agency_id]
            if row is not None:
                self._chosen = chosen
                return row
        return None
