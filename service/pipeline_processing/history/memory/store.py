"""The run store in memory, for tests, simulations and dry runs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from pipeline_processing.errors import ConflictingRequest, RequestError
from pipeline_processing.history.memory.attempts import MemoryAttempts
from pipeline_processing.history.memory.deliveries import MemoryDeliveries
from pipeline_processing.history.memory.queue import MemoryQueue
from pipeline_processing.history.memory.reads import MemoryHistory
from pipeline_processing.history.memory.table import MemoryPort, RunRecord, RunTable
from pipeline_processing.model import Run, RunState
from pipeline_processing.plan import Plan, UploadRef
from pipeline_processing.runs.deliveries import DeliveryState
from pipeline_processing.runs.pruning import FinishedPlace, Judged, Kept
from pipeline_processing.runs.store import Announce, Incoming, RunStore
from pipeline_processing.runs.stored_text import storable_request, storable_tracestate


def memory_run_store(table: RunTable) -> RunStore:
    """Return all ports of a run table in memory, which uses the table's clock."""
    return RunStore(
        intake=MemoryIntake(table),
        queue=MemoryQueue(table),
        attempts=MemoryAttempts(table),
        history=MemoryHistory(table),
        leftovers=MemoryLeftovers(table),
        outbox=MemoryOutbox(table),
        pruning=MemoryPruning(table),
        deliveries=MemoryDeliveries(table),
    )


class MemoryIntake(MemoryPort):
    """`RunIntake` in memory."""

    async def accept(self, incoming: Incoming) -> Run:
        digest = storable_request(incoming.request).digest()
        known = self._table.known(incoming.run_id)
        if known is None:
            run = _queued(incoming, at=self._table.clock.now())
            number = len(self._table.records) + len(self._table.tombstones)
            record = RunRecord(run, request_hash=digest, number=number)
            self._table.records[run.run_id] = record
            return run
        if known.request_hash != digest:
            raise ConflictingRequest(incoming.run_id)
        if incoming.origin is not None and known.run.state.finished:
            self._table.ask_again(incoming.run_id)
        return known.run

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        answers: list[Run | RequestError] = []
        for each in incoming:
            try:
                answers.append(await self.accept(each))
            except RequestError as error:
                answers.append(error)
        return answers


class MemoryLeftovers(MemoryPort):
    """`RunLeftovers` in memory."""

    async def runs_to_clean_up(self) -> list[str]:
        return [run_id for run_id, r in self._table.records.items() if r.lost_uploads() or r.failed_plan is not None]

    async def lost_uploads(self, run_id: str) -> list[UploadRef]:
        return self._table.records[run_id].lost_uploads() if run_id in self._table.records else []

    async def lost_of(self, run_id: str, listed: Sequence[UploadRef]) -> list[UploadRef]:
        record = self._table.known(run_id)
        return [] if record is None else [upload for upload in listed if record.has_lost(upload)]

    async def forget_uploads(self, run_id: str, uploads: Sequence[UploadRef]) -> None:
        if run_id in self._table.records:
            for upload in uploads:
                self._table.records[run_id].uploads.pop((upload.key, upload.upload_id), None)

    async def failed_plan(self, run_id: str) -> Plan | None:
        return self._table.records[run_id].failed_plan if run_id in self._table.records else None

    async def forget_failed_plan(self, run_id: str) -> None:
        if await self.failed_plan(run_id) is not None:
            self._table.records[run_id].plan = None


class MemoryOutbox(MemoryPort):
    """`RunOutbox` in memory. `announce` is the only method of a memory store that awaits anything: the sending."""

    def __init__(self, table: RunTable) -> None:
        super().__init__(table)
        self._being_sent: set[str] = set()

    async def announce(self, send: Announce, *, limit: int) -> int:
        table = self._table
        taken = [e for e in table.events if e.event_id not in table.sent | self._being_sent][:limit]
        asked_again = table.asked_again.copy()
        self._being_sent |= {event.event_id for event in taken}
        try:
            if taken:
                await send(taken)
        finally:
            self._being_sent -= {event.event_id for event in taken}
        table.sent |= {e.event_id for e in taken if table.asked_again[e.run_id] == asked_again[e.run_id]}
        return len(taken)


class MemoryPruning(MemoryPort):
    """`RunPruning` in memory."""

    async def prune(
        self, before: datetime, *, after: FinishedPlace | None, limit: int, dry_run: bool = False
    ) -> list[Judged]:
        old = sorted(
            (FinishedPlace(run.finished_at, run.run_id), record)
            for record in self._table.records.values()
            if (run := record.run).finished_at is not None and run.finished_at < before
        )
        judged = [Judged(place, await self._kept(record)) for place, record in old if after is None or place > after][
            :limit
        ]
        for each in [] if dry_run else judged:
            if each.kept is None:
                self._bury(each.place.run_id)
        return judged

    async def _kept(self, record: RunRecord) -> Kept | None:
        table, run = self._table, record.run
        if any(event.event_id not in table.sent for event in table.events if event.run_id == run.run_id):
            return Kept.UNSENT
        deliveries = [each.delivery for each in table.deliveries.values() if each.delivery.run_id == run.run_id]
        if any(delivery.state is DeliveryState.PENDING for delivery in deliveries):
            return Kept.UNDELIVERED
        if record.uploads or record.plan is not None:
            return Kept.LEFTOVERS
        for counts in record.datasets:
            last = await MemoryHistory(table).last_success(run.agency_id, counts.name)
            if last is not None and last.run_id == run.run_id:
                return Kept.LAST_SUCCESS
        return None

    def _bury(self, run_id: str) -> None:
        table = self._table
        record = table.records.pop(run_id)
        table.tombstones[run_id] = replace(
            record, run=record.run.model_copy(update={"timings": None}), attempts=[], datasets=()
        )
        for key in [key for key, each in table.deliveries.items() if each.delivery.run_id == run_id]:
            del table.deliveries[key]


def _queued(incoming: Incoming, *, at: datetime) -> Run:
    request, origin = incoming.request, incoming.origin
    return Run(
        run_id=incoming.run_id,
        job=request.job,
        agency_id=request.agency_id,
        state=RunState.QUEUED,
        attempt=0,
        request=request,
        requested_by=request.requested_by,
        labels=request.labels,
        replay_of=request.replay_of,
        dry_run=request.dry_run,
        config_id=incoming.config_id,
        pinned=incoming.pinned,
        topic=origin and origin.topic,
        partition=origin and origin.partition,
        offset=origin and origin.offset,
        not_before=request.not_before,
        queued_at=at,
        trace_id=incoming.trace_id,
        span_id=incoming.span_id,
        tracestate=storable_tracestate(incoming.tracestate),
    )
