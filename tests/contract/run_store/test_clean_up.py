"""What is left of attempts and plans that came to nothing is found; what somebody may still complete is not touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from pipeline_processing.model import RunState
from pipeline_processing.plan import UploadRef
from pipeline_processing.runs.store import Claim, RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import (
    FAILURE,
    LEASE,
    OUTCOME,
    PAST_THE_LEASE,
    PLAN,
    PLANNED,
    UNPLANNED,
    accepted,
    claimed,
    prepared,
    set_of,
    taken_over,
)

UNRECORDED = UploadRef(key="large", upload_id="u-9", destination="s3://exports")
LISTED = [UNRECORDED, *PLANNED, UNPLANNED]
"""As a destination lists them, which knows nothing of runs."""

# -- uploads that were found at their destination ------------------------------------------------


async def test_an_upload_that_is_not_recorded_is_lost_unless_its_run_is_at_work(backend: Backend) -> None:
    """A worker may be about to record it only while the run is `running`."""
    runs = backend.runs
    await accepted(runs)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == [UNRECORDED]
    claim = await claimed(runs)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == []
    await backend.age("r", PAST_THE_LEASE)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == []  # time alone makes none lost
    claim = await claimed(runs)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == []
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == [UNRECORDED]
    await runs.attempts.succeed(claim)
    assert await runs.leftovers.lost_of("r", [UNRECORDED]) == [UNRECORDED]


async def test_uploads_of_a_run_that_nobody_knows_are_not_lost(runs: RunStore) -> None:
    """They may be another installation's."""
    assert await runs.leftovers.lost_of("unknown", LISTED) == []


async def test_listed_uploads_are_given_back_as_they_were_listed(runs: RunStore) -> None:
    """In their order, with their destination, whatever is recorded of that; none of none."""
    await runs.queue.cancel((await accepted(runs)).run_id)

    assert await runs.leftovers.lost_of("r", LISTED) == LISTED
    assert await runs.leftovers.lost_of("r", LISTED[::-1]) == LISTED[::-1]
    assert await runs.leftovers.lost_of("r", []) == []


async def test_an_upload_is_told_by_key_and_handle(runs: RunStore) -> None:
    """One of the same key, or with the same handle under another key, is another."""
    await accepted(runs)
    claim = await claimed(runs)
    await runs.attempts.record_upload(claim, UNPLANNED)
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    others = [UploadRef(key="large", upload_id="u-8"), UploadRef(key="other", upload_id=UNPLANNED.upload_id)]

    assert await runs.leftovers.lost_of("r", [UNPLANNED, *others]) == others


async def cancelled(runs: RunStore, claim: Claim) -> None:
    await runs.queue.cancel(claim.run.run_id)


async def retried(runs: RunStore, claim: Claim) -> None:
    await runs.attempts.hand_back(claim)


async def decided(runs: RunStore, claim: Claim) -> None:
    await runs.attempts.prepare(claim, PLAN, OUTCOME)


async def voided(runs: RunStore, claim: Claim) -> None:
    await decided(runs, claim)
    await runs.attempts.void_plan(claim)


async def succeeded(runs: RunStore, claim: Claim) -> None:
    await decided(runs, claim)
    await runs.attempts.succeed(claim)


async def failed(runs: RunStore, claim: Claim) -> None:
    await runs.attempts.fail(claim, FAILURE)


async def failed_later(runs: RunStore, claim: Claim) -> None:
    await decided(runs, claim)
    await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)


async def stays(runs: RunStore, claim: Claim) -> None:
    await runs.queue.renew(claim, lease=LEASE)


@pytest.mark.parametrize("again", [False, True], ids=["", "taken_over"])
@pytest.mark.parametrize("end", [stays, cancelled, retried, decided, voided, succeeded, failed, failed_later])
async def test_one_rule_says_what_is_lost(
    backend: Backend, end: Callable[[RunStore, Claim], Awaitable[None]], again: bool
) -> None:
    """Of recorded uploads the listing, the history, and the list of runs to clean up tell the same."""
    runs = backend.runs
    await accepted(runs)
    claim = await claimed(runs)
    if again:
        await runs.attempts.record_upload(claim, UploadRef(key="large", upload_id="before"))
        claim = await taken_over(backend, claim)
    for upload in (UNPLANNED, *PLANNED):
        await runs.attempts.record_upload(claim, upload)
    await end(runs, claim)
    if again and end is decided:
        await taken_over(backend, claim)

    lost = await runs.leftovers.lost_uploads("r")

    recorded = [UNPLANNED, *PLANNED, UploadRef(key="large", upload_id="before")]
    if not again:
        recorded.pop()
    if end is succeeded:
        recorded = [upload for upload in recorded if upload not in PLANNED]  # they are objects now
    assert set_of(await runs.leftovers.lost_of("r", recorded)) == set_of(lost)
    assert await runs.leftovers.runs_to_clean_up() == (["r"] if lost or end is failed_later else [])


# -- runs to clean up ----------------------------------------------------------------------------


async def test_runs_to_clean_up_are_listed_until_they_are_clean(backend: Backend) -> None:
    """Oldest first, each once, and those at work only for what earlier attempts have left."""
    runs = backend.runs
    failed_run = await prepared(runs, "z-failed")
    at_work = await prepared(runs, "decided")
    await accepted(runs, "again", agency_id=8)
    first = await claimed(runs, "again")
    await runs.attempts.record_upload(first, UNPLANNED)
    await accepted(runs, "untouched")
    assert await runs.leftovers.runs_to_clean_up() == []

    await taken_over(backend, first)
    await runs.attempts.fail(failed_run, FAILURE, state=RunState.PREPARED)
    assert await runs.leftovers.runs_to_clean_up() == ["z-failed", "again"]

    await runs.leftovers.forget_uploads("again", [UNPLANNED])
    await runs.leftovers.forget_uploads("z-failed", [UNPLANNED, *PLANNED])
    assert await runs.leftovers.runs_to_clean_up() == ["z-failed"]  # its plan's objects may be there
    await runs.leftovers.forget_failed_plan("z-failed")
    assert await runs.leftovers.runs_to_clean_up() == []
    assert await runs.attempts.plan(at_work) == PLAN


# -- failed plans --------------------------------------------------------------------------------


async def test_the_plan_of_a_failed_run_is_kept_until_it_is_forgotten(runs: RunStore) -> None:
    """To the byte; forgetting it twice is fine."""
    claim = await prepared(runs)
    await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)

    assert await runs.leftovers.failed_plan("r") == PLAN
    await runs.leftovers.forget_failed_plan("r")
    await runs.leftovers.forget_failed_plan("r")
    assert await runs.leftovers.failed_plan("r") is None


async def test_a_plan_that_can_be_completed_is_no_failed_one(runs: RunStore) -> None:
    """And can't be forgotten. Nor has a run one that failed before its decision, or that nobody knows."""
    claim = await prepared(runs)
    await accepted(runs, "early", agency_id=8)
    await runs.attempts.fail(await claimed(runs, "early"), FAILURE)

    for run_id in ("r", "early", "unknown"):
        assert await runs.leftovers.failed_plan(run_id) is None
        await runs.leftovers.forget_failed_plan(run_id)
    assert await runs.attempts.plan(claim) == PLAN
    await runs.attempts.succeed(claim)
    assert await runs.leftovers.failed_plan("r") is None
