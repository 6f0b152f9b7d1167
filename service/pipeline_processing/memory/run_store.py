"""The run table in memory. A method never awaits anything, so each of them is one transaction."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

from pipeline_processing.completions import OutboxEvent, completion_event
from pipeline_processing.errors import ConflictingRequest, RunUnknown, Superseded
from pipeline_processing.memory.run_record import HELD, RunRecord, StartedUpload, measured
from pipeline_processing.model import Attempt, JobRequest, Plan, Run, RunCompletion, RunFailure, RunState, UploadRef
from pipeline_processing.ports import Claim, Clock, Origin, Outcome
from pipeline_processing.stored_text import planned_uploads, storable_failure, storable_request


class MemoryRunStore:
    """`ports.RunStore` in this process. Its time is the clock's. `outbox` holds the events, oldest first."""

    def __init__(self, *, clock: Clock, installation_id: UUID | None = None) -> None:
        self.outbox: list[OutboxEvent] = []
        self._clock = clock
        self._installation_id = installation_id or uuid4()
        self._records: dict[str, RunRecord] = {}
        self._claimed_at: dict[int, int] = {}
        """Agency → the number of its last claim: a clock may stand still between two."""
        self._fences = count(1)

    async def installation_id(self) -> UUID:
        return self._installation_id

    # -- accept and claim ------------------------------------------------------------------------

    async def accept(
        self,
        request: JobRequest,
        *,
        run_id: str,
        trace_id: str,
        span_id: str,
        origin: Origin | None = None,
    ) -> Run:
        storable_request(request)
        known = self._records.get(run_id)
        if known is not None:
            if known.request_hash != request.digest():
                raise ConflictingRequest(run_id)
            return known.run
        run = Run(
            run_id=run_id,
            job=request.job,
            agency_id=request.agency_id,
            state=RunState.QUEUED,
            attempt=0,
            request=request,
            requested_by=request.requested_by,
            replay_of=request.replay_of,
            dry_run=request.dry_run,
            topic=origin and origin.topic,
            partition=origin and origin.partition,
            offset=origin and origin.offset,
            not_before=request.not_before,
            queued_at=self._clock.now(),
            trace_id=trace_id,
            span_id=span_id,
        )
        self._records[run_id] = RunRecord(run, request_hash=request.digest(), number=len(self._records))
        return run

    async def claim(
        self, *, worker: str, lease: timedelta, max_runs_per_agency: int, run_id: str | None = None
    ) -> Claim | None:
        now = self._clock.now()
        chosen = next(self._claimable(max_runs_per_agency, run_id), None)
        if chosen is None:
            return None
        fence = next(self._fences)
        held = {"fence": fence, "worker": worker, "lease_expires_at": now + lease}
        if chosen.run.state is RunState.PREPARED:
            return Claim(run=chosen.change(**held), fence=fence, worker=worker)
        chosen.end_attempt("lost", now)
        run = chosen.change(
            **held,
            state=RunState.RUNNING,
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
        self._claimed_at[run.agency_id] = fence
        return Claim(run=run, fence=fence, worker=worker)

    def _claimable(self, max_runs: int, run_id: str | None) -> Iterator[RunRecord]:
        """The runs that may be claimed now, in order."""
        asked_for = [record for record in self._records.values() if run_id in (None, record.run.run_id)]
        free = [record for record in asked_for if not self._leased(record.run)]
        yield from sorted(
            (r for r in free if r.run.state is RunState.PREPARED and self._due(r.run)),
            key=lambda r: (-r.run.request.priority, r.number),
        )
        yield from sorted(
            (
                r
                for r in free
                if (r.run.state is RunState.RUNNING or (r.run.state is RunState.QUEUED and self._due(r.run)))
                and self._leases_of(r.run.agency_id) < max_runs
            ),
            key=lambda r: (-r.run.request.priority, self._claimed_at.get(r.run.agency_id, 0), r.number),
        )

    def _due(self, run: Run) -> bool:
        return run.not_before is None or run.not_before <= self._clock.now()

    def _leased(self, run: Run) -> bool:
        return run.lease_expires_at is not None and run.lease_expires_at > self._clock.now()

    def _leases_of(self, agency_id: int) -> int:
        return sum(r.run.agency_id == agency_id and self._leased(r.run) for r in self._records.values())

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        record = self._held(claim, *HELD)
        ends_at = record.run.lease_expires_at
        if ends_at is None or ends_at <= self._clock.now():  # given up, or over: the agency's place may be taken
            raise Superseded(claim.run.run_id, fence=claim.fence)
        record.change(lease_expires_at=self._clock.now() + lease)

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

    # -- the decision ----------------------------------------------------------------------------

    async def prepare(self, claim: Claim, plan: Plan, outcome: Outcome) -> None:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.PREPARED):
            return
        self._held(claim, RunState.RUNNING)
        planned = list(zip(*planned_uploads(plan), strict=True))
        for (key, upload_id), upload in record.uploads.items():
            upload.planned = upload.fence == claim.fence and ((key, upload_id) in planned or (key, None) in planned)
        record.plan = plan
        record.change(state=RunState.PREPARED, **measured(outcome))
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
            record.change(**measured(outcome))
        run = record.change(
            state=state,
            finished_at=now,
            duration_ms=max(0, took // timedelta(milliseconds=1)),
            lease_expires_at=None,
            manifest_url=record.run.manifest_url if state is RunState.SUCCEEDED else None,
            error=failure,
        )
        record.end_attempt(state.value, now, failure)
        self.outbox.append(completion_event(run))
        return run

    # -- the end of an attempt -------------------------------------------------------------------

    async def retry(self, claim: Claim, failure: RunFailure, *, delay: timedelta) -> Run:
        return self._requeue(claim, "retrying", delay=delay, failure=storable_failure(failure))

    async def hand_back(self, claim: Claim) -> Run:
        record = self._found(claim)
        if record.run.state is RunState.PREPARED:
            return await self.release(claim, delay=timedelta())
        counted = record.handed_back + (not self._was_done(record, claim, RunState.QUEUED))
        run = self._requeue(claim, "handed_back", delay=timedelta())
        record.handed_back = counted
        return run

    async def release(self, claim: Claim, *, delay: timedelta) -> Run:
        record = self._held(claim, RunState.PREPARED)
        return record.change(worker=None, lease_expires_at=None, not_before=self._clock.now() + delay)

    async def void_plan(self, claim: Claim) -> Run:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.QUEUED):
            return record.run
        self._held(claim, RunState.PREPARED)
        record.plan = None
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

    def _requeue(self, claim: Claim, outcome: str, *, delay: timedelta, failure: RunFailure | None = None) -> Run:
        record = self._found(claim)
        if self._was_done(record, claim, RunState.QUEUED):
            return record.run
        self._held(claim, RunState.RUNNING)
        now = self._clock.now()
        record.end_attempt(outcome, now, failure)
        return record.change(state=RunState.QUEUED, worker=None, lease_expires_at=None, not_before=now + delay)

    # -- history ---------------------------------------------------------------------------------

    async def tries(self, run_id: str) -> int:
        if run_id not in self._records:
            raise RunUnknown(run_id)
        record = self._records[run_id]
        return record.run.attempt - record.handed_back

    async def get(self, run_id: str) -> Run | None:
        record = self._records.get(run_id)
        return None if record is None else record.run

    async def history(
        self,
        *,
        agency_id: int | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[Run]:
        newest_first = reversed(self._records.values())
        found = [
            record.run
            for record in newest_first
            if agency_id in (None, record.run.agency_id)
            and state in (None, record.run.state)
            and (since is None or record.run.queued_at >= since)
        ]
        return found[:limit]

    async def attempts(self, run_id: str) -> list[Attempt]:
        return list(self._records[run_id].attempts) if run_id in self._records else []

    async def events(self, run_id: str) -> list[tuple[str, RunCompletion]]:
        return [
            (event.event_id, RunCompletion.model_validate_json(event.value))
            for event in self.outbox
            if event.run_id == run_id
        ]

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
