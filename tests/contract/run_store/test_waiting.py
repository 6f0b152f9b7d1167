"""What waits in the queue, and why, from the real run table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import ANY

import pytest

from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.waiting import PostgresWaiting
from pipeline_processing.runs.queue_reads import QueueReads, Reason
from pipeline_processing.runs.store import RunStore
from tests.contract.run_store.conftest import PostgresBackend
from tests.contract.run_store.helpers import FAILURE, accepted, claimed, incoming, prepared

HOUR = timedelta(hours=1)


@pytest.fixture
def runs(shared_postgres: PostgresBackend) -> RunStore:
    return shared_postgres.runs


@pytest.fixture
def queue(shared_postgres: PostgresBackend) -> QueueReads:
    schema = shared_postgres.database.search_path
    assert schema is not None
    return PostgresWaiting(HistoryDatabase(shared_postgres.database, schema=schema))


async def test_an_empty_queue(queue: QueueReads) -> None:
    assert await queue.waiting(limit=10) == []
    assert await queue.agencies() == []


async def test_places_are_the_order_in_which_runs_are_claimed(queue: QueueReads, runs: RunStore) -> None:
    """By priority, round robin over agencies, and age; that is what the queue itself does."""
    for run_id, agency_id, priority in [("a1", 1, 0), ("a2", 1, 0), ("b1", 2, 0), ("c1", 3, 5), ("a3", 1, 9)]:
        await accepted(runs, run_id, agency_id=agency_id, priority=priority)

    waiting = await queue.waiting(limit=4)

    assert [(each.place, each.run.run_id) for each in waiting] == [(1, "a3"), (2, "c1"), (3, "b1"), (4, "a1")]
    assert [(await claimed(runs)).run.run_id for _ in range(5)] == ["a3", "c1", "b1", "a1", "a2"]


async def test_why_each_run_waits(queue: QueueReads, runs: RunStore) -> None:
    """Those that aren't due, or not for every worker, have no place and come last."""
    await accepted(runs, "later", agency_id=1, not_before=datetime.now(UTC) + 2 * HOUR)
    await accepted(runs, "retried", agency_id=2)
    await runs.attempts.retry(await claimed(runs, "retried"), FAILURE, delay=HOUR)
    await runs.intake.accept(incoming("pinned", agency_id=3, config_id="ab" * 16))
    await prepared(runs, "decided", agency_id=4)
    await accepted(runs, "blocked", agency_id=4)
    await accepted(runs, "free", agency_id=5)
    await accepted(runs, "second", agency_id=5)

    waiting = {each.run.run_id: each for each in await queue.waiting(limit=10)}

    assert {run_id: each.reason(places=1) for run_id, each in waiting.items()} == {
        "free": Reason.WORKER,
        "blocked": Reason.AGENCY,
        "second": Reason.BEHIND,
        "retried": Reason.RETRY,
        "later": Reason.LATER,
        "pinned": Reason.OWN_CONFIG,
    }
    assert [each.place for each in waiting.values()][3:] == [None, None, None]
    assert [each.reason(places=1) for each in await queue.reasons(list(waiting))] == [
        *(Reason.LATER, Reason.RETRY, Reason.OWN_CONFIG, Reason.AGENCY, Reason.WORKER, Reason.BEHIND),
    ]
    assert waiting["blocked"].held == ("decided",)
    assert waiting["blocked"].reason(places=2) is Reason.WORKER
    assert waiting["second"].behind == "free"
    assert waiting["retried"].last_error == "source_unavailable"


async def test_which_run_of_the_agency_comes_before(queue: QueueReads, runs: RunStore) -> None:
    """The last of the same priority, else of the next higher one; none that isn't due or is pinned."""
    order = [("urgent", 9), ("first", 5), ("second", 5), ("third", 0)]
    for run_id, priority in sorted(order):
        await accepted(runs, run_id, priority=priority)
    await accepted(runs, "later", priority=5, not_before=datetime.now(UTC) + HOUR)
    await runs.intake.accept(incoming("pinned", priority=5, config_id="ab" * 16))
    await accepted(runs, "of-another", agency_id=8, priority=5)

    behind = {each.run.run_id: each.behind for each in await queue.waiting(limit=9)}

    assert behind == {
        "urgent": None,
        "first": "urgent",
        "second": "first",
        "third": "second",
        **dict.fromkeys(("later", "pinned", "of-another")),
    }


async def test_one_agency_or_some_runs(queue: QueueReads, runs: RunStore) -> None:
    """Their places are those among all runs. Keys of agencies may be text."""
    await accepted(runs, "a", agency_id=1)
    await accepted(runs, "b", agency_id=2)
    await runs.intake.accept(incoming("c", agency_id="north"))
    await claimed(runs, "a")

    north = await queue.waiting(limit=9, agency_id="north")
    assert [(each.run.run_id, each.place) for each in north] == [("c", 2)]
    assert await queue.reasons(["a", "c", "unknown"]) == [replace(north[0], place=None, now=ANY)]
    counts = [(each.agency_id, each.due, each.later, each.running) for each in await queue.agencies()]
    assert counts == [("north", 1, 0, 0), (2, 1, 0, 0), (1, 0, 0, 1)]
    assert [each.agency_id for each in await queue.agencies(agency_id=2)] == [2]
