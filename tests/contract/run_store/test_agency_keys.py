"""Agencies whose keys are texts take turns, and are told apart, as those with integers are."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline_processing.agency_keys import number_of
from pipeline_processing.model import Counts, DatasetCounts, RunState
from pipeline_processing.runs.run_filter import RunFilter
from pipeline_processing.runs.store import Outcome, RunStore
from tests.contract.run_store.conftest import Backend, PostgresBackend
from tests.contract.run_store.helpers import (
    FAILURE,
    PLAN,
    accepted,
    claimed,
    events,
    finished,
    nothing_to_claim,
    standing,
)

NOON = datetime(2026, 1, 18, 12, tzinfo=UTC)
UUID = "018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5"
RECORDS = DatasetCounts(name="records", rows_read=1, rows_written=1)
KEYS = (UUID, "acme/eu", "Zürich 1", "007")


async def listed(runs: RunStore, agency_id: int | str) -> list[str]:
    return [run.run_id for run in await runs.history.newest(RunFilter(agency_id=agency_id))]


async def test_a_run_has_its_agencys_key(backend: Backend) -> None:
    """In the history, the request and the event, as it was sent."""
    for key in KEYS:
        run_id = f"r-{KEYS.index(key)}"
        ended = await finished(backend.runs, run_id, agency_id=key)
        stored = await standing(backend.runs, run_id)
        [(_, event)] = await events(backend, run_id)

        assert (ended.agency_id, stored.agency_id, stored.request.agency_id, event.agency_id) == (key,) * 4
        assert await listed(backend.runs, key) == [run_id]


async def test_agencies_with_texts_take_turns(runs: RunStore) -> None:
    """One with many runs delays another by one run, and has no more runs at once than the limit."""
    for run_id in ("a-1", "a-2", "a-3"):
        await accepted(runs, run_id, agency_id="acme")
    await accepted(runs, "b-1", agency_id="other")
    await accepted(runs, "n-1", agency_id=7)

    order = [(await claimed(runs, at_most=1)).run.run_id for _ in range(3)]

    assert order == ["a-1", "b-1", "n-1"]
    assert await nothing_to_claim(runs, at_most=1)
    assert (await claimed(runs, at_most=2)).run.run_id == "a-2"


async def test_digits_are_the_same_agency_as_the_integer(runs: RunStore) -> None:
    """Whoever turns integers into texts keeps the agencies' histories; other spellings are other agencies."""
    await accepted(runs, "integer", agency_id=7)
    await accepted(runs, "text", agency_id="7")
    await accepted(runs, "padded", agency_id="07")

    assert await listed(runs, 7) == await listed(runs, "7") == ["text", "integer"]
    assert await listed(runs, "07") == ["padded"]
    assert [(await standing(runs, each)).agency_id for each in ("integer", "text", "padded")] == [7, "7", "07"]


async def test_the_last_success_is_the_agencys_own(runs: RunStore) -> None:
    """The next run of another agency must not start where this one has ended."""
    await accepted(runs, "r", agency_id="acme")
    claim = await claimed(runs, "r")
    counts = Counts(rows_read=1, rows_written=1)
    await runs.attempts.prepare(claim, PLAN, Outcome(counts=counts, datasets=(RECORDS,), covered_until=NOON))
    await runs.attempts.succeed(claim)

    last = await runs.history.last_success("acme", "records")
    assert last is not None
    assert last.run_id == "r"
    assert await runs.history.last_success("Acme", "records") is None


async def test_a_failed_run_counts_its_datasets(runs: RunStore) -> None:
    """Such as one that `expect` refuses: it ends like that of any other agency."""
    await accepted(runs, "r", agency_id="acme")

    run = await runs.attempts.fail(await claimed(runs, "r"), FAILURE, outcome=Outcome(datasets=(RECORDS,)))

    assert (run.state, run.agency_id) == (RunState.FAILED, "acme")
    assert await runs.history.datasets("r") == [RECORDS]


async def test_two_keys_with_one_number_are_told_apart(
    shared_postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share their turns at worst: lists compare the keys themselves."""
    for module in ("intake", "reads", "rows"):
        monkeypatch.setattr(f"pipeline_processing.history.postgres.{module}.number_of", lambda _: -5)
    runs = shared_postgres.runs
    await accepted(runs, "one", agency_id="acme")
    await accepted(runs, "other", agency_id="globex")

    assert (await listed(runs, "acme"), await listed(runs, "globex")) == (["one"], ["other"])
    assert (await claimed(runs, at_most=1)).run.run_id == "one"
    assert await nothing_to_claim(runs, at_most=1)


async def test_sql_reads_the_key_beside_the_number(shared_postgres: PostgresBackend) -> None:
    """`agency_id` stays a bigint for everybody; `agency_key` is null for integers."""
    await accepted(shared_postgres.runs, "integer", agency_id=7)
    await accepted(shared_postgres.runs, "text", agency_id="acme")

    async with shared_postgres.database.connection() as connection:
        rows = await connection.fetch("SELECT agency_id, agency_key FROM runs ORDER BY run_id")

    assert [tuple(row) for row in rows] == [(7, None), (number_of("acme"), "acme")]
