"""What runs did of each dataset, and which of them an export may go on from."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.errors import Superseded
from pipeline_processing.history.postgres.reads import QUERIES
from pipeline_processing.model import DatasetCounts, DatasetSchema, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.store import Outcome, RunStore
from tests.contract.run_store.conftest import Backend, PostgresBackend
from tests.contract.run_store.helpers import FAILURE, OUTCOME, PLAN, accepted, claimed, taken_over

NOON = datetime(2026, 1, 18, 12, tzinfo=UTC)
RECORDS = DatasetCounts(name="records", rows_read=10, rows_written=7, rows_filtered=2, rows_rejected=1)
EVENTS = DatasetCounts(name="events", rows_read=3, rows_written=3)


def outcome(*datasets: DatasetCounts, covered_until: datetime | None = NOON) -> Outcome:
    return replace(OUTCOME, datasets=datasets or (RECORDS, EVENTS), covered_until=covered_until)


async def succeeded(
    runs: RunStore, run_id: str = "r", *datasets: DatasetCounts, covered_until: datetime | None = NOON, **request: Any
) -> None:
    await accepted(runs, run_id, **request)
    claim = await claimed(runs, run_id)
    await runs.attempts.prepare(claim, PLAN, outcome(*datasets, covered_until=covered_until))
    await runs.attempts.succeed(claim)


# -- counts --------------------------------------------------------------------------------------


async def test_a_decided_runs_datasets_are_told_in_their_order(runs: RunStore) -> None:
    """From the decision on, and for good; before it nothing is known."""
    await accepted(runs)
    claim = await claimed(runs)
    assert await runs.history.datasets("r") == []

    await runs.attempts.prepare(claim, PLAN, outcome())
    assert await runs.history.datasets("r") == [RECORDS, EVENTS]

    await runs.attempts.succeed(claim)
    assert await runs.history.datasets("r") == [RECORDS, EVENTS]
    assert await runs.history.datasets("another") == []


async def test_preparing_again_counts_nothing_twice(backend: Backend) -> None:
    """A repetition after a lost reply changes nothing, whatever it says."""
    await accepted(backend.runs)
    claim = await claimed(backend.runs)
    await backend.runs.attempts.prepare(claim, PLAN, outcome())
    before = await backend.everything()

    await backend.runs.attempts.prepare(claim, PLAN, outcome(EVENTS, covered_until=None))

    assert await backend.everything() == before


async def test_a_superseded_worker_counts_nothing(backend: Backend) -> None:
    """Neither its counts nor its time replace what the next one will write."""
    await accepted(backend.runs)
    old = await claimed(backend.runs)
    new = await taken_over(backend, old)

    with pytest.raises(Superseded):
        await backend.runs.attempts.prepare(old, PLAN, outcome())
    assert await backend.runs.history.datasets("r") == []

    await backend.runs.attempts.prepare(new, PLAN, outcome(EVENTS))
    assert await backend.runs.history.datasets("r") == [EVENTS]


async def test_a_void_plan_takes_its_counts_along(backend: Backend) -> None:
    """The next attempt's take their place, also where the job config names other datasets by then."""
    runs = backend.runs
    await accepted(runs)
    claim = await claimed(runs)
    await runs.attempts.prepare(claim, PLAN, outcome())

    await runs.attempts.void_plan(claim)
    assert await runs.history.datasets("r") == []

    again = await claimed(runs)
    await runs.attempts.prepare(again, PLAN, outcome(EVENTS, covered_until=NOON + timedelta(hours=1)))
    await runs.attempts.succeed(again)
    assert await runs.history.datasets("r") == [EVENTS]
    assert await runs.history.last_success(7, "records") is None
    last = await runs.history.last_success(7, "events")
    assert last is not None
    assert last.covered_until == NOON + timedelta(hours=1)


async def test_a_failed_runs_datasets_are_told_as_far_as_it_got(runs: RunStore) -> None:
    """With what it measured before it failed."""
    await accepted(runs)
    claim = await claimed(runs)

    await runs.attempts.fail(claim, FAILURE, outcome=outcome(EVENTS, covered_until=None))

    assert await runs.history.datasets("r") == [EVENTS]


@pytest.mark.parametrize("end", ["succeed", "fail"])
async def test_a_dry_runs_datasets_are_not_kept(runs: RunStore, end: str) -> None:
    """It exports nothing; its totals are in the run."""
    await accepted(runs, dry_run=True)
    claim = await claimed(runs)

    run = (
        await runs.attempts.succeed(claim, outcome())
        if end == "succeed"
        else await runs.attempts.fail(claim, FAILURE, outcome=outcome())
    )

    assert run.rows_read == 10
    assert await runs.history.datasets("r") == []
    assert await runs.history.last_success(7, "records") is None


# -- the last success ----------------------------------------------------------------------------


