"""Writes and look-ups that several of the run store's methods share, inside a transaction of theirs."""

from typing import Any

import asyncpg
import orjson

from pipeline_processing.errors import (
    HistoryOutdated,
    HistoryUnavailable,
    InternalError,
    PipelineError,
    QueryInvalid,
    SourceBusy,
    StandbyConflict,
    Superseded,
)
from pipeline_processing.history.postgres.rows import dataset_columns, failure_columns, outcome_columns, run_of
from pipeline_processing.model import Run, RunFailure, RunState
from pipeline_processing.ports import Claim, Outcome
from pipeline_processing.postgres.errors import cause_of, is_invalid_value
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.completions import completion_event

QUERIES = load_queries(
    __package__,
    "queries.sql",
    "queries_messages.sql",
    "queries_clean_up.sql",
    "queries_reading.sql",
    "queries_letters.sql",
)


_DATA = ("22", "23", "54")
"""SQLSTATE classes: data exceptions, constraints, and limits such as that of an index entry."""


class DataRefused(InternalError):
    """The database can't store some value. Whose it is, only trying each by itself tells."""


async def find(connection: asyncpg.Connection, run_id: str) -> Any:
    """The record of one run, or None."""
    return await connection.fetchrow(*QUERIES["get"](run_id=run_id))


async def done_before(connection: asyncpg.Connection, claim: Claim, state: RunState) -> Run:
    """
    The run, if it stands in `state` under this very fence: then only this claim can have put it there, by a try
    whose reply was lost. Raises Superseded otherwise.
    """
    row = await find(connection, claim.run.run_id)
    if row is None or row["fence"] != claim.fence or row["state"] != state:
        raise Superseded(claim.run.run_id, fence=claim.fence)
    return run_of(row)


async def finish(
    connection: asyncpg.Connection,
    run_id: str,
    fence: int | None,
    from_state: RunState,
    to_state: RunState,
    *,
    outcome: Outcome | None = None,
    failure: RunFailure | None = None,
) -> Run | None:
    """The finished run, with its event in the outbox; None if fence or state have moved on."""
    row = await connection.fetchrow(
        *QUERIES["finish"](
            run_id=run_id,
            fence=fence,
            from_state=from_state.value,
            to_state=to_state.value,
            **outcome_columns(outcome),
            **failure_columns(failure),
        )
    )
    if row is None:
        return None
    run = run_of(row)
    await count_datasets(connection, run, outcome)
    await _end_attempt(connection, run, to_state.value, failure)
    event = completion_event(run)
    await connection.execute(
        *QUERIES["add_event"](
            event_id=event.event_id,
            run_id=event.run_id,
            type=event.type,
            key=event.key,
            headers=orjson.dumps(dict(event.headers)).decode(),
            value=event.value,
        )
    )
    return run


async def count_datasets(connection: asyncpg.Connection, run: Run, outcome: Outcome | None) -> None:
    """Note what an attempt measured of each dataset, unless it is a dry run's."""
    if outcome is None or not outcome.datasets or run.dry_run:
        return
    counted = QUERIES["count_datasets"](run_id=run.run_id, agency_id=run.agency_id, **dataset_columns(outcome))
    await connection.execute(*counted)


async def finish_claimed(
    connection: asyncpg.Connection,
    claim: Claim,
    from_state: RunState,
    to_state: RunState,
    *,
    outcome: Outcome | None = None,
    failure: RunFailure | None = None,
) -> Run:
    """The same for whoever holds the run. Raises Superseded."""
    run = await finish(
        connection, claim.run.run_id, claim.fence, from_state, to_state, outcome=outcome, failure=failure
    )
    return run or await done_before(connection, claim, to_state)


async def let_go(
    connection: asyncpg.Connection,
    query: str,
    claim: Claim,
    to_state: RunState,
    attempt_outcome: str | None = None,
    failure: RunFailure | None = None,
    **values: Any,
) -> Run:
    """The run after a write that gives it up for somebody else to claim. Raises Superseded."""
    row = await connection.fetchrow(*QUERIES[query](run_id=claim.run.run_id, fence=claim.fence, **values))
    if row is None:
        return await done_before(connection, claim, to_state)
    run = run_of(row)
    if attempt_outcome is not None:
        await _end_attempt(connection, run, attempt_outcome, failure)
    return run


async def _end_attempt(connection: asyncpg.Connection, run: Run, outcome: str, failure: RunFailure | None) -> None:
    await connection.execute(
        *QUERIES["end_attempt"](
            run_id=run.run_id,
            attempt=run.attempt,
            outcome=outcome,
            error_kind=failure and failure.kind,
            error_message=failure and failure.message,
        )
    )


def of_the_history(error: PipelineError, schema: str) -> PipelineError:
    """A query's error as the history's: these queries are ours, so no job config can be wrong about them."""
    cause = error.__cause__
    sqlstate = getattr(cause, "sqlstate", None)
    if isinstance(error, SourceBusy | StandbyConflict) or sqlstate == "57014":
        return HistoryUnavailable(str(error))
    if sqlstate == "25006":
        return HistoryUnavailable(f"{error} The history needs a primary: is PIPELINE_HISTORY__DSN that of a standby?")
    if cause is not None and ((sqlstate or "")[:2] in _DATA or is_invalid_value(cause)):
        return DataRefused(cause)
    if isinstance(error, QueryInvalid):
        return HistoryOutdated(schema, cause=cause_of(cause) if cause is not None else None)
    return InternalError(cause or error)
