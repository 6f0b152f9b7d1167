"""Requests → the run table, many in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from pipeline_processing.errors import ConflictingRequest, InvalidRequest, RequestError
from pipeline_processing.history.postgres.rows import run_of
from pipeline_processing.history.postgres.writes import QUERIES, DataRefused
from pipeline_processing.model import Run, RunState
from pipeline_processing.ports import Incoming
from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.runs.stored_text import storable_request, storable_tracestate


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that can be stored, and its digest."""

    incoming: Incoming
    digest: str


class IntakeBatch:
    """Requests to be written together. Only `write` needs the database: the rest of the work holds no lock."""

    def __init__(self, incoming: Sequence[Incoming]) -> None:
        self._asked = [_checked(each) for each in incoming]
        self._first: dict[str, Checked] = {}
        """By run id."""
        for each in self._asked:
            if isinstance(each, Checked):
                self._first.setdefault(each.incoming.run_id, each)
        self._records: dict[str, Any] = {}

    async def write(self, connection: asyncpg.Connection) -> None:
        """Queue the runs that are new, and look up the others, inside a transaction of the caller's."""
        if not self._first:
            return
        new = list(self._first.values())
        await connection.execute(*QUERIES["know_agencies"](agency_ids=[c.incoming.request.agency_id for c in new]))
        await self._note(connection, QUERIES["accept"](**_columns(new)))
        # A statement of its own, so that it sees what another intake has written just now.
        if known := [run_id for run_id in self._first if run_id not in self._records]:
            await self._note(connection, QUERIES["get_all"](run_ids=known))
        if again := self._finished_before():
            await connection.execute(*QUERIES["ask_again"](run_ids=again))
            await connection.execute(*QUERIES["unsend"](run_ids=again))

    async def _note(self, connection: asyncpg.Connection, query: tuple[Any, ...]) -> None:
        self._records |= {record["run_id"]: record for record in await connection.fetch(*query)}

    def _finished_before(self) -> list[str]:
        """Ids of the finished runs that a message has asked for."""
        asked = (each for each in self._asked if isinstance(each, Checked) and each.incoming.origin is not None)
        return list({each.incoming.run_id: None for each in asked if self._is_finished(each)})

    def _is_finished(self, asked: Checked) -> bool:
        record = self._records[asked.incoming.run_id]
        return record["request_hash"] == asked.digest and RunState(record["state"]).finished

    def answers(self) -> list[Run | RequestError]:
        """To each request its run as `write` found or left it, or why it can't be one."""
        runs: Mapping[str, Run] = {run_id: run_of(record) for run_id, record in self._records.items()}
        return [each if isinstance(each, InvalidRequest) else self._answer(each, runs) for each in self._asked]

    def _answer(self, asked: Checked, runs: Mapping[str, Run]) -> Run | RequestError:
        run_id = asked.incoming.run_id
        if self._records[run_id]["request_hash"] != asked.digest:
            return ConflictingRequest(run_id)
        return runs[run_id]


def unstorable(error: DataRefused) -> InvalidRequest:
    """Why one request, tried by itself, can't be a run."""
    cause = error.__cause__.__cause__ if error.__cause__ is not None else None
    said = cause_of(cause) if cause is not None else str(error)
    return InvalidRequest(f"The run history can't store the request: {said}. Correct the value that this is about.")


def _checked(incoming: Incoming) -> Checked | InvalidRequest:
    try:
        return Checked(incoming, digest=storable_request(incoming.request).digest())
    except InvalidRequest as error:
        return error


def _columns(asked: Sequence[Checked]) -> dict[str, list[Any]]:
    """The values of new records of `runs`, column by column."""
    records = [
        {
            "run_id": incoming.run_id,
            "job": request.job,
            "agency_id": request.agency_id,
            "request": request.model_dump_json(),
            "request_hash": each.digest,
            "requested_by": request.requested_by,
            "replay_of": request.replay_of,
            "dry_run": request.dry_run,
            "priority": request.priority,
            "not_before": request.not_before,
            "topic": origin and origin.topic,
            "partition": origin and origin.partition,
            "offset": origin and origin.offset,
            "trace_id": incoming.trace_id,
            "span_id": incoming.span_id,
            "tracestate": storable_tracestate(incoming.tracestate),
            "config_id": incoming.config_id,
            "pinned": incoming.pinned,
        }
        for each in asked
        for incoming, request, origin in [(each.incoming, each.incoming.request, each.incoming.origin)]
    ]
    return {column: [record[column] for record in records] for column in records[0]}
