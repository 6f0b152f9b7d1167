"""The run table in Postgres: queue, history and outbox. What is only read is in `run_history.py`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pipeline_processing.errors import RequestError, RunUnknown, Superseded
from pipeline_processing.history.postgres.claims import Turns, claim_prepared, claim_that
from pipeline_processing.history.postgres.intake import IntakeBatch, unstorable
from pipeline_processing.history.postgres.outbox import event_of, mark_sent, take_unsent
from pipeline_processing.history.postgres.reads import PostgresRunHistory
from pipeline_processing.history.postgres.rows import outcome_columns, plan_of, run_of
from pipeline_processing.history.postgres.writes import (
    QUERIES,
    DataRefused,
    count_datasets,
    done_before,
    finish,
    finish_claimed,
    let_go,
)
from pipeline_processing.model import Plan, Run, RunFailure, RunState, UploadRef
from pipeline_processing.ports import Announce, Claim, Incoming, Outcome
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.runs.stored_text import planned_uploads, storable_failure


class PostgresRunStore(PostgresRunHistory):
    """
    `ports.RunStore` on Postgres.

    A write that finds its fence and state gone looks whether it was itself what moved them, in a try whose reply
    was lost, and then gives the run as that try left it.
    """

    def __init__(self, *, database: DatabaseClient, schema: str) -> None:
        super().__init__(database=database, schema=schema)
        self._turns = Turns()

    # -- accept and claim ------------------------------------------------------------------------

    async def accept(self, incoming: Incoming) -> Run:
        [answer] = await self.accept_all([incoming])
        if isinstance(answer, RequestError):
            raise answer
        return answer

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        batch = IntakeBatch(incoming)
        try:
            async with self._session() as connection, connection.transaction():
                await batch.write(connection)
        except DataRefused as error:
            if len(incoming) == 1:
                return [unstorable(error)]
            # Each half in a transaction of its own: in one, its locks would no longer be taken in one order.
            half = len(incoming) // 2
            return [*await self.accept_all(incoming[:half]), *await self.accept_all(incoming[half:])]
        return batch.answers()

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
        async with self._session() as connection:
            row = await claim_prepared(connection, worker=worker, lease=lease, run_id=run_id)
            if row is None:
                row = (
                    await self._turns.claim_next(connection, **due)
                    if run_id is None
                    else await claim_that(connection, **due, run_id=run_id)
                )
        if row is None:
            return None
        suspect = row["suspect"] and row["state"] == RunState.RUNNING
        return Claim(run=run_of(row), fence=row["fence"], worker=worker, suspect=suspect)

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        await self._touch("renew", claim, lease=lease)

    async def check(self, claim: Claim) -> None:
        await self._touch("check", claim)

    async def start_attempt(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        await self._touch("start_attempt", claim, trace_id=trace_id, span_id=span_id)

    # -- uploads ---------------------------------------------------------------------------------

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        await self._touch("record_upload", claim, **upload.model_dump())

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        keys, upload_ids = [upload.key for upload in uploads], [upload.upload_id for upload in uploads]
        async with self._session() as connection:
            await connection.execute(*QUERIES["forget_uploads"](run_id=run_id, keys=keys, upload_ids=upload_ids))

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["lost_uploads"](run_id=run_id))
        return [UploadRef(**row) for row in rows]

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        keys, upload_ids = [upload.key for upload in listed], [upload.upload_id for upload in listed]
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["lost_of"](run_id=run_id, keys=keys, upload_ids=upload_ids))
        return [listed[row["number"] - 1] for row in rows]

    async def runs_to_clean_up(self) -> list[str]:
        async with self._session() as connection:
            rows = await connection.fetch(*QUERIES["runs_to_clean_up"]())
        return [row["run_id"] for row in rows]

    async def failed_plan(self, run_id: str) -> Plan | None:
        async with self._session() as connection:
            plan = await connection.fetchval(*QUERIES["failed_plan"](run_id=run_id))
        return None if plan is None else plan_of(plan)

    async def forget_failed_plan(self, run_id: str) -> None:
        async with self._session() as connection:
            await connection.execute(*QUERIES["forget_failed_plan"](run_id=run_id))

    # -- the decision ----------------------------------------------------------------------------

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        keys, upload_ids = planned_uploads(plan)
        decide = QUERIES["prepare"](
            run_id=claim.run.run_id,
            fence=claim.fence,
            plan=plan.model_dump_json(),
            keys=keys,
            upload_ids=upload_ids,
            **outcome_columns(outcome),
        )
        async with self._session() as connection, connection.transaction():
            if await connection.fetchval(*decide) is None:
                await done_before(connection, claim, RunState.PREPARED)
            else:
                await count_datasets(connection, claim.run, outcome)

    async def plan(self, claim: Claim) -> Plan:
        async with self._session() as connection:
            plan = await connection.fetchval(*QUERIES["plan"](run_id=claim.run.run_id, fence=claim.fence))
        if plan is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return plan_of(plan)

    # -- the end of a run ------------------------------------------------------------------------

    async def succeed(self, claim: Claim) -> Run:
        async with self._session() as connection, connection.transaction():
            run = await finish_claimed(connection, claim, RunState.PREPARED, RunState.SUCCEEDED)
            await connection.execute(*QUERIES["discard_plan"](run_id=run.run_id))
            return run

    async def succeed_dry(self, claim: Claim, outcome: Outcome) -> Run:
        if not claim.run.dry_run:
            raise ValueError(f"run {claim.run.run_id} isn't a dry run: it succeeds by its plan")
        async with self._session() as connection, connection.transaction():
            return await finish_claimed(connection, claim, RunState.RUNNING, RunState.SUCCEEDED, outcome=outcome)

    async def fail(
        self, claim: Claim, failure: RunFailure, *, outcome: Outcome | None = None, state: RunState = RunState.RUNNING
    ) -> Run:
        failure = storable_failure(failure)
        async with self._session() as connection, connection.transaction():
            return await finish_claimed(connection, claim, state, RunState.FAILED, outcome=outcome, failure=failure)

    async def cancel(self, run_id: str) -> Run:
        async with self._session() as connection, connection.transaction():
            row = await connection.fetchrow(*QUERIES["lock_run"](run_id=run_id))
            if row is None:
                raise RunUnknown(run_id)
            run = run_of(row)
            if run.state not in (RunState.QUEUED, RunState.RUNNING):
                return run
            return await finish(connection, run_id, run.fence, run.state, RunState.CANCELLED) or run

    # -- the end of an attempt -------------------------------------------------------------------

    async def retry(self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True) -> Run:
        failure, not_a_try = storable_failure(failure), int(not counts)
        async with self._session() as connection, connection.transaction():
            return await let_go(
                connection, "requeue", claim, RunState.QUEUED, "retrying", failure, delay=delay, handed_back=not_a_try
            )

    async def hand_back(self, claim: Claim) -> Run:
        async with self._session() as connection, connection.transaction():
            # Which it is only the row knows: the claim may have been prepared since it was made.
            row = await connection.fetchrow(*QUERIES["lock_run"](run_id=claim.run.run_id))
            if row is not None and row["state"] == RunState.PREPARED:
                return await let_go(connection, "release", claim, RunState.PREPARED, delay=timedelta())
            return await let_go(
                connection, "requeue", claim, RunState.QUEUED, "handed_back", delay=timedelta(), handed_back=1
            )

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        async with self._session() as connection, connection.transaction():
            return await let_go(connection, "release", claim, RunState.PREPARED, delay=delay)

    async def void_plan(self, claim: Claim) -> Run:
        async with self._session() as connection, connection.transaction():
            return await let_go(connection, "void_plan", claim, RunState.QUEUED, "voided")

    # -- announcing ------------------------------------------------------------------------------

    async def announce(self, send: Announce, *, limit: int) -> int:
        refused: BaseException | None = None
        try:
            async with self._session() as connection, connection.transaction():
                unsent = await take_unsent(connection, limit)
                if unsent:
                    try:
                        await send([event_of(record) for record in unsent])
                    except BaseException as error:
                        refused = error
                        raise
                    await mark_sent(connection, unsent)
        except BaseException:
            if refused is None:
                raise
            raise refused  # noqa: B904 - as it was, a cancellation too: no rollback that fails as well may hide it
        return len(unsent)

    async def idle(self, *, config_id: str | None = None) -> bool:
        async with self._session() as connection:
            return bool(await connection.fetchval(*QUERIES["idle"](config_id=config_id)))

    async def waiting_for_another_config(self, config_id: str) -> int:
        async with self._session() as connection:
            return int(await connection.fetchval(*QUERIES["waiting_for_another_config"](config_id=config_id)))

    # -- what all of them share ------------------------------------------------------------------

    async def _touch(self, query: str, claim: Claim, **values: Any) -> None:
        """A write that changes no state. Raises Superseded unless it found its row."""
        async with self._session() as connection:
            found = await connection.fetchval(*QUERIES[query](run_id=claim.run.run_id, fence=claim.fence, **values))
        if found is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)
