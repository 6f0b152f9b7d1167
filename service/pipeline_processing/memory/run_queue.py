"""Which run of the in-memory run table is next."""

from collections.abc import Iterator, Mapping

from pipeline_processing.memory.run_record import HELD, RunRecord
from pipeline_processing.model import Run, RunState
from pipeline_processing.ports import Clock


class RunQueue:
    """The order of what is due among `records`, by run id."""

    def __init__(self, records: Mapping[str, RunRecord], *, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._claimed_at: dict[int, int] = {}
        """Agency → the fence of its last claim: a clock may stand still between two."""

    def next(self, *, max_runs: int, run_id: str | None) -> RunRecord | None:
        """The run to be claimed now, if there is one."""
        return next(self._claimable(max_runs, run_id), None)

    def took_its_turn(self, agency_id: int, *, fence: int) -> None:
        """An attempt of the agency has started."""
        self._claimed_at[agency_id] = fence

    @property
    def is_idle(self) -> bool:
        """Whether no run is due, held, or waiting for another attempt."""
        return not any(self._is_to_do(record.run) for record in self._records.values())

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

    def _is_to_do(self, run: Run) -> bool:
        return run.state in HELD or (run.state is RunState.QUEUED and (run.attempt > 0 or self._due(run)))

    def _due(self, run: Run) -> bool:
        return run.not_before is None or run.not_before <= self._clock.now()

    def _leased(self, run: Run) -> bool:
        return run.lease_expires_at is not None and run.lease_expires_at > self._clock.now()

    def _leases_of(self, agency_id: int) -> int:
        return sum(r.run.agency_id == agency_id and self._leased(r.run) for r in self._records.values())
