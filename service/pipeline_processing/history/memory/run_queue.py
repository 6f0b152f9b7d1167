"""Which run of the in-memory run table is next."""

from collections.abc import Iterator, Mapping

from pipeline_processing.history.memory.run_record import RunRecord
from pipeline_processing.model import Run, RunState
from pipeline_processing.ports import Clock


class RunQueue:
    """The order of what is due among `records`, by run id."""

    def __init__(self, records: Mapping[str, RunRecord], *, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._claimed_at: dict[int, int] = {}
        """Agency → the fence of its last claim: a clock may stand still between two."""

    def next(self, *, max_runs: int, config_id: str | None, run_id: str | None) -> RunRecord | None:
        """The run to be claimed now, if there is one."""
        return next(self._claimable(max_runs, config_id, run_id), None)

    def took_its_turn(self, agency_id: int, *, fence: int) -> None:
        """An attempt of the agency has started."""
        self._claimed_at[agency_id] = fence

    def is_idle(self, config_id: str | None) -> bool:
        """Whether no run is due, held, or waiting for another attempt, with this job config."""
        return not any(self._is_to_do(record.run, config_id) for record in self._records.values())

    def waiting_for_another_config(self, config_id: str) -> int:
        """How many runs are due, and pinned to another job config."""
        runs = (record.run for record in self._records.values())
        return sum(self._to_export(run) and not self._leased(run) and not _suits(run, config_id) for run in runs)

    def lost_beside_others(self, lost: RunRecord) -> bool:
        """Whether another attempt was in the same process when the run's last one was lost."""
        worker = lost.attempts[-1].worker
        others = (record for record in self._records.values() if record is not lost)
        return any(
            attempt.worker == worker and attempt.outcome in ("running", "lost")
            for record in others
            for attempt in record.attempts
        )

    def _claimable(self, max_runs: int, config_id: str | None, run_id: str | None) -> Iterator[RunRecord]:
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
                if self._to_export(r.run) and _suits(r.run, config_id) and self._leases_of(r.run.agency_id) < max_runs
            ),
            key=lambda r: (-r.run.request.priority, self._claimed_at.get(r.run.agency_id, 0), r.number),
        )

    def _is_to_do(self, run: Run, config_id: str | None) -> bool:
        if run.state is RunState.PREPARED:
            return True
        return _suits(run, config_id) and (
            run.state is RunState.RUNNING or (run.state is RunState.QUEUED and (run.attempt > 0 or self._due(run)))
        )

    def _to_export(self, run: Run) -> bool:
        return run.state is RunState.RUNNING or (run.state is RunState.QUEUED and self._due(run))

    def _due(self, run: Run) -> bool:
        return run.not_before is None or run.not_before <= self._clock.now()

    def _leased(self, run: Run) -> bool:
        return run.lease_expires_at is not None and run.lease_expires_at > self._clock.now()

    def _leases_of(self, agency_id: int) -> int:
        return sum(r.run.agency_id == agency_id and self._leased(r.run) for r in self._records.values())


def _suits(run: Run, config_id: str | None) -> bool:
    """Whether a worker with this job config may export the run."""
    return not run.pinned or run.config_id == config_id
