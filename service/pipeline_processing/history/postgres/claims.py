"""Which run is next, and whose it is then."""

from typing import Any

import asyncpg

from pipeline_processing.history.postgres.writes import QUERIES

_CHOICE = 100
"""How many agencies `next_agencies` gives at most."""


async def claim_prepared(connection: asyncpg.Connection, **claim: Any) -> Any:
    """The record of a decided run that nobody held, or None."""
    return await connection.fetchrow(*QUERIES["claim_prepared"](**claim))


async def claim_that(connection: asyncpg.Connection, *, run_id: str, **claim: Any) -> Any:
    """The record of this run, whose next attempt starts, or None."""
    async with connection.transaction():
        agency_id = await connection.fetchval(*QUERIES["agency_of"](run_id=run_id))
        return await connection.fetchrow(*QUERIES["claim_due"](agency_id=agency_id, run_id=run_id, **claim))


class Turns:
    """
    Claims for the agencies in turn.

    Where many agencies wait, their order is kept for the next claims, as long as it is good: looking at all of them
    for each claim would take most of the time.
    """

    def __init__(self) -> None:
        self._chosen: list[asyncpg.Record] = []

    async def claim_next(self, connection: asyncpg.Connection, **claim: Any) -> Any:
        """The record of a run whose next attempt starts, or None. The arguments are those of `claim_due`."""
        chosen, self._chosen = self._chosen, []
        row = await self._claim_of(connection, chosen, kept=True, **claim)
        if row is None:
            limits = {"max_runs": claim["max_runs"], "config_id": claim["config_id"]}
            chosen = await connection.fetch(*QUERIES["next_agencies"](**limits))
            row = await self._claim_of(connection, chosen, kept=False, **claim)
            if len(chosen) < _CHOICE:
                self._chosen = []
        return row

    async def _claim_of(
        self, connection: asyncpg.Connection, chosen: list[asyncpg.Record], *, kept: bool, **claim: Any
    ) -> Any:
        """
        A run of the first agency that has one to give; the agencies after it are kept.

        One agency a transaction, so that nobody ever waits for one agency while holding another.
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
                row = await connection.fetchrow(*QUERIES["claim_due"](agency_id=agency_id, run_id=None, **claim))
            chosen = [each for each in chosen if each["agency_id"] != agency_id]
            if row is not None:
                self._chosen = chosen
                return row
        return None
