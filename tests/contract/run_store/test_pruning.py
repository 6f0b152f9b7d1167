"""Pruned runs are gone from the history, but their ids stay taken and their events can be sent again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.errors import ConflictingRequest, HistoryUnavailable
from pipeline_processing.model import Run, RunState
from pipeline_processing.runs.deliveries import Tried
from pipeline_processing.runs.pruning import Kept, Pruned, prune
from pipeline_processing.runs.store import RunStore
from tests.contract.run_store.conftest import Backend, PostgresBackend
from tests.contract.run_store.helpers import (
    FAILURE,
    accepted,
    claimed,
    finished,
    incoming,
    message,
    prepared,
    standing,
)
from tests.contract.run_store.test_clean_up import UNRECORDED
from tests.contract.run_store.test_datasets import EVENTS, NOON, RECORDS, outcome, succeeded
from tests.contract.run_store.test_outbox import Broker

EVER = datetime(9000, 1, 1, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


async def announced(runs: RunStore) -> list[str]:
    """Send all unsent events, and return their ids."""
    broker = Broker()
    while await runs.outbox.announce(broker.send, limit=100):
        pass
    return broker.ids


async def pruned(runs: RunStore, before: datetime = EVER, *, dry_run: bool = False, batch: int = 2) -> Pruned:
    return await prune(runs.pruning, before, clock=SystemClock(), dry_run=dry_run, batch=batch)


async def listed(runs: RunStore) -> list[str]:
    return [run.run_id for run in await runs.history.newest()]


async def old(runs: RunStore, run_id: str = "r", **request: Any) -> Run:
    """A run that has failed, whose event is sent."""
    run = await finished(runs, run_id, **request)
    await announced(runs)
    return run


# -- what goes -----------------------------------------------------------------------------------


async def test_runs_that_finished_before_a_time_are_pruned(backend: Backend) -> None:
    """In several batches; those that finished later stay, as do those that haven't finished."""
    runs, times = backend.runs, []
    for number in range(5):
        times.append((await old(runs, f"r-{number}")).finished_at)
        await backend.age(f"r-{number}", 1)
    assert times[3] is not None
    await accepted(runs, "waiting")

    assert await pruned(runs, times[3]) == Pruned(3, kept=Counter())
    assert await listed(runs) == ["waiting", "r-4", "r-3"]
    assert await pruned(runs, times[3]) == Pruned(0, kept=Counter())


async def test_a_dry_run_only_counts(backend: Backend) -> None:
    for number in range(3):
        await old(backend.runs, f"r-{number}")
    before = await backend.everything()

    assert await pruned(backend.runs, dry_run=True) == Pruned(3, kept=Counter())
    assert await backend.everything() == before


async def test_details_of_a_pruned_run_go(runs: RunStore) -> None:
    """Attempts, counts of datasets, and deliveries to webhooks."""
    await runs.deliveries.configure({"hook": {"failed", "succeeded"}})
    await succeeded(runs, "r", RECORDS)
    await succeeded(runs, "later", RECORDS, covered_until=LATER)
    await announced(runs)
    for delivery in await runs.deliveries.claim("hook", limit=9, lease=timedelta(minutes=1)):
        await runs.deliveries.record(delivery, Tried(status=200, error=None))

    assert await pruned(runs) == Pruned(1, kept=Counter({Kept.LAST_SUCCESS: 1}))

    assert await runs.history.attempts("r") == []
    assert await runs.history.datasets("r") == []
    assert await runs.deliveries.of_run("r") == []
    assert await runs.deliveries.of_run("later") != []


# -- what stays ----------------------------------------------------------------------------------


async def test_a_run_whose_event_is_not_sent_is_kept(runs: RunStore) -> None:
    await finished(runs)
    assert await pruned(runs) == Pruned(0, kept=Counter({Kept.UNSENT: 1}))


async def test_a_run_whose_event_is_on_its_way_to_a_webhook_is_kept(runs: RunStore) -> None:
    await runs.deliveries.configure({"hook": {"failed"}})
    await old(runs)
    assert await pruned(runs) == Pruned(0, kept=Counter({Kept.UNDELIVERED: 1}))


async def test_a_run_with_leftovers_is_kept_until_they_are_removed(runs: RunStore) -> None:
    """Of uploads as of a failed plan: nothing else knows of them."""
    claim = await prepared(runs)
    await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)
    await announced(runs)
    assert await pruned(runs) == Pruned(0, kept=Counter({Kept.LEFTOVERS: 1}))

    await runs.leftovers.forget_uploads("r", await runs.leftovers.lost_uploads("r"))
    assert await pruned(runs) == Pruned(0, kept=Counter({Kept.LEFTOVERS: 1}))

    await runs.leftovers.forget_failed_plan("r")
    assert await pruned(runs) == Pruned(1, kept=Counter())


async def test_the_last_success_of_each_dataset_is_kept(runs: RunStore) -> None:
    """Incremental exports go on from it."""
    await succeeded(runs, "both")
    await succeeded(runs, "events", EVENTS, covered_until=LATER)
    await succeeded(runs, "records", RECORDS, covered_until=LATER)
    await succeeded(runs, "another-agency", RECORDS, agency_id=8)
    await announced(runs)

    assert await pruned(runs) == Pruned(1, kept=Counter({Kept.LAST_SUCCESS: 3}))
    last = await runs.history.last_success(7, "records")
    assert last is not None
    assert last.run_id == "records"


