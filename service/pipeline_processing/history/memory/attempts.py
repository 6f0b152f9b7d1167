"""Writes by the holder of a claim, in memory."""

from datetime import timedelta

from pipeline_processing.history.memory.table import HELD, MemoryPort, RunRecord, StartedUpload, measured
from pipeline_processing.model import Bill, Run, RunFailure, RunState
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.runs.store import Claim, Outcome
from pipeline_processing.runs.stored_text import storable_failure


class MemoryAttempts(MemoryPort):
    """`RunAttempts` in memory."""

    async def start(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        record = self._table.held(claim, *HELD)
        if record.attempts[-1].trace_id is None:  # an attempt that completes a plan keeps the export's trace
            record.change_attempt(trace_id=trace_id, span_id=span_id)

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        record = self._table.held(claim, RunState.RUNNING)
        record.uploads[upload.key, upload.upload_id] = StartedUpload(upload.destination, fence=claim.fence)

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        if self._done_before(claim, RunState.PREPARED):
            return
        record = self._table.held(claim, RunState.RUNNING)
        for key_and_handle, upload in record.uploads.items():
            upload.planned = upload.fence == claim.fence and key_and_handle in plan.uploads
        record.plan = plan
        record.measure(outcome)
        record.change(state=RunState.PREPARED)
        record.change_attempt(outcome="prepared")

    async def plan(self, claim: Claim) -> Plan:
        plan = self._table.held(claim, RunState.PREPARED).plan
        assert plan is not None
        return plan

    # -- the end of a run ------------------------------------------------------------------------

    async def succeed(self, claim: Claim, outcome: Outcome | None = None) -> Run:
        if outcome is not None and not claim.run.dry_run:
            raise ValueError(f"run {claim.run.run_id} isn't a dry run: it succeeds by its plan")
        from_state = RunState.PREPARED if outcome is None else RunState.RUNNING
        run = self._finish(claim, from_state, RunState.SUCCEEDED, outcome=outcome)
        record = self._table.found(claim)
        record.plan = None
        record.uploads = {at: upload for at, upload in record.uploads.items() if not upload.planned}
        return run

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        return self._finish(claim, state, RunState.FAILED, outcome=outcome, failure=storable_failure(failure))

    def _finish(
        self,
        claim: Claim,
        from_state: RunState,
        to_state: RunState,
        *,
        outcome: Outcome | None = None,
        failure: RunFailure | None = None,
    ) -> Run:
        if done := self._done_before(claim, to_state):
            return done.run
        return self._table.finish(self._table.held(claim, from_state), to_state, outcome=outcome, failure=failure)

    # -- the end of an attempt -------------------------------------------------------------------

    async def retry(
        self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True, bill: Bill | None = None
    ) -> Run:
        failure = storable_failure(failure)
        return self._requeue(claim, "retrying", delay=delay, counts=counts, failure=failure, bill=bill)

    async def hand_back(self, claim: Claim, *, bill: Bill | None = None) -> Run:
        if self._table.found(claim).run.state is RunState.PREPARED:
            return await self.release(claim, delay=timedelta())
        return self._requeue(claim, "handed_back", delay=timedelta(), counts=False, bill=bill)

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        record = self._table.held(claim, RunState.PREPARED)
        return record.change(worker=None, lease_expires_at=None, not_before=self._table.clock.now() + delay)

    async def void_plan(self, claim: Claim) -> Run:
        if done := self._done_before(claim, RunState.QUEUED):
            return done.run
        record = self._table.held(claim, RunState.PREPARED)
        record.plan = None
        record.datasets, record.covered_until = (), None
        for upload in record.uploads.values():
            upload.planned = False
        record.end_attempt("voided", self._table.clock.now())
        nothing = dict.fromkeys(measured(Outcome()))
        return record.change(state=RunState.QUEUED, worker=None, lease_expires_at=None, not_before=None, **nothing)

    def _requeue(
        self,
        claim: Claim,
        outcome: str,
        *,
        delay: timedelta,
        counts: bool,
        bill: Bill | None,
        failure: RunFailure | None = None,
    ) -> Run:
        if done := self._done_before(claim, RunState.QUEUED):
            return done.run
        record, now = self._table.held(claim, RunState.RUNNING), self._table.clock.now()
        record.end_attempt(outcome, now, failure)
        record.handed_back += not counts
        record.add_bill(bill)
        return record.change(state=RunState.QUEUED, worker=None, lease_expires_at=None, not_before=now + delay)

    def _done_before(self, claim: Claim, state: RunState) -> RunRecord | None:
        """Return the run if an earlier call under this claim, whose reply was lost, put it into this state."""
        record = self._table.found(claim)
        return record if record.run.fence == claim.fence and record.run.state is state else None
