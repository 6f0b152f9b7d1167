"""Turn requests into queued runs, many per transaction, on Postgres. The SQL is in `intake.sql`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from pipeline_processing.agency_keys import number_of
from pipeline_processing.errors import ConflictingRequest, InvalidRequest, RequestError
from pipeline_processing.history.postgres.database import DataRefused, PostgresPort
from pipeline_processing.history.postgres.reads import GET_ALL
from pipeline_processing.history.postgres.rows import agency_columns, run_of
from pipeline_processing.model import Run, RunState
from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.store import Incoming
from pipeline_processing.runs.stored_text import storable_request, storable_tracestate

QUERIES = load_queries(__package__, "intake.sql")


class PostgresIntake(PostgresPort):
    """`RunIntake` on Postgres."""

    async def accept(self, incoming: Incoming) -> Run:
        [answer] = await self.accept_all([incoming])
        if isinstance(answer, RequestError):
            raise answer
        return answer

    async def accept_all(self, incoming: Sequence[Incoming]) -> list[Run | RequestError]:
        checked = [_checked(each) for each in incoming]
        storable = [each for each in checked if isinstance(each, Storable)]
        try:
            async with self._database.transaction() as connection:
                rows = await write(connection, storable) if storable else {}
        except DataRefused as error:
            if len(incoming) == 1:
                return [_unstorable(error)]
            # Each half in a separate transaction: in a single one, locks would not be taken in a consistent order.
            half = len(incoming) // 2
            return [*await self.accept_all(incoming[:half]), *await self.accept_all(incoming[half:])]
        runs = {run_id: run_of(row) for run_id, row in rows.items()}
        return [each if isinstance(each, InvalidRequest) else each.answer(rows, runs) for each in checked]


@dataclass(frozen=True, slots=True)
class Storable:
    """A valid request, and its digest."""

    incoming: Incoming
    digest: str

    @property
    def run_id(self) -> str:
        return self.incoming.run_id

    def made(self, row: Any) -> bool:
        """Whether this record of `runs` was created for the same request."""
        return bool(row["request_hash"] == self.digest)

    def answer(self, rows: Mapping[str, Any], runs: Mapping[str, Run]) -> Run | ConflictingRequest:
        """Return the request's run, or ConflictingRequest if the run id belongs to another request."""
        return runs[self.run_id] if self.made(rows[self.run_id]) else ConflictingRequest(self.run_id)


async def write(connection: asyncpg.Connection, requests: Sequence[Storable]) -> dict[str, Any]:
    """
    Queue the new runs, inside the caller's transaction. Returns the records of all these runs, by run id.

    The caller prepares the requests before the transaction and parses the records after it, so that locks are held no
    longer than the statements take.
    """
    first = {each.run_id: each for each in reversed(requests)}
    new = [first[run_id] for run_id in dict.fromkeys(each.run_id for each in requests)]
    await connection.execute(
        *QUERIES["know_agencies"](agency_ids=[number_of(each.incoming.request.agency_id) for each in new])
    )
    rows = {row["run_id"]: row for row in await connection.fetch(*QUERIES["accept"](**_columns(new)))}
    # A separate statement, so that it sees what another intake has just committed.
    if known := [run_id for run_id in first if run_id not in rows]:
        rows |= {row["run_id"]: row for row in await connection.fetch(*GET_ALL(run_ids=known))}
    asked_again = {
        each.run_id
        for each in requests
        if each.incoming.origin is not None
        and each.made(rows[each.run_id])
        and RunState(rows[each.run_id]["state"]).finished
    }
    if asked_again:
        await connection.execute(*QUERIES["ask_again"](run_ids=list(asked_again)))
        await connection.execute(*QUERIES["unsend"](run_ids=list(asked_again)))
    return rows


def _unstorable(error: DataRefused) -> InvalidRequest:
    """Return the error for a single request that can't be stored."""
    cause = error.__cause__.__cause__ if error.__cause__ is not None else None
    said = cause_of(cause) if cause is not None else str(error)
    return InvalidRequest(f"The run history can't store the request: {said}. Correct the value that this is about.")


def _checked(incoming: Incoming) -> Storable | InvalidRequest:
    try:
        return Storable(incoming, digest=storable_request(incoming.request).digest())
    except InvalidRequest as error:
        return error


def _columns(asked: Sequence[Storable]) -> dict[str, list[Any]]:
    """Return the values of new records of `runs`, by column."""
    rows = [
        {
            "run_id": incoming.run_id,
            "job": request.job,
            **agency_columns(request.agency_id),
            "request": request.model_dump_json(),
            "request_hash": each.digest,
            "requested_by": request.requested_by,
            "labels": json.dumps(request.labels),
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
