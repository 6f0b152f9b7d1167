"""Which run is next, and whose it is then."""

from datetime import timedelta
from typing import Any

import asyncpg

from pipeline_processing.postgres.run_writes import QUERIES


async def claim_prepared(connection: asyncpg.Connection, *, worker: str, lease: timedelta, run_id: str | None) -> Any:
    """The record of a decided run that nobody held, or None."""
    return await connection.fetchrow(*QUERIES["claim_prepared"](worker=worker, lease=lease, run_id=run_id))


async def claim_due(
    connection: asyncpg.Connection, *, worker: str, lease: timedelta, max_runs: int, run_id: str | None
) -> Any:
    """
    The record of a run whose next attempt starts, or None.

    One agency a transaction, so that nobody ever waits for one agency while holding another.
    """
    passed: list[int] = []
    while True:
        async with connection.transaction():
            agency_id = await connection.fetchval(
                *QUERIES["next_agency"](max_runs=max_runs, passed=passed)
                if run_id is None
                else QUERIES["agency_of"](run_id=run_id)
            )
            if agency_id is None:
                return None
            row = await connection.fetchrow(
                *QUERIES["claim_due"](agency_id=agency_id, worker=worker, lease=lease, max_runs=max_runs, run_id=run_id)
            )
        if row is not None or run_id is not None:
            return row
        passed.append(agency_id)  # somebody was quicker: its run is taken, or its places are
