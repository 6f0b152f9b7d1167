"""Runs that were lost with their worker, one of which may have been the cause."""

from __future__ import annotations

from datetime import timedelta

from pipeline_processing.runs.store import RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import (
    FAILURE,
    OUTCOME,
    PAST_THE_LEASE,
    PLAN,
    accepted,
    claimed,
)


async def lost(backend: Backend, *run_ids: str, worker: str = "w-1") -> None:
    """Runs of one worker that has died."""
    for run_id in run_ids:
        await claimed(backend.runs, run_id, worker=worker)
    for run_id in run_ids:
        await backend.age(run_id, PAST_THE_LEASE)


async def test_a_run_lost_with_its_worker_is_a_suspect_until_it_has_finished(backend: Backend) -> None:
    """Also after a retry or a hand-back. One that was never lost is none."""
    runs = backend.runs
    await accepted(runs, "r")
    first = await claimed(runs, "r")
    assert not first.suspect
    await runs.attempts.retry(first, FAILURE, delay=timedelta())
    await lost(backend, "r")

    second = await claimed(runs, "r", worker="w-2")
    await runs.attempts.retry(second, FAILURE, delay=timedelta())
    third = await claimed(runs, "r", worker="w-2")
    await runs.attempts.hand_back(third)
    fourth = await claimed(runs, "r", worker="w-2")

    assert second.suspect
    assert third.suspect
    assert fourth.suspect


async def test_what_is_lost_beside_others_counts_as_no_try_the_first_time(backend: Backend) -> None:
    """Only one of them was the cause. From then on each has a process of its own, and losing that one counts."""
    runs = backend.runs
    for run_id in ("a", "b", "c"):
        await accepted(runs, run_id)
    await lost(backend, "a", "b", "c")

    for run_id in ("a", "b", "c"):
        assert (await claimed(runs, run_id, worker="w-2")).suspect
        assert await runs.history.tries(run_id) == 1
    await backend.age("a", PAST_THE_LEASE)
    await claimed(runs, "a", worker="w-3")

    assert await runs.history.tries("a") == 2
    assert [attempt.outcome for attempt in await runs.history.attempts("a")] == ["lost", "lost", "running"]


async def test_a_run_that_was_alone_has_lost_a_try(backend: Backend) -> None:
    """Neither runs of other workers were beside it, nor those of its own that had ended before."""
    runs = backend.runs
    for run_id in ("r", "elsewhere", "ended"):
        await accepted(runs, run_id)
    await claimed(runs, "elsewhere", worker="w-2")
    await runs.attempts.fail(await claimed(runs, "ended"), FAILURE)
    await lost(backend, "r")

    await claimed(runs, "r", worker="w-3")

    assert await runs.history.tries("r") == 2


async def test_a_decided_run_is_no_suspect(backend: Backend, runs: RunStore) -> None:
    """Rolling a plan forward calls no code of a job config's."""
    await accepted(runs, "r")
    await lost(backend, "r")
    await runs.attempts.prepare(await claimed(runs, "r", worker="w-2"), PLAN, OUTCOME)
    await backend.age("r", PAST_THE_LEASE)

    assert not (await claimed(runs, "r", worker="w-3")).suspect
