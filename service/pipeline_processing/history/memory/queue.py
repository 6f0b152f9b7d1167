"""The queue of runs, in memory."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.errors import RunUnknown, Superseded
from pipeline_processing.history.memory.table import HELD, MemoryPort, RunRecord, RunTable
from pipeline_processing.model import Attempt, Run, RunState
from pipeline_processing.runs.store import Backlog, Claim


class MemoryQueue(MemoryPort):
    """`RunQueue` in memory."""

    def __init__(self, table: RunTable) -> None:
        super().__init__(table)
        self._claimed_at: dict[str, int] = {}
        """Agency → the fence of its last claim. Orders claims even if the clock doesn't advance between them."""

    async def claim(
        self,
        *,
        worker: str,
        lease: timedelta,
        max_runs_per_agency: int,
        config_id: str | None = None,
        run_id: str | None = None,
    ) -> Claim | None:
        chosen = next(self._claimable(max_runs_per_agency, config_id, run_id), None)
        if chosen is None:
            return None
        now, fence = self._table.clock.now(), next(self._table.fences)
        held = {"fence": fence, "worker": worker, "lease_expires_at": now + lease}
        if chosen.run.state is RunState.PREPARED:
            return Claim(run=chosen.change(**held), fence=fence, worker=worker)
        if chosen.run.state is RunState.RUNNING:
            chosen.handed_back += not chosen.suspect and self._lost_beside_others(chosen)
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
        self._claimed_at[str(run.agency_id)] = fence
        return Claim(run=run, fence=fence, worker=worker, suspect=chosen.suspect)

    async def renew(self, claim: Claim, *, lease: timedelta) -> None:
        record = self._table.held(claim, *HELD)
        if not self._leased(record.run):  # released or expired: another run of the agency may have taken its place
            raise Superseded(claim.run.run_id, fence=claim.fence)
        record.change(lease_expires_at=self._table.clock.now() + lease)

    async def check(self, claim: Claim) -> None:
        if self._table.held(claim, *HELD).run.lease_expires_at is None:
            raise Superseded(claim.run.run_id, fence=claim.fence)

    async def cancel(self, run_id: str) -> Run:
        if (record := self._table.known(run_id)) is None:
            raise RunUnknown(run_id)
        if record.run.state not in (RunState.QUEUED, RunState.RUNNING):
            return record.run
        return self._table.finish(record, RunState.CANCELLED)

    async def idle(self, *, config_id: str | None = None) -> bool:
        all_sent = all(event.event_id in self._table.sent for event in self._table.events)
        return all_sent and not any(self._is_to_do(record.run, config_id) for record in self._table.records.values())

    async def waiting_for_another_config(self, config_id: str) -> int:
        runs = (record.run for record in self._table.records.values())
        return sum(self._to_export(run) and not self._leased(run) and not _suits(run, config_id) for run in runs)

    async def backlog(self) -> Backlog:
        runs = [record.run for record in self._table.records.values() if not record.run.state.finished]
        states = (RunState.QUEUED, RunState.RUNNING, RunState.PREPARED)
        unsent = [event for event in self._table.events if event.event_id not in self._table.sent]
        return Backlog(
            runs={state: sum(run.state is state for run in runs) for state in states},
            oldest={state: self._oldest(_since(run) for run in runs if run.state is state) for state in states},
            unsent=len(unsent),
            oldest_unsent=self._oldest(self._finished_at(event.run_id) for event in unsent),
        )

    async def now(self) -> datetime:
        return self._table.clock.now()

    def _claimable(self, max_runs: int, config_id: str | None, run_id: str | None) -> Iterator[RunRecord]:
        """Yield the runs that can be claimed now, in order."""
        asked_for = [record for record in self._table.records.values() if run_id in (None, record.run.run_id)]
        free = [record for record in asked_for if not self._leased(record.run)]
        yield from sorted(
            (r for r in free if r.run.state is RunState.PREPARED and self._due(r.run)),
            key=lambda r: (-r.run.request.priority, r.number),
        )
        yield from sorted(
            (
                r
                for r in free
                if self._to_export(r.run) and _suits(r.run, config_id) and self._leases_of(r.run.agency_id) < max_runs
            ),
            key=lambda r: (-r.run.request.priority, self._claimed_at.get(str(r.run.agency_id), 0), r.number),
        )

    def _lost_beside_others(self, lost: RunRecord) -> bool:
        """Whether another attempt was in the same process when the run's last one was lost."""
        worker = lost.attempts[-1].worker
        others = (record for record in self._table.records.values() if record is not lost)
        return any(
            attempt.worker == worker and attempt.outcome in ("running", "lost")
            for record in others
            for attempt in record.attempts
        )

    def _is_to_do(self, run: Run, config_id: str | None) -> bool:
        if run.state is RunState.PREPARED:
            return True
        return _suits(run, config_id) and (
            run.state is RunState.RUNNING or (run.state is RunState.QUEUED and (run.attempt > 0 or self._due(run)))
        )

    def _to_export(self, run: Run) -> bool:
        return run.state is RunState.RUNNING or (run.state is RunState.QUEUED and self._due(run))

    def _finished_at(self, run_id: str) -> datetime | None:
        record = self._table.known(run_id)
        return None if record is None else record.run.finished_at

    def _oldest(self, times: Iterable[datetime | None]) -> timedelta | None:
        now = self._table.clock.now()
        past = [at for at in times if at is not None and at <= now]
        return now - min(past) if past else None

    def _due(self, run: Run) -> bool:
        return run.not_before is None or run.not_before <= self._table.clock.now()

    def _leased(self, run: Run) -> bool:
        return run.lease_expires_at is not None and run.lease_expires_at > self._table.clock.now()

    def _leases_of(self, agency_id: AgencyId) -> int:
        return sum(str(r.run.agency_id) == str(agency_id) and self._leased(r.run) for r in self._table.records.values())


def _since(run: Run) -> datetime | None:
    if run.state is RunState.QUEUED:
        return max(run.queued_at, run.not_before or run.queued_at)
    return run.started_at


def _suits(run: Run, config_id: str | None) -> bool:
    """Whether a worker with this job config may export the run."""
    return not run.pinned or run.config_id == config_id
