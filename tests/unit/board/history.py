"""A run history that tests fill by hand, as the board reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.model import Attempt, DatasetCounts, JobRequest, Run, RunFailure, RunState
from pipeline_processing.runs.board_reads import (
    Bucket,
    Changes,
    FailureGroup,
    FinishedRun,
    QueueState,
    RunStory,
    StoredArtifact,
    StoredEvent,
    Throughput,
    Typical,
    Waiting,
)
from pipeline_processing.runs.deliveries import Delivery, DeliveryState
from pipeline_processing.runs.run_filter import EVERY_RUN, RunFilter
from tests.unit.virtual_clock import EPOCH, VirtualClock

TRACE_ID = "ab" * 16


def at(seconds: float) -> datetime:
    """A time of the virtual clock."""
    return EPOCH + timedelta(seconds=seconds)


def run(run_id: str = "r", state: str = "queued", *, agency_id: int = 7, **fields: Any) -> Run:
    """A run as the history would hold it."""
    held = state in ("running", "prepared")
    known: dict[str, Any] = {
        "attempt": 0 if state == "queued" else 1,
        "queued_at": at(0),
        "started_at": None if state == "queued" else at(1),
        "lease_expires_at": at(31) if held else None,
        "worker": "w" if held else None,
        "finished_at": at(5) if RunState(state).finished else None,
        "duration_ms": 4000 if RunState(state).finished else None,
        "trace_id": TRACE_ID,
        "error": RunFailure(kind="step_failed", message="no column x", retryable=False, exit_code=1)
        if state == "failed"
        else None,
    }
    request = fields.pop("request", {})
    return Run(
        run_id=run_id,
        job="agency_data_job",
        agency_id=agency_id,
        state=RunState(state),
        request=JobRequest(agency_id=agency_id, **request),
        **known | fields,
    )


@dataclass
class HandmadeHistory:
    """`BoardReads`, and `newest` of `RunHistory`, of runs in a dict. Counts its calls."""

    by_id: dict[str, Run] = field(default_factory=dict)
    typical_of: dict[AgencyId, Typical] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    asked: list[RunFilter] = field(default_factory=list)
    away: bool = False
    complete: bool = True

    def put(self, *runs: Run) -> None:
        self.by_id |= {each.run_id: each for each in runs}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.away:
            raise HistoryUnavailable("no answer from postgresql://app:secret@db/runs")

    async def queue_state(self) -> QueueState:
        self._called("queue_state")
        runs = list(self.by_id.values())
        states = [each.state for each in runs]
        queued = [each for each in runs if each.state is RunState.QUEUED]
        return QueueState(
            now=VirtualClock().now(),
            queued=len(queued),
            running=states.count(RunState.RUNNING),
            prepared=states.count(RunState.PREPARED),
            retrying=sum(each.attempt > 0 for each in queued),
            agencies_waiting=len({each.agency_id for each in queued}),
            oldest_waiting=Waiting(queued[0].run_id, queued[0].agency_id, queued[0].queued_at) if queued else None,
            finished={state: states.count(state) for state in RunState if state.finished},
            outbox_unsent=1,
            oldest_unsent_at=at(-5),
            kept_letters=2,
        )

    async def changes(self, *, since: datetime, watched: Sequence[str], limit: int) -> Changes:
        self._called("changes")
        found = [
            each
            for each in self.by_id.values()
            if each.state in (RunState.RUNNING, RunState.PREPARED)
            or each.queued_at > since
            or (each.finished_at or since) > since
            or each.run_id in watched
        ]
        return Changes(found, complete=self.complete)

    async def newest(self, wanted: RunFilter = EVERY_RUN, *, limit: int | None = 50) -> list[Run]:
        self._called("newest")
        self.asked.append(wanted)
        found = [each for each in self.by_id.values() if wanted.matches(each)]
        return sorted(found, key=lambda each: (each.queued_at, each.run_id), reverse=True)[:limit]

    async def story(self, run_id: str) -> RunStory | None:
        self._called("story")
        if (found := self.by_id.get(run_id)) is None:
            return None
        attempt = Attempt(
            run_id=run_id, attempt=1, fence=1, worker="w", outcome="succeeded", started_at=at(1), trace_id=TRACE_ID
        )
        artifact = StoredArtifact(
            destination="s3://key:secret@exports",
            key="k",
            dataset="records",
            format="ndjson",
            compression="none",
            rows=2,
            size=30,
            sha256="0" * 64,
            rejected=False,
        )
        return RunStory(
            run=found,
            attempts=[attempt],
            datasets=[DatasetCounts(name="records", rows_read=2, rows_written=2)],
            artifacts=[artifact],
            events=[StoredEvent("r:succeeded", "agency.run.succeeded", at(5), None)],
            deliveries=[
                Delivery(
                    event_id="r:succeeded",
                    run_id=run_id,
                    webhook="billing",
                    state=DeliveryState.PENDING,
                    tries=2,
                    next_at=at(60),
                    last_status=500,
                    last_error="the server said password=tops3cret",
                    delivered_at=None,
                )
            ],
            replays=[run("replay")],
        )

    async def durations(self, agency_ids: Sequence[AgencyId], *, limit: int) -> dict[AgencyId, list[FinishedRun]]:
        self._called("durations")
        return {each: [FinishedRun("r", at(5), 4000, RunState.SUCCEEDED)] for each in agency_ids if int(each) < 100}

    async def typical(self, agency_ids: Sequence[AgencyId]) -> dict[AgencyId, Typical]:
        self._called("typical")
        return {each: self.typical_of[each] for each in agency_ids if each in self.typical_of}

    async def failures(self, *, window: timedelta) -> list[FailureGroup]:
        self._called("failures")
        many = FailureGroup(
            error_kind="step_failed",
            count=3,
            replayed=1,
            agencies=2,
            agency_ids=[7, 8],
            run_ids=["a", "b", "c"],
            last_message="password=tops3cret",
            last_at=at(5),
        )
        return [many]

    async def throughput(self, *, window: timedelta, width: timedelta) -> Throughput:
        self._called("throughput")
        return Throughput(width, [Bucket(at=at(0)), Bucket(at=at(60), succeeded=1, rows=2, p50_ms=3.5, p95_ms=4)])
