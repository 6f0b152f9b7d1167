"""What the board reads, from the real run table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from pipeline_processing.history.postgres.board import QUERIES, PostgresBoard
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.model import RunState
from pipeline_processing.plan import Plan
from pipeline_processing.runs.board_reads import BoardReads, Waiting
from pipeline_processing.runs.store import RunStore
from tests.bench.board_history import fill
from tests.contract.run_store.conftest import PostgresBackend
from tests.contract.run_store.helpers import FAILURE, OUTCOME, PLAN, accepted, claimed, prepared

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def runs(shared_postgres: PostgresBackend) -> RunStore:
    return shared_postgres.runs


@pytest.fixture
def board(shared_postgres: PostgresBackend) -> BoardReads:
    schema = shared_postgres.database.search_path
    assert schema is not None
    return PostgresBoard(HistoryDatabase(shared_postgres.database, schema=schema))


async def failed(runs: RunStore, run_id: str, **request: Any) -> None:
    await accepted(runs, run_id, **request)
    await runs.attempts.fail(await claimed(runs, run_id), FAILURE)


async def succeeded(runs: RunStore, run_id: str, *, plan: Plan = PLAN, **request: Any) -> None:
    await accepted(runs, run_id, **request)
    claim = await claimed(runs, run_id)
    await runs.attempts.prepare(claim, plan, OUTCOME)
    await runs.attempts.succeed(claim)


async def test_an_empty_history(board: BoardReads) -> None:
    state = await board.queue_state()
    assert (state.queued, state.running, state.prepared, state.retrying, state.outbox_unsent) == (0, 0, 0, 0, 0)
    assert (state.oldest_waiting, state.oldest_unsent_at) == (None, None)
    assert await board.story("none") is None
    assert await board.failures(window=DAY) == []
    assert len((await board.throughput(window=HOUR, width=timedelta(minutes=1))).buckets) == 60


async def test_the_state_of_the_queue(board: BoardReads, runs: RunStore, shared_postgres: PostgresBackend) -> None:
    """Runs by state. What waits longest is due: neither a retry's pause nor a `not_before` counts as waiting."""
    later = datetime.now(UTC) + HOUR
    await accepted(runs, "later", agency_id=1, not_before=later)
    await accepted(runs, "retried", agency_id=2)
    await runs.attempts.retry(await claimed(runs, "retried"), FAILURE, delay=HOUR)
    first = await accepted(runs, "first", agency_id=3)
    await accepted(runs, "second", agency_id=3)
    await prepared(runs, "decided", agency_id=4)
    await accepted(runs, "working", agency_id=5)
    await claimed(runs, "working")
    await failed(runs, "failed", agency_id=6)

    state = await board.queue_state()

    assert (state.queued, state.running, state.prepared, state.retrying) == (4, 1, 1, 1)
    assert state.agencies_waiting == 3
    assert state.oldest_waiting == Waiting("first", 3, first.queued_at)
    assert state.finished == {RunState.SUCCEEDED: 0, RunState.FAILED: 1, RunState.CANCELLED: 0}
    assert state.outbox_unsent == 1
    assert state.oldest_unsent_at is not None
    assert abs((state.now - datetime.now(UTC)).total_seconds()) < 5


async def test_every_change_is_found(board: BoardReads, runs: RunStore) -> None:
    """Held runs, new ones, finished ones, and those that were held before."""
    await accepted(runs, "old", agency_id=1)
    await accepted(runs, "held", agency_id=2)
    await claimed(runs, "held")
    await accepted(runs, "watched", agency_id=3)
    await accepted(runs, "cancelled", agency_id=4)
    since = await runs.queue.now()
    await accepted(runs, "new", agency_id=5)
    await runs.queue.cancel("cancelled")

    found = await board.changes(since=since, watched=["watched", "unknown"], limit=10)

    assert {run.run_id for run in found.runs} == {"held", "watched", "new", "cancelled"}
    assert found.complete
    for number in range(3):
        await accepted(runs, f"new-{number}", agency_id=6)
    assert not (await board.changes(since=since, watched=[], limit=3)).complete


async def test_a_run_in_full(board: BoardReads, runs: RunStore) -> None:
    """Its artifacts are those of its plan, which they outlive, without their content."""
    several = PLAN.model_copy(
        update={
            "artifacts": (
                PLAN.artifacts[2].model_copy(update={"destination": "file:///x", "rejected": True}),
                *PLAN.artifacts[:2],
            )
        }
    )
    await accepted(runs, "r")
    claim = await claimed(runs, "r")
    assert (await board.story("r")).artifacts == []  # type: ignore[union-attr]
    await runs.attempts.prepare(claim, several, OUTCOME)
    decided = await board.story("r")
    await runs.attempts.succeed(claim)
    await accepted(runs, "again", replay_of="r")
    done = await board.story("r")

    assert decided is not None
    assert done is not None
    assert done.artifacts == decided.artifacts
    assert [(each.destination, each.key, each.rejected) for each in done.artifacts] == [
        ("file:///x", "small", True),
        ("s3://exports", "large", False),
        ("s3://exports", "file", False),
    ]
    assert "AA==" not in repr(done.artifacts)
    assert (done.run.state, [each.outcome for each in done.attempts]) == ("succeeded", ["succeeded"])
    assert [(event.type, event.sent_at) for event in done.events] == [("agency.run.succeeded", None)]
    assert [replay.run_id for replay in done.replays] == ["again"]


