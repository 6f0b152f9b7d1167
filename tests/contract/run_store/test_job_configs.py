"""Which job config a run belongs to, and who may claim it therefore."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.store import Origin, RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import (
    FAILURE,
    OUTCOME,
    PAST_THE_LEASE,
    PLAN,
    claimed,
    events,
    incoming,
    message,
    nothing_to_claim,
    standing,
)

OLD, NEW = "0" * 32, "1" * 32
BY_MESSAGE = Origin(topic="requests", partition=0, offset=0)


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_run_of_the_command_line_is_for_its_own_job_config(runs: RunStore, by_id: bool) -> None:
    """A worker with another one leaves it alone, whether it asks for the next run or for this one."""
    await runs.intake.accept(incoming("r", config_id=OLD))
    run_id = "r" if by_id else None

    assert await nothing_to_claim(runs, run_id, config_id=NEW)
    assert await nothing_to_claim(runs, run_id, config_id=None)
    claim = await claimed(runs, run_id, config_id=OLD)

    assert (claim.run.config_id, claim.run.pinned) == (OLD, True)


async def test_it_stays_so_after_a_retry_a_hand_back_and_a_loss(backend: Backend) -> None:
    """Whatever ends its attempt, only a worker with the same job config makes the next one."""
    runs = backend.runs
    await runs.intake.accept(incoming("r", config_id=OLD))
    await runs.attempts.retry(await claimed(runs, config_id=OLD), FAILURE, delay=timedelta())
    assert await nothing_to_claim(runs, config_id=NEW)
    await runs.attempts.hand_back(await claimed(runs, config_id=OLD))
    assert await nothing_to_claim(runs, config_id=NEW)
    await claimed(runs, config_id=OLD)
    await backend.age("r", PAST_THE_LEASE)
    assert await nothing_to_claim(runs, config_id=NEW)
    await claimed(runs, config_id=OLD)


async def test_a_run_asked_for_by_a_message_follows_the_job_config_that_is_served(
    backend: Backend, runs: RunStore
) -> None:
    """Its history and its event name the one that exported it, not the one that accepted it."""
    await runs.intake.accept(message("r", config_id=OLD))
    claim = await claimed(runs, config_id=NEW)
    assert (claim.run.config_id, claim.run.pinned) == (NEW, False)

    await runs.attempts.fail(claim, FAILURE)

    assert (await standing(runs)).config_id == NEW
    [(_, completion)] = await events(backend, "r")
    assert isinstance(completion, RunCompletion)
    assert completion.config_id == NEW


@pytest.mark.parametrize("origin", [None, BY_MESSAGE])
async def test_a_decided_run_is_rolled_forward_by_any_worker(backend: Backend, origin: Origin | None) -> None:
    """Its plan says all there is to do; the run keeps the job config that it was exported with."""
    runs = backend.runs
    await runs.intake.accept(incoming("r", config_id=OLD, origin=origin))
    await runs.attempts.prepare(await claimed(runs, config_id=OLD), PLAN, OUTCOME)
    await backend.age("r", PAST_THE_LEASE)

    claim = await claimed(runs, config_id=NEW)
    finished = await runs.attempts.succeed(claim)

    assert finished.config_id == OLD
    [(_, completion)] = await events(backend, "r")
    assert completion.config_id == OLD


async def test_a_void_plan_goes_back_to_its_own_job_config(runs: RunStore) -> None:
    """It has to be exported again, which another job config would do differently."""
    await runs.intake.accept(incoming("r", config_id=OLD))
    claim = await claimed(runs, config_id=OLD)
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    await runs.attempts.void_plan(claim)

    assert await nothing_to_claim(runs, config_id=NEW)
    await claimed(runs, config_id=OLD)


async def test_a_run_that_must_be_left_alone_delays_no_other_of_its_agency(runs: RunStore) -> None:
    """It is neither in the way of a younger run, nor work to be waited for."""
    await runs.intake.accept(incoming("pinned", config_id=OLD, priority=9))
    await runs.intake.accept(message("free", config_id=NEW))

    assert (await claimed(runs, config_id=NEW, at_most=1)).run.run_id == "free"


async def test_runs_of_another_job_config_are_counted_and_waited_for_by_nobody_else(backend: Backend) -> None:
    """Due ones only: queued, or lost with their worker; one that is held, waits or has finished isn't."""
    runs = backend.runs
    for run_id in ("queued", "held", "lost", "finished"):
        await runs.intake.accept(incoming(run_id, config_id=OLD))
    await runs.intake.accept(incoming("later", config_id=OLD, not_before=backend.now() + timedelta(hours=1)))
    await runs.intake.accept(message("asked", config_id=OLD))
    await claimed(runs, "lost", config_id=OLD)
    await backend.age("lost", PAST_THE_LEASE)
    await claimed(runs, "held", config_id=OLD)
    await runs.attempts.fail(await claimed(runs, "finished", config_id=OLD), FAILURE)

    assert await runs.queue.waiting_for_another_config(NEW) == 2
    assert await runs.queue.waiting_for_another_config(OLD) == 0
    assert not await runs.queue.idle(config_id=NEW)
    await runs.queue.cancel("asked")

    async def sent(events: object) -> None:
        """All of them."""

    await runs.outbox.announce(sent, limit=99)
    assert await runs.queue.idle(config_id=NEW)
    assert not await runs.queue.idle(config_id=OLD)
