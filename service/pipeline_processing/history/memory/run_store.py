"""The run table in memory. No method but `announce` awaits anything, so each of them is one transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

from pipeline_processing.errors import ConflictingRequest, RequestError, RunUnknown, Superseded
from pipeline_processing.history.memory.outbox import MemoryOutbox
from pipeline_processing.history.memory.run_history import MemoryRunHistory
from pipeline_processing.history.memory.run_queue import RunQueue
from pipeline_processing.history.memory.run_record import HELD, RunRecord, StartedUpload, measured, queued_run
from pipeline_processing.model import Attempt, Plan, Run, RunFailure, RunState, UploadRef
from pipeline_processing.ports import Announce, Claim, Clock, Incoming, Outcome
from pipeline_processing.runs.completions import completion_event
from pipeline_processing.runs.stored_text import planned_uploads, storable_failure, storable_request


class MemoryRunStore(MemoryRunHistory):
    """`ports.RunStore` in this process. Its time is the clock's."""

    def __init__(self, *, clock: Clock, installation_id: UUID | None = None) -> None:
        super().__init__()
        self._announcements = MemoryOutbox(self.outbox)
        self._clock = clock
        self._installation_id = installation_id or uuid4()
        self._queue = RunQueue(self._records, clock=clock)
        self._fences = count(1)

    async def installation_id(self) -> UUID:
        return self._installation_id

    async def now(self) -> datetime:
        return self._clock.now()

    # -- accept and claim ------------------------------------------------------------------------

    async def accept(self, incoming: Incoming) -> Run:
        request = storable_request(incoming.request)
        digest = request.digest()
        known = self._records.get(incoming.run_id)
        if known is None:
            run = queued_run(incoming, at=self._clock.now())
            self._records[run.run_id] = RunRecord(run, request_hash=digest, number=len(self._records))
            return run
        if known.request_hash != digest:
            raise ConflictingRequest(incoming.run_id)
        if incoming.origin is not None and known.run.state.finished:
            self._announcements.ask_again(incoming.run_id)
        return known.run

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        answers: list[Run | RequestError] = []
        for each in incoming:
            try:
                answers.append(await self.accept(each))
            except RequestError as error:
                answers.append(error)
        return answers

    async def claim(
        self,
        *,
        worker: str,
        lease: timedelta,
        max_runs_per_agency: int,
        config_id: str | None = None,
        run_id: str | None = None,
    ) -> Claim | None:
        now = self._clock.now()
        chosen = self._queue.next(max_runs=max_runs_per_agency, config_id=config_id, run_id=run_id)
        if chosen is None:
            return None
        fence = next(self._fences)
        held = {"fence": fence, "worker": worker, "lease_expires_at": now + lease}
        if chosen.run.state is RunState.PREPARED:
            return Claim(run=chosen.change(**held), fence=fence, worker=worker)
        if chosen.run.state is RunState.RUNNING:
            chosen.handed_back += not chosen.suspect and self._queue.lost_beside_others(chosen)
            chosen.suspect = True
            chosen.end_attempt("lost", now)
        run = chosen.change(
            **held,
            state=RunState.RUNNING,
            config_id=chosen.run.config_id if config_id is None else config_id,
            attempt=chosen.run.attempt + 1,
            started_at=chosen.run.started_at or now,
        )
        chosen.attempts.append(
            Attempt(
                run_id=run.run_id,
                attempt=run.attempt,
                fence=fence,
                worker=worker,
                outcome="running",
                started_at=now,
            )
        )
        self._queue.took_its_turn(run.agency_id, fence=fence)
        return Claim(run=run, fence=fence, worker=worker, suspect=chosen.suspect)

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        record = self._held(claim, *HELD)
        ends_at = record.run.lease_expires_at
        if ends_at is None or ends_at <= self._clock.now():  # given up, or over: the agency's place may be taken
            raise Superseded(claim.run.run_id, fence=claim.fence)
        record.change(lease_expires_at=self._clock.now() + lease)

    async def check(self, claim: Claim) -> None:
        if self._held(claim, *HELD).run.lease_expires_at is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)

    async def start_attempt(self, claim: Claim, *, trace_id: str, span_id: str) -> None:
        record = self._held(claim, *HELD)
        if record.attempts[-1].trace_id is None:  # whoever rolls a plan forward leaves the trace of the export
            record.change_attempt(trace_id=trace_id, span_id=span_id)

    # -- uploads ---------------------------------------------------------------------------------

    async def record_upload(self, claim: Claim, upload: UploadRef) -> None:
        record = self._held(claim, RunState.RUNNING)
        record.uploads[upload.key, upload.upload_id] = StartedUpload(destination=upload.destination, fence=claim.fence)

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        if run_id in self._records:
            for upload in uploads:
                self._records[run_id].uploads.pop((upload.key, upload.upload_id), None)

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        if run_id not in self._records:
            return []
        return self._records[run_id].lost_uploads()

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        record = self._records.get(run_id)
        return [] if record is None else [upload for upload in listed if record.has_lost(upload)]

    async def runs_to_clean_up(self) -> list[str]:
        return [run_id for run_id, r in self._records.items() if r.lost_uploads() or r.failed_plan is not None]

    async def failed_plan(self, run_id: str) -> Plan | None:
        return self._records[run_id].failed_plan if run_id in self._records else None

    async def forget_failed_plan(self, run_id: str) -> None:
        if await self.failed_plan(run_id) is not None:
            self._records[run_id].plan = None

    # -- the decision ----------------------------------------------------------------------------

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.PREPARED):
            return
        self._held(claim, RunState.RUNNING)
        planned = list(zip(*planned_uploads(plan), strict=True))
        for (key, upload_id), upload in record.uploads.items():
            upload.planned = upload.fence == claim.fence and (key, upload_id) in planned
        record.plan = plan
        record.measure(outcome)
        record.change(state=RunState.PREPARED)
        record.change_attempt(outcome="prepared")

    async def plan(self, claim: Claim) -> Plan:
        plan = self._held(claim, RunState.PREPARED).plan
        assert plan is not None
        return plan

    # -- the end of a run ------------------------------------------------------------------------

    async def succeed(self, claim: Claim) -> Run:
        run = self._finish(claim, RunState.PREPARED, RunState.SUCCEEDED)
        record = self._records[run.run_id]
        record.plan = None
        record.uploads = {at: upload for at, upload in record.uploads.items() if not upload.planned}
        return run

    async def succeed_dry(self, claim: Claim, outcome: Outcome) -> Run:
        if not claim.run.dry_run:
            raise ValueError(f"run {claim.run.run_id} isn't a dry run: it succeeds by its plan")
        return self._finish(claim, RunState.RUNNING, RunState.SUCCEEDED, outcome=outcome)

    async def fail(
        self,
        claim: Claim,
        failure: RunFailure,
        *,
        outcome: Outcome | None = None,
        state: RunState = RunState.RUNNING,
    ) -> Run:
        return self._finish(claim, state, RunState.FAILED, outcome=outcome, failure=storable_failure(failure))

    async def cancel(self, run_id: str) -> Run:
        if run_id not in self._records:
            raise RunUnknown(run_id)
        record = self._records[run_id]
        if record.run.state not in (RunState.QUEUED, RunState.RUNNING):
            return record.run
        return self._finished(record, RunState.CANCELLED)

    def _finish(
        self,
        claim: Claim,
        from_state: RunState,
        to_state: RunState,
        *,
        outcome: Outcome | None = None,
        failure: RunFailure | None = None,
    ) -> Run:
        record = self._found(claim)
        if self._was_done(record, claim, to_state):
            return record.run
        self._held(claim, from_state)
        return self._finished(record, to_state, outcome=outcome, failure=failure)

    def _finished(
        self,
        record: RunRecord,
        state: RunState,
        *,
        outcome: Outcome | None = None,
        failure: RunFailure | None = None,
    ) -> Run:
        now = self._clock.now()
        took = now - (record.run.started_at or record.run.queued_at)
        if outcome is not None:
            record.measure(outcome)
        run = record.change(
            state=state,
            finished_at=now,
            duration_ms=max(0, took // timedelta(milliseconds=1)),
            lease_expires_at=None,
            manifest_url=record.run.manifest_url if state is RunState.SUCCEEDED else None,
            error=failure,
        )
        record.end_attempt(state.value, now, failure)
        self._announcements.add(completion_event(run))
        return run

    # -- the end of an attempt -------------------------------------------------------------------

    async def retry(self, claim: Claim, failure: RunFailure, *, delay: timedelta, counts: bool = True) -> Run:
        return self._requeue(claim, "retrying", delay=delay, counts=counts, failure=storable_failure(failure))

    async def hand_back(self, claim: Claim) -> Run:
        if self._found(claim).run.state is RunState.PREPARED:
            return await self.release(claim, delay=timedelta())
        return self._requeue(claim, "handed_back", delay=timedelta(), counts=False)

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        record = self._held(claim, RunState.PREPARED)
        return record.change(worker=None, lease_expires_at=None, not_before=self._clock.now() + delay)

    async def void_plan(self, claim: Claim) -> Run:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.QUEUED):
            return record.run
        self._held(claim, RunState.PREPARED)
        record.plan = None
        record.datasets, record.covered_until = (), None
        for upload in record.uploads.values():
            upload.planned = False
        record.end_attempt("voided", self._clock.now())
        return record.change(
            state=RunState.QUEUED,
            worker=None,
            lease_expires_at=None,
            not_before=None,
            **dict.fromkeys(measured(Outcome())),
        )

    def _requeue(
        self, claim: Claim, outcome: str, *, delay: timedelta, counts: bool, failure: RunFailure | None = None
    ) -> Run:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.QUEUED):
            return record.run
        self._held(claim, RunState.RUNNING)
        now = self._clock.now()
        record.end_attempt(outcome, now, failure)
        record.handed_back += not counts
        return record.change(state=RunState.QUEUED, worker=None, lease_expires_at=None, not_before=now + delay)

    # -- announcing ------------------------------------------------------------------------------

    async def announce(self, send: Announce, *, limit: int) -> int:
        return await self._announcements.announce(send, limit=limit)

    async def idle(self, *, config_id: str | None = None) -> bool:
        return self._announcements.all_sent and self._queue.is_idle(config_id)

    async def waiting_for_another_config(self, config_id: str) -> int:
        return self._queue.waiting_for_another_config(config_id)

    # -- fences ----------------------------------------------------------------------------------

    def _found(self, claim: Claim) -> RunRecord:
        record = self._records.get(claim.run.run_id)
        if record is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return record

    def _held(self, claim: Claim, *states: RunState) -> RunRecord:
        """The run, if fence and state are still those. Raises Superseded."""
        record = self._found(claim)
        if record.run.fence != claim.fence or record.run.state not in states:
            raise Superseded(claim.run.run_id, fence=claim.fence)
        return record

    def _was_done(self, record: RunRecord, claim: Claim, state: RunState) -> bool:
        """Whether this very claim has put the run there already, by a try whose reply was lost."""
        return record.run.fence == claim.fence and record.run.state is state