async def test_durations_and_medians(board: BoardReads, runs: RunStore, shared_postgres: PostgresBackend) -> None:
    """Of the last finished runs of each agency, oldest first. Failed ones count as finished, but not as typical."""
    for number in range(3):
        await succeeded(runs, f"r{number}", agency_id=7)
        await shared_postgres.execute("UPDATE runs SET duration_ms = $1 WHERE run_id = $2", number * 10, f"r{number}")
    await failed(runs, "f", agency_id=7)
    await failed(runs, "g", agency_id=8)

    durations = await board.durations([7, 8, 9], limit=3)

    assert {agency: [run.run_id for run in found] for agency, found in durations.items()} == {
        7: ["r1", "r2", "f"],
        8: ["g"],
    }
    typical = await board.typical([7, 8, 9])
    assert set(typical) == {7}
    assert (typical[7].runs, typical[7].duration_ms, typical[7].rows_read) == (3, 10, OUTCOME.counts.rows_read)


async def test_failures_by_kind(board: BoardReads, runs: RunStore, shared_postgres: PostgresBackend) -> None:
    """The largest group first, with its newest message."""
    for number in range(3):
        await failed(runs, f"f{number}", agency_id=7 + number % 2)
    await failed(runs, "other", agency_id=9)
    await failed(runs, "long-ago", agency_id=9)
    await shared_postgres.execute("UPDATE runs SET error_kind = 'step_failed' WHERE run_id = 'other'")
    await shared_postgres.execute("UPDATE runs SET error_message = 'newest' WHERE run_id = 'f2'")
    await shared_postgres.execute("UPDATE runs SET finished_at = now() - interval '2 h' WHERE run_id = 'long-ago'")
    await accepted(runs, "again", replay_of="f1")

    first, second = await board.failures(window=HOUR)

    assert (first.error_kind, first.count, first.replayed, first.agencies) == (FAILURE.kind, 3, 1, 2)
    assert (first.run_ids, first.agency_ids, first.last_message) == (["f2", "f1", "f0"], [7, 8], "newest")
    assert (second.error_kind, second.count, second.run_ids) == ("step_failed", 1, ["other"])


async def test_throughput(board: BoardReads, runs: RunStore, shared_postgres: PostgresBackend) -> None:
    """By the time when runs finished. The last bucket is the current one; percentiles are of successful runs."""
    for number in range(5):
        await succeeded(runs, f"r{number}")
        await shared_postgres.execute("UPDATE runs SET duration_ms = $1 WHERE run_id = $2", number * 100, f"r{number}")
    await failed(runs, "f")
    await shared_postgres.execute("UPDATE runs SET finished_at = now() - interval '30 min' WHERE run_id = 'r4'")

    found = (await board.throughput(window=HOUR, width=timedelta(minutes=5))).buckets

    assert len(found) == 12
    assert {found[n + 1].at - found[n].at for n in range(11)} == {timedelta(minutes=5)}
    assert sum(bucket.succeeded for bucket in found) == 5
    assert (sum(bucket.failed for bucket in found), sum(bucket.cancelled for bucket in found)) == (1, 0)
    assert sum(bucket.rows for bucket in found) == 5 * OUTCOME.counts.rows_written
    earlier = next(bucket for bucket in found if bucket.succeeded == 1)
    assert (earlier.p50_ms, earlier.p95_ms) == (400, 400)


async def test_a_long_history_is_read_by_index(
    database: str, shared_schema: str, board: BoardReads, shared_postgres: PostgresBackend
) -> None:
    """What is asked every second reads no whole table, in a history of many runs."""
    connection = await asyncpg.connect(database)
    try:
        await fill(connection, runs=20_000, schema=shared_schema)
        for name, values in (
            ("queue_state", {}),
            ("changes", {"since": datetime.now(UTC), "watched": ["run-0000001"], "limit": 500}),
        ):
            sql, *arguments = QUERIES[name](**values)
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *arguments))
            assert "Seq Scan on runs" not in plan, plan
    finally:
        await connection.close()
    state = await board.queue_state()
    assert (state.queued, state.running, state.prepared) == (200, 10, 2)


async def test_renewing_a_lease_touches_no_index(shared_postgres: PostgresBackend) -> None:
    """No index has the one column that changes."""
    async with shared_postgres.database.connection() as connection:
        indexes = await connection.fetch(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 AND tablename = 'runs'",
            shared_postgres.database.search_path,
        )
    assert len(indexes) > 10
    assert not [row["indexdef"] for row in indexes if "lease_expires_at" in row["indexdef"]]


async def test_agencies_with_texts_for_keys(board: BoardReads, runs: RunStore) -> None:
    """The board shows and finds them by their keys, also where another key has the same digits."""
    await failed(runs, "failed", agency_id="acme")
    await succeeded(runs, "ended", agency_id="acme")
    first = await accepted(runs, "first", agency_id="07")

    assert (await board.queue_state()).oldest_waiting == Waiting("first", "07", first.queued_at)
    assert (await board.failures(window=DAY))[0].agency_ids == ["acme"]
    assert [run.run_id for run in (await board.durations(["acme", 7], limit=9))["acme"]] == ["failed", "ended"]
    assert list(await board.typical(["acme", "07", 7])) == ["acme"]
