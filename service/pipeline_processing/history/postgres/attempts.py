"""Writes by the holder of a claim, on Postgres. The SQL is in `attempts.sql`."""

from datetime import timedelta
from typing import Any

import asyncpg
import orjson

from pipeline_processing.agency_keys import number_of
from pipeline_processing.errors import Superseded
from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.rows import (
    bill_column,
    dataset_columns,
    failure_columns,
    outcome_columns,
    plan_of,
    run_of,
)
from pipeline_processing.model import Bill, Run, RunFailure, RunState
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.completions import completion_event
from pipeline_processing.runs.store import Claim, Outcome
from pipeline_processing.runs.stored_text import storable_failure

QUERIES = load_queries(__package__, "attempts.sql")


class PostgresAttempts(PostgresPort):
    """
    `RunAttempts` on Postgres.

    A write that finds another fence or state than expected checks whether an earlier call, whose reply was lost, made
    that change. If so, it returns the run as that call left it.
    """

    async def start(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        await self._database.value_under(claim, QUERIES["start_attempt"], trace_id=trace_id, span_id=span_id)

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        await self._database.value_under(claim, QUERIES["record_upload"], **upload.model_dump())

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        decide = QUERIES["prepare"](
            run_id=claim.run.run_id,
            fence=claim.fence,
            plan=plan.model_dump_json(),
            keys=[key for key, _ in plan.uploads],
            upload_ids=[handle for _, handle in plan.uploads],
            **outcome_columns(outcome),
            **dataset_columns(outcome),
        )
        async with self._database.session() as connection:
            if await connection.fetchval(*decide) is None:
                await _done_before(connection, claim.run.run_id, claim.fence, RunState.PREPARED)

    async def plan(self, claim: Claim) -> Plan:
        return plan_of(await self._database.value_under(claim, QUERIES["plan"]))

    # -- the end of a run ------------------------------------------------------------------------

    async def succeed(self, claim: Claim, outcome: Outcome | None = None) -> Run:
        if outcome is not None and not claim.run.dry_run:
            raise ValueError(f"run {claim.run.run_id} isn't a dry run: it succeeds by its plan")
        from_state = RunState.PREPARED if outcome is None else RunState.RUNNING
        async with self._database.transaction() as connection:
            return await finish(
                connection, claim.run.run_id, claim.fence, from_state, RunState.SUCCEEDED, outcome=outcome
            )

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        run_id, failure = claim.run.run_id, storable_failure(failure)
        async with self._database.transaction() as connection:
            return await finish(
                connection, run_id, claim.fence, state, RunState.FAILED, outcome=outcome, failure=failure
            )

    # -- the end of an attempt -------------------------------------------------------------------

    async def retry(
        self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True, bill: Bill | None = None
    ) -> Run:
        values = {"delay": delay, "handed_back": int(not counts), "bill": bill_column(bill)}
        async with self._database.transaction() as connection:
            return await _end_lease(
                connection, claim, "requeue", RunState.QUEUED, "retrying", storable_failure(failure), **values
            )

    async def hand_back(self, claim: Claim, *, bill: Bill | None = None) -> Run:
        now = timedelta()
        async with self._database.transaction() as connection:
            # Read the state from the row: the run may have been prepared since it was claimed.
            row = await locked_run(connection, claim.run.run_id)
            if row is not None and row["state"] == RunState.PREPARED:
                return await _end_lease(connection, claim, "release", RunState.PREPARED, delay=now)
            return await _end_lease(
                connection,
                claim,
                "requeue",
                RunState.QUEUED,
                "handed_back",
                delay=now,
                handed_back=1,
                bill=bill_column(bill),
            )

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        async with self._database.transaction() as connection:
            return await _end_lease(connection, claim, "release", RunState.PREPARED, delay=delay)

    async def void_plan(self, claim: Claim) -> Run:
        async with self._database.transaction() as connection:
            return await _end_lease(connection, claim, "void_plan", RunState.QUEUED, "voided")


# -- inside a transaction ------------------------------------------------------------------------


async def locked_run(connection: asyncpg.Connection, run_id: str) -> Any:
    """Return a run's record, locked until the transaction ends, or None."""
    return await connection.fetchrow(*QUERIES["lock_run"](run_id=run_id))


async def finish(
    connection: asyncpg.Connection,
    run_id: str,
    fence: int | None,
    from_state: RunState,
    to_state: RunState,
    *,
    outcome: Outcome | None = None,
    failure: RunFailure | None = None,
) -> Run:
    """
    Move a run to a final state, and add its event to the outbox.

    Raises Superseded if the fence or state has changed, unless an earlier try of the same call changed it.
    """
    row = await connection.fetchrow(
        *QUERIES["finish"](
            run_id=run_id,
            fence=fence,
            from_state=from_state.value,
            to_state=to_state.value,
            **outcome_columns(outcome),
            **failure_columns(failure),
        )
    )
    if row is None:
        return await _done_before(connection, run_id, fence, to_state)
    run = run_of(row)
    if outcome is not None:
        await _count_datasets(connection, run, outcome)
    event = completion_event(run)
    await connection.execute(
        *QUERIES["add_event"](
            event_id=event.event_id,
            run_id=event.run_id,
            type=event.type,
            key=event.key,
            headers=orjson.dumps(dict(event.headers)).decode(),
            value=event.value,
            state=to_state.value,
        )
    )
    return run


async def _end_lease(
    connection: asyncpg.Connection,
    claim: Claim,
    query: str,
    to_state: RunState,
    attempt_outcome: str | None = None,
    failure: RunFailure | None = None,
    **values: Any,
) -> Run:
    """Run a query that lets others claim the run again, and return the run. Raises Superseded."""
    row = await connection.fetchrow(*QUERIES[query](run_id=claim.run.run_id, fence=claim.fence, **values))
    if row is None:
        return await _done_before(connection, claim.run.run_id, claim.fence, to_state)
    run = run_of(row)
    if attempt_outcome is not None:
        await _end_attempt(connection, run, attempt_outcome, failure)
    return run


async def _done_before(connection: asyncpg.Connection, run_id: str, fence: int | None, state: RunState) -> Run:
    """
    Return the run if it has this state under this fence, because of an earlier call whose reply was lost.

    Raises Superseded otherwise.
    """
    row = await connection.fetchrow(*QUERIES["current_run"](run_id=run_id))
    if row is None or row["fence"] != fence or row["state"] != state:
        raise Superseded(run_id, fence=fence)
    return run_of(row)


async def _count_datasets(connection: asyncpg.Connection, run: Run, outcome: Outcome) -> None:
    """Store the counts of each dataset, except for a dry run."""
    if outcome.datasets and not run.dry_run:
        agency_id, columns = number_of(run.agency_id), dataset_columns(outcome)
        await connection.execute(*QUERIES["count_datasets"](run_id=run.run_id, agency_id=agency_id, **columns))


async def _end_attempt(connection: asyncpg.Connection, run: Run, outcome: str, failure: RunFailure | None) -> None:
    await connection.execute(
        *QUERIES["end_attempt"](
            run_id=run.run_id,
            attempt=run.attempt,
            outcome=outcome,
            error_kind=failure and failure.kind,
            error_message=failure and failure.message,
        )
    )
