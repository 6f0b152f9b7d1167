"""Reads of the run table in memory."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.errors import RunUnknown
from pipeline_processing.history.memory.table import MemoryPort, RunRecord
from pipeline_processing.model import Attempt, DatasetCounts, Run, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter, RunPlace


class MemoryHistory(MemoryPort):
    """`RunHistory` in memory."""

    async def installation_id(self) -> UUID:
        return self._table.installation_id

    async def get(self, run_id: str) -> Run | None:
        record = self._table.known(run_id)
        return None if record is None else record.run

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        return {run_id: record.run for run_id in run_ids if (record := self._table.known(run_id)) is not None}

    async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
        found = [
            record.run
            for record in reversed(self._table.records.values())
            if wanted.matches(record.run) and self._comes_after(record, wanted.after)
        ]
        return found[:limit]

    def _comes_after(self, record: RunRecord, place: RunPlace | None) -> bool:
        """Whether a record is older than the one at this place. Runs of one moment are in the order of acceptance."""
        if place is None:
            return True
        there = self._table.records.get(place.run_id)
        return record.run.queued_at < place.queued_at if there is None else record.number < there.number

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        asked_for = set(run_ids)
        records = (*self._table.records.values(), *self._table.tombstones.values())
        originals = (record.run.replay_of for record in records)
        return dict(Counter(run_id for run_id in originals if run_id is not None and run_id in asked_for))

    async def last_success(self, agency_id: AgencyId, dataset: str) -> LastSuccess | None:
        found = [
            (
                record.covered_until,
                record.run.finished_at,
                LastSuccess(record.run.run_id, record.covered_until, counts, record.schemas.get(dataset)),
            )
            for record in self._table.records.values()
            if str(record.run.agency_id) == str(agency_id)
            and record.run.state is RunState.SUCCEEDED
            and record.covered_until is not None
            and record.run.finished_at is not None
            for counts in record.datasets
            if counts.name == dataset
        ]
        return max(found, key=lambda each: each[:2])[2] if found else None

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        record = self._table.records.get(run_id)
        return [] if record is None else list(record.datasets)

    async def attempts(self, run_id: str) -> list[Attempt]:
        record = self._table.records.get(run_id)
        return [] if record is None else list(record.attempts)

    async def tries(self, run_id: str) -> int:
        if (record := self._table.records.get(run_id)) is None:
            raise RunUnknown(run_id)
        return record.run.attempt - record.handed_back