async def test_failures_after_the_last_success_do_not_count(runs: RunStore) -> None:
    """Although they cover later times."""
    await succeeded(runs, "success")
    await accepted(runs, "failure")
    claim = await claimed(runs, "failure")
    await runs.attempts.fail(claim, FAILURE, outcome=outcome(EVENTS, RECORDS, covered_until=LATER))
    await announced(runs)

    assert await pruned(runs) == Pruned(1, kept=Counter({Kept.LAST_SUCCESS: 1}))
    assert await listed(runs) == ["success"]


# -- what is left --------------------------------------------------------------------------------


async def test_a_pruned_run_is_still_known_by_its_id(runs: RunStore) -> None:
    """As it was, but for its timings; a command that names it gets its result."""
    run = await old(runs)
    await pruned(runs)

    assert await standing(runs) == run.model_copy(update={"timings": None})
    assert (await runs.history.get_all(["r", "unknown"])).keys() == {"r"}
    assert await runs.queue.cancel("r") == await standing(runs)


async def test_the_id_of_a_pruned_run_stays_taken(runs: RunStore) -> None:
    """The same request gets the finished run, another one is refused, and nothing is queued."""
    await old(runs)
    await pruned(runs)

    assert (await accepted(runs)).state is RunState.FAILED
    with pytest.raises(ConflictingRequest):
        await accepted(runs, agency_id=8)
    assert await listed(runs) == []


async def test_a_pruned_replay_still_counts(runs: RunStore) -> None:
    """Or `replay --failed` would request the failed run once more."""
    await old(runs, "r")
    await old(runs, "r.r1", replay_of="r")
    await pruned(runs)

    assert await runs.history.replays(["r", "r.r1"]) == {"r": 1}


async def test_a_message_that_asks_for_a_pruned_run_gets_its_event_again(backend: Backend) -> None:
    """With the same id and content, as often as it asks."""
    runs = backend.runs
    await runs.intake.accept(message())
    await runs.attempts.fail(await claimed(runs), FAILURE)
    assert await announced(runs) == ["r:failed"]
    before = await backend.outbox("r")
    await pruned(runs)

    for _ in range(2):
        await runs.intake.accept_all([message(), incoming("other")])
        assert (await runs.queue.backlog()).unsent == 1
        assert await announced(runs) == ["r:failed"]
    assert await backend.outbox("r") == before
    assert await announced(runs) == []


async def test_an_event_that_is_asked_for_while_it_is_sent_again_is_sent_once_more(runs: RunStore) -> None:
    """As for a run that wasn't pruned."""
    await old(runs)
    await pruned(runs)
    await runs.intake.accept(message())

    async def asked_meanwhile(_: object) -> None:
        await runs.intake.accept(message(offset=1))

    await runs.outbox.announce(asked_meanwhile, limit=1)
    assert await announced(runs) == ["r:failed"]


async def test_an_unrecorded_upload_of_a_pruned_run_is_lost(runs: RunStore) -> None:
    await old(runs)
    await pruned(runs)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == [UNRECORDED]


# -- at once -------------------------------------------------------------------------------------


async def test_a_request_that_comes_during_the_pruning_makes_no_second_run(shared_postgres: PostgresBackend) -> None:
    """It waits for the pruning, and then sees the tombstone."""
    runs = shared_postgres.runs
    await old(runs)
    async with shared_postgres.database.connection() as pruning, pruning.transaction():
        await pruning.execute("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE")
        asking = asyncio.create_task(runs.intake.accept(message()))
        await _waiting_for_a_lock(shared_postgres)
        await pruning.execute(
            "WITH gone AS (DELETE FROM run_attempts), pruned AS (DELETE FROM runs RETURNING runs.*) "
            "INSERT INTO tombstones (run_id, run) SELECT run_id, to_jsonb(pruned) FROM pruned"
        )
    assert (await asking).state is RunState.FAILED
    assert await listed(runs) == []


async def test_a_delivery_that_is_made_due_again_during_the_pruning_is_kept(shared_postgres: PostgresBackend) -> None:
    """The person who asked for it was told that it will be sent."""
    runs = shared_postgres.runs
    await runs.deliveries.configure({"hook": {"failed"}})
    await old(runs)
    for delivery in await runs.deliveries.claim("hook", limit=9, lease=timedelta(minutes=1)):
        await runs.deliveries.record(delivery, Tried(status=200, error=None))
    async with shared_postgres.database.connection() as connection, connection.transaction():
        await connection.execute(
            "UPDATE webhook_deliveries SET state = 'pending', next_at = now(), delivered_at = NULL"
        )
        pruning = asyncio.create_task(pruned(runs))
        await _waiting_for_a_lock(shared_postgres)
    assert await pruning == Pruned(1, kept=Counter())
    [due] = await runs.deliveries.claim("hook", limit=9, lease=timedelta(minutes=1))
    assert due.event.event_id == "r:failed"


async def test_a_table_that_stays_busy_is_told(
    shared_postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pruning doesn't keep writers waiting behind it for long."""
    monkeypatch.setattr("pipeline_processing.history.postgres.pruning._WAIT_MILLISECONDS", 10)
    await old(shared_postgres.runs)
    async with shared_postgres.database.connection() as busy, busy.transaction():
        await busy.execute("LOCK TABLE runs IN ROW EXCLUSIVE MODE")
        with pytest.raises(HistoryUnavailable, match="lock"):
            await shared_postgres.runs.pruning.prune(EVER, after=None, limit=1)


async def _waiting_for_a_lock(backend: PostgresBackend) -> None:
    async with asyncio.timeout(10), backend.database.connection() as connection:
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        while not await connection.fetchval(waiting):  # noqa: ASYNC110 - Postgres doesn't tell
            await asyncio.sleep(0.01)