async def test_the_last_success_has_its_schema(runs: RunStore) -> None:
    """That of its own dataset, if it was known."""
    await accepted(runs)
    claim = await claimed(runs)
    schema = DatasetSchema.of([("id", "integer"), ("naïve", None)])
    await runs.attempts.prepare(claim, PLAN, replace(outcome(), schemas={"events": schema}))
    await runs.attempts.succeed(claim)

    records, events = [await runs.history.last_success(7, name) for name in ("records", "events")]
    assert records is not None
    assert events is not None
    assert (records.schema, events.schema) == (None, schema)


async def test_the_last_success_is_that_of_the_dataset(runs: RunStore) -> None:
    """With its run, how far it covers, and its counts; a run may be of some of the datasets only."""
    await succeeded(runs, "both")
    await succeeded(runs, "later", RECORDS, covered_until=NOON + timedelta(hours=1))

    assert await runs.history.last_success(7, "records") == LastSuccess("later", NOON + timedelta(hours=1), RECORDS)
    assert await runs.history.last_success(7, "events") == LastSuccess("both", NOON, EVENTS)
    assert await runs.history.last_success(7, "unheard_of") is None


async def test_what_covers_most_counts_not_what_finished_last(runs: RunStore) -> None:
    """An older time span that is exported once more doesn't set the next run back."""
    await succeeded(runs, "new", covered_until=NOON)
    await succeeded(runs, "old", covered_until=NOON - timedelta(days=30))

    last = await runs.history.last_success(7, "records")

    assert last is not None
    assert (last.run_id, last.covered_until) == ("new", NOON)


async def test_of_several_that_cover_the_same_the_newest_counts(backend: Backend) -> None:
    """Its counts are those to compare with."""
    more = RECORDS.model_copy(update={"rows_read": 11, "rows_written": 8})
    await succeeded(backend.runs, "z", RECORDS)
    await backend.age("z", 1)  # in memory, time passes only so
    await succeeded(backend.runs, "a", more)

    assert await backend.runs.history.last_success(7, "records") == LastSuccess("a", NOON, more)


async def test_agencies_are_kept_apart(runs: RunStore) -> None:
    """Another agency's success says nothing about this one's."""
    await succeeded(runs, agency_id=8)

    assert await runs.history.last_success(7, "records") is None
    assert await runs.history.last_success(8, "records") is not None


@pytest.mark.parametrize("end", ["prepared", "failed", "failed after its decision", "cancelled", "voided"])
async def test_only_a_success_counts(backend: Backend, end: str) -> None:
    """Whatever a run measured that didn't succeed, or not yet."""
    runs = backend.runs
    await succeeded(runs, "before", covered_until=NOON - timedelta(hours=1))
    await accepted(runs)
    claim = await claimed(runs)
    if end == "failed":
        await runs.attempts.fail(claim, FAILURE, outcome=outcome())
    elif end == "cancelled":
        await runs.queue.cancel("r")
    else:
        await runs.attempts.prepare(claim, PLAN, outcome())
    if end == "failed after its decision":
        await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)
    elif end == "voided":
        await runs.attempts.void_plan(claim)

    last = await runs.history.last_success(7, "records")

    assert last is not None
    assert last.run_id == "before"


async def test_a_run_that_covers_no_time_is_none_to_go_on_from(runs: RunStore) -> None:
    """Its counts are told all the same."""
    await succeeded(runs, covered_until=None)

    assert await runs.history.last_success(7, "records") is None
    assert await runs.history.datasets("r") == [RECORDS, EVENTS]


# -- on Postgres ---------------------------------------------------------------------------------

LONG_HISTORY = """
INSERT INTO agencies SELECT g FROM generate_series(1, 100) g;
INSERT INTO runs (run_id, job, agency_id, state, request, dry_run, request_hash, priority, started_at, finished_at)
SELECT 'run-' || g, 'agency_data_job', 1 + g % 100, 'succeeded', '{"agency_id": 1}', false, '', 0, now(), now()
FROM generate_series(1, 20000) g;
INSERT INTO run_datasets
SELECT 'run-' || g, dataset, 1 + g % 100, 1, 1, 1, 0, 0, timestamptz '2026-01-01Z' + make_interval(mins => g)
FROM generate_series(1, 20000) g, unnest(ARRAY['records', 'events', 'permits']) dataset;
ANALYZE runs, run_datasets;
"""


async def test_a_long_history_is_not_searched(on_postgres: PostgresBackend) -> None:
    """However many runs there are, the last success is the first that its index gives."""
    await on_postgres.execute(LONG_HISTORY)
    sql, *arguments = QUERIES["last_success"](agency_id=8, agency="8", dataset="events")
    async with on_postgres.database.connection() as connection:
        [plan] = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {sql}", *arguments))

    steps = nodes(plan["Plan"])
    assert "Seq Scan" not in {step["Node Type"] for step in steps}
    assert "run_datasets_covered" in {step.get("Index Name") for step in steps}
    assert all(step["Actual Rows"] <= 2 for step in steps)
    last = await on_postgres.runs.history.last_success(8, "events")
    assert last is not None
    assert last.run_id == "run-19907"


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's node and all below it."""
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes(below))]
