"""Requests → queued runs, many in one transaction, on Postgres. The SQL is in `intake.sql`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from pipeline_processing.errors import ConflictingRequest, InvalidRequest, RequestError
from pipeline_processing.history.postgres.database import DataRefused, HistoryDatabase
from pipeline_processing.history.postgres.rows import run_of
from pipeline_processing.model import Run, RunState
from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.store import Incoming
from pipeline_processing.runs.stored_text import storable_request, storable_tracestate

QUERIES = load_queries(__package__, "intake.sql")


class PostgresIntake:
    """`RunIntake` on Postgres."""

    def __init__(self, database: HistoryDatabase) -> None:
        self._database = database

    async def accept(self, incoming: Incoming) -> Run:
        [answer] = await self.accept_all([incoming])
        if isinstance(answer, RequestError):
            raise answer
        return answer

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        batch = _Batch(incoming)
        try:
            async with self._database.transaction() as connection:
                await batch.write(connection)
        except DataRefused as error:
            if len(incoming) == 1:
                return [_unstorable(error)]
            # Each half in a transaction of its own: in one, its locks would no longer be taken in one order.
            half = len(incoming) // 2
            return [*await self.accept_all(incoming[:half]), *await self.accept_all(incoming[half:])]
        return batch.answers()


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request that can be stored, and its digest."""

    incoming: Incoming
    digest: str


class _Batch:
    """Requests to be written together. Only `write` needs the database: the rest of the work holds no lock."""

    def __init__(self, incoming: Sequence[Incoming]) -> None:
        self._asked = [_checked(each) for each in incoming]
        self._first: dict[str, _Checked] = {}
        """By run id."""
        for each in self._asked:
            if isinstance(each, _Checked):
                self._first.setdefault(each.incoming.run_id, each)
        self._rows: dict[str, Any] = {}
        """Records of `runs`, by run id."""

    async def write(self, connection: asyncpg.Connection) -> None:
        """Queue the new runs, and read the known ones, inside a transaction of the caller's."""
        if not self._first:
            return
        new = list(self._first.values())
        await connection.execute(*QUERIES["know_agencies"](agency_ids=[c.incoming.request.agency_id for c in new]))
        await self._note(connection, QUERIES["accept"](**_columns(new)))
        # A statement of its own, so that it sees what another intake has just committed.
        if known := [run_id for run_id in self._first if run_id not in self._rows]:
            await self._note(connection, QUERIES["known"](run_ids=known))
        if again := self._asked_again():
            await connection.execute(*QUERIES["ask_again"](run_ids=again))
            await connection.execute(*QUERIES["unsend"](run_ids=again))

    async def _note(self, connection: asyncpg.Connection, query: tuple[Any, ...]) -> None:
        self._rows |= {row["run_id"]: row for row in await connection.fetch(*query)}

    def _asked_again(self) -> list[str]:
        """Ids of the finished runs that a message asks for."""
        asked = (each for each in self._asked if isinstance(each, _Checked) and each.incoming.origin is not None)
        return list(dict.fromkeys(each.incoming.run_id for each in asked if self._is_finished(each)))

    def _is_finished(self, asked: _Checked) -> bool:
        row = self._rows[asked.incoming.run_id]
        return row["request_hash"] == asked.digest and RunState(row["state"]).finished

    def answers(self) -> list[Run | RequestError]:
        """For each request its run as `write` found or left it, or why there is none."""
        runs = {run_id: run_of(row) for run_id, row in self._rows.items()}
        return [each if isinstance(each, InvalidRequest) else self._answer(each, runs) for each in self._asked]

    def _answer(self, asked: _Checked, runs: dict[str, Run]) -> Run | RequestError:
        run_id = asked.incoming.run_id
        if self._rows[run_id]["request_hash"] != asked.digest:
            return ConflictingRequest(run_id)
        return runs[run_id]


def _unstorable(error: DataRefused) -> InvalidRequest:
    """Why one request, tried by itself, can't be stored."""
    cause = error.__cause__.__cause__ if error.__cause__ is not None else None
    said = cause_of(cause) if cause is not None else str(error)
    return InvalidRequest(f"The run history can't store the request: {said}. Correct the value that this is about.")


def _checked(incoming: Incoming) -> _Checked | InvalidRequest:
    try:
        return _Checked(incoming, digest=storable_request(incoming.request).digest())
    except InvalidRequest as error:
        return error


def _columns(asked: Sequence[_Checked]) -> dict[str, list[Any]]:
    """The values of new records of `runs`, column by column."""
    rows = [
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
    return {column: [row[column] for row in rows] for column in rows[0]}
