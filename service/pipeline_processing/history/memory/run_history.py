"""The run table in memory, as far as it is only read."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from pipeline_processing.errors import RunUnknown
from pipeline_processing.history.memory.run_record import RunRecord
from pipeline_processing.model import Attempt, DatasetCounts, Run, RunCompletion, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.completions import OutboxEvent


class MemoryRunHistory:
    """The part of `ports.RunStore` that changes nothing. `outbox` holds the events, oldest first."""

    def __init__(self) -> None:
        self.outbox: list[OutboxEvent] = []
        self._records: dict[str, RunRecord] = {}

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
        until: datetime | None = None,
        limit: int | None = 50,
    ) -> list[Run]:
        newest_first = reversed(self._records.values())
        found = [
            record.run
            for record in newest_first
            if agency_id in (None, record.run.agency_id)
            and state in (None, record.run.state)
            and (since is None or record.run.queued_at >= since)
            and (until is None or record.run.queued_at < until)
        ]
        return found[:limit]

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, Run]:
        return {run_id: self._records[run_id].run for run_id in run_ids if run_id in self._records}

    async def replays(self, run_ids: Sequence[str]) -> dict[str, int]:
        asked_for = set(run_ids)
        originals = (record.run.replay_of for record in self._records.values())
        return dict(Counter(run_id for run_id in originals if run_id is not None and run_id in asked_for))

    async def last_success(self, agency_id: int, dataset: str) -> LastSuccess | None:
        found = [
            (record.covered_until, record.run.finished_at, LastSuccess(record.run.run_id, record.covered_until, counts))
            for record in self._records.values()
            if record.run.agency_id == agency_id
            and record.run.state is RunState.SUCCEEDED
            and record.covered_until is not None
            and record.run.finished_at is not None
            for counts in record.datasets
            if counts.name == dataset
        ]
        return max(found, key=lambda each: each[:2])[2] if found else None

    async def datasets(self, run_id: str) -> list[DatasetCounts]:
        return list(self._records[run_id].datasets) if run_id in self._records else []

    async def attempts(self, run_id: str) -> list[Attempt]:
        return list(self._records[run_id].attempts) if run_id in self._records else []

    async def events(self, run_id: str) -> list[tuple[str, RunCompletion]]:
        return [
            (event.event_id, RunCompletion.model_validate_json(event.value))
            for event in self.outbox
            if event.run_id == run_id
        ]
