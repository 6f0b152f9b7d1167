"""What every run store promises: in memory, and in a real Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from pipeline_processing.errors import ConflictingRequest, InvalidRequest, RunUnknown, Superseded
from pipeline_processing.model import Bill, Counts, FormatName, JobRequest, Run, RunState
from pipeline_processing.plan import UploadRef
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.run_filter import RunFilter
from pipeline_processing.runs.store import Claim, Incoming, Origin, Outcome, RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import (
    FAILURE,
    LEASE,
    OUTCOME,
    PAST_THE_LEASE,
    PLAN,
    PLANNED,
    SPAN,
    TRACE,
    UNPLANNED,
    accepted,
    claimed,
    events,
    incoming,
    nothing_to_claim,
    prepared,
    set_of,
    standing,
    taken_over,
)

# -- accept --------------------------------------------------------------------------------------


async def test_an_accepted_run_holds_its_whole_request(runs: RunStore) -> None:
    """What was asked for comes back as it was written, with where it came from."""
    request = JobRequest(
        agency_id=2**63 - 1,
        datasets=("records",),
        params={"ratio": 1.0, "count": 3, "text": "é\\u0000", "none": None, "flag": True},
        since=datetime(2026, 1, 1, tzinfo=UTC),
        format=FormatName.CSV,
        dry_run=True,
        requested_by="billing",
        labels={"team": "Zürich", "order": 'A "17"'},
        priority=-3,
        not_before=datetime(2026, 1, 2, tzinfo=UTC),
        replay_of="r-0",
    )

    run = await runs.intake.accept(
        Incoming(
            request=request,
            run_id="r",
            trace_id=TRACE,
            span_id=SPAN,
            tracestate="vendor=é,other=1",
            origin=Origin(topic="requests", partition=2, offset=40),
        )
    )

    assert run.state is RunState.QUEUED
    assert (run.attempt, run.fence, run.started_at, run.error) == (0, None, None, None)
    assert run.request == request
    assert (run.agency_id, run.requested_by, run.replay_of, run.dry_run) == (2**63 - 1, "billing", "r-0", True)
    assert (run.topic, run.partition, run.offset) == ("requests", 2, 40)
    assert (run.trace_id, run.span_id, run.tracestate) == (TRACE, SPAN, "vendor=é,other=1")
    assert run.not_before == request.not_before
    assert run.labels == request.labels != {}
    assert await runs.history.get("r") == run


@pytest.mark.parametrize(
    "param",
    [1e15, 1e16, 9.0e18, 123456789012345680.0, -1e17, 0.1, 1e-7, 5e-324, 1.0, -0.0, 2**53 + 1, -(2**63), 2**63 - 1],
)
async def test_a_stored_request_is_the_one_that_came_in(runs: RunStore, param: float) -> None:
    """Numbers of every kind: the run can be read, and its request asks for the same."""
    request = JobRequest.model_validate_json(orjson.dumps({"agency_id": 7, "params": {"x": param}}))

    await runs.intake.accept(Incoming(request=request, run_id="r", trace_id=TRACE, span_id=SPAN))

    stored = await runs.history.get("r")
    assert stored is not None
    assert stored.request == request
    assert stored.request.digest() == request.digest()


async def test_accepting_again_changes_nothing(backend: Backend) -> None:
    """A redelivered request gives the run as it stands, whatever has become of it."""
    runs = backend.runs
    await accepted(runs)
    await runs.attempts.fail(await claimed(runs), FAILURE)
    before = await backend.everything()

    again = await accepted(runs)

    assert again.state is RunState.FAILED
    assert await backend.everything() == before


async def test_a_run_id_names_one_request_for_good(runs: RunStore) -> None:
    """The same id with a different request is refused, and the run stays."""
    run = await accepted(runs)

    with pytest.raises(ConflictingRequest, match="use another id"):
        await accepted(runs, agency_id=8)
    assert await runs.history.get("r") == run


async def test_concurrent_deliveries_make_one_run(runs: RunStore) -> None:
    """Twenty intakes get the same message at once."""
    copies = await asyncio.gather(*(accepted(runs) for _ in range(20)))

    assert len({run.queued_at for run in copies}) == 1
    assert len(await runs.history.newest()) == 1


async def test_a_request_that_cannot_be_stored_is_invalid(runs: RunStore) -> None:
    """A NUL, which no text column takes, is the request's fault and stops nobody."""
    with pytest.raises(InvalidRequest, match="NUL"):
        await accepted(runs, params={"name": "a\0b"})
    assert await runs.history.get("r") is None


# -- claim ---------------------------------------------------------------------------------------


async def test_a_claim_starts_the_first_attempt(runs: RunStore) -> None:
    """The run is running, under a lease and a fence, and its attempt is on record."""
    await accepted(runs)

    claim = await claimed(runs)

    assert claim.run == await runs.history.get("r")
    assert (claim.run.state, claim.run.attempt, claim.run.worker) == (RunState.RUNNING, 1, "w-1")
    assert claim.run.fence == claim.fence
    assert claim.run.started_at is not None
    assert claim.run.lease_expires_at is not None
    assert timedelta() < claim.run.lease_expires_at - claim.run.started_at - LEASE + timedelta(seconds=1)
    [attempt] = await runs.history.attempts("r")
    assert (attempt.attempt, attempt.fence, attempt.worker, attempt.outcome) == (1, claim.fence, "w-1", "running")
    assert await nothing_to_claim(runs)


async def test_an_empty_table_has_nothing_to_claim(runs: RunStore) -> None:
    """Neither in general nor by an id that nobody knows."""
    assert await nothing_to_claim(runs)
    assert await nothing_to_claim(runs, "unknown")


async def test_prepared_runs_go_first(backend: Backend) -> None:
    """A decided run is rolled forward before anything else is started, whatever its priority."""
    runs = backend.runs
    claim = await prepared(runs, "decided", priority=-5)
    await accepted(runs, "urgent", agency_id=8, priority=100)
    await runs.attempts.release(claim, delay=timedelta())

    assert (await claimed(runs)).run.run_id == "decided"
    assert (await claimed(runs)).run.run_id == "urgent"


async def test_higher_priority_goes_first_then_age(runs: RunStore) -> None:
    """Of one agency's runs."""
    for run_id, priority in (("old", 0), ("young", 0), ("urgent", 5), ("low", -5)):
        await accepted(runs, run_id, priority=priority)

    assert [(await claimed(runs)).run.run_id for _ in range(4)] == ["urgent", "old", "young", "low"]


async def test_agencies_take_turns(runs: RunStore) -> None:
    """An agency with many queued runs delays the others by one."""
    for number in range(4):
        await accepted(runs, f"many-{number}", agency_id=1)
    await accepted(runs, "b-0", agency_id=2)
    await accepted(runs, "c-0", agency_id=3)
    await accepted(runs, "b-1", agency_id=2)

    order = [(await claimed(runs)).run.run_id for _ in range(7)]

    assert order == ["many-0", "b-0", "c-0", "many-1", "b-1", "many-2", "many-3"]


async def test_priority_goes_before_turns(runs: RunStore) -> None:
    """Agencies take turns within one priority."""
    for run_id, agency_id, priority in (("a-0", 1, 1), ("a-1", 1, 1), ("b-0", 2, 0)):
        await accepted(runs, run_id, agency_id=agency_id, priority=priority)

    assert [(await claimed(runs)).run.run_id for _ in range(3)] == ["a-0", "a-1", "b-0"]


async def test_a_run_waits_for_its_not_before(backend: Backend) -> None:
    """It isn't due before, not even by its id."""
    runs = backend.runs
    await accepted(runs)
    await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta(seconds=60))

    assert await nothing_to_claim(runs)
    assert await nothing_to_claim(runs, "r")
    await backend.age("r", 61)
    assert (await claimed(runs)).run.attempt == 2


async def test_a_request_may_name_its_not_before(runs: RunStore) -> None:
    """A run that was asked for later is queued, and others pass it."""
    await accepted(runs, "later", not_before=datetime(2200, 1, 1, tzinfo=UTC), priority=9)
    await accepted(runs, "now")

    assert (await claimed(runs)).run.run_id == "now"
    assert await nothing_to_claim(runs)


async def test_a_claim_by_id_takes_that_run_or_none(runs: RunStore) -> None:
    """Whatever stands before it in the queue, and not if somebody holds it."""
    await accepted(runs, "first", priority=9)
    await accepted(runs, "asked-for")

    assert (await claimed(runs, "asked-for")).run.run_id == "asked-for"
    assert await nothing_to_claim(runs, "asked-for")
    assert (await claimed(runs)).run.run_id == "first"


async def test_a_prepared_run_can_be_claimed_by_id(backend: Backend) -> None:
    """And only that: others stay where they are."""
    runs = backend.runs
    other, claim = await prepared(runs, "other"), await prepared(runs, "r", agency_id=8)
    await runs.attempts.release(other, delay=timedelta())
    await runs.attempts.release(claim, delay=timedelta())

    assert (await claimed(runs, "r")).run.run_id == "r"
    assert (await standing(runs, "other")).lease_expires_at is None


async def test_a_lost_attempt_is_taken_over(backend: Backend) -> None:
    """Once its lease has ended: the attempt rises, and so does the fence. The start is the run's first."""
    runs = backend.runs
    await accepted(runs)
    first = await claimed(runs)
    await runs.attempts.start(first, trace_id="1" * 32, span_id="1" * 16)
    assert await nothing_to_claim(runs, "r")

    second = await taken_over(backend, first)

    assert (second.run.state, second.run.attempt, second.run.worker) == (RunState.RUNNING, 2, "w-2")
    assert second.fence > first.fence
    assert second.run.started_at == first.run.started_at
    lost, running = await runs.history.attempts("r")
    assert (lost.attempt, lost.outcome, lost.trace_id) == (1, "lost", "1" * 32)
    assert lost.finished_at is not None
    assert (running.attempt, running.outcome, running.fence) == (2, "running", second.fence)
    assert await runs.history.tries("r") == 2


async def test_a_prepared_run_is_taken_over_in_the_same_attempt(backend: Backend) -> None:
    """With a new fence, and with the plan as it was stored. The attempt on record is whose work it was."""
    runs = backend.runs
    first = await prepared(runs)
    await runs.attempts.start(first, trace_id="1" * 32, span_id="1" * 16)

    second = await taken_over(backend, first)
    await runs.attempts.start(second, trace_id="2" * 32, span_id="2" * 16)

    assert (second.run.state, second.run.attempt, second.run.worker) == (RunState.PREPARED, 1, "w-2")
    assert second.fence > first.fence
    assert await runs.attempts.plan(second) == PLAN
    [attempt] = await runs.history.attempts("r")
    assert (attempt.outcome, attempt.fence, attempt.worker) == ("prepared", first.fence, "w-1")
    assert (attempt.trace_id, attempt.span_id) == ("1" * 32, "1" * 16)


# -- the limit per agency ------------------------------------------------------------------------


async def test_an_agency_has_no_more_runs_than_it_may(backend: Backend) -> None:
    """Others go on meanwhile; a finished, an ended and a given-up lease each make a place."""
    runs = backend.runs
    for number in range(6):
        await accepted(runs, f"a-{number}", agency_id=1, priority=5)
    await accepted(runs, "b-0", agency_id=2)
    first, second = await claimed(runs, at_most=2), await claimed(runs, at_most=2)

    assert (await claimed(runs, at_most=2)).run.run_id == "b-0"
    assert await nothing_to_claim(runs, at_most=2)
    assert await nothing_to_claim(runs, "a-5", at_most=2)

    await runs.attempts.fail(first, FAILURE)
    third = await claimed(runs, at_most=2)
    assert third.run.run_id == "a-2"
    assert await nothing_to_claim(runs, at_most=2)

    await runs.attempts.prepare(third, PLAN, OUTCOME)
    assert await nothing_to_claim(runs, at_most=2)  # a prepared run has its place until it is published
    await runs.attempts.retry(second, FAILURE, delay=timedelta(hours=1))
    assert (await claimed(runs, at_most=2)).run.run_id == "a-3"


async def test_an_ended_lease_takes_no_place(backend: Backend) -> None:
    """An agency whose worker died goes on with one of its runs, and no more."""
    runs = backend.runs
    await accepted(runs, "a-0")
    await accepted(runs, "a-1")
    await claimed(runs, at_most=1)
    await backend.age("a-0", PAST_THE_LEASE)

    assert (await claimed(runs, at_most=1)).run.run_id == "a-0"
    assert await nothing_to_claim(runs, at_most=1)


async def test_taking_over_a_prepared_run_needs_no_place(backend: Backend) -> None:
    """It is nearly done, and nothing may keep it from being published."""
    runs = backend.runs
    decided = await prepared(runs, "decided")
    await runs.attempts.release(decided, delay=timedelta())
    await accepted(runs, "other")
    await claimed(runs, "other", at_most=1)

    assert (await claimed(runs, at_most=1)).run.run_id == "decided"


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("claimers", [2, 20])
async def test_claims_at_once_never_exceed_the_limit(runs: RunStore, claimers: int, at_most: int) -> None:
    """However many workers claim at the same time, again and again, by any way."""
    for number in range(40):
        await accepted(runs, f"r-{number}", agency_id=1 + number % 3)

    async def claim_some(worker: int) -> list[Claim]:
        claims = [
            await runs.queue.claim(worker=f"w-{worker}", lease=LEASE, max_runs_per_agency=at_most, run_id=run_id)
            for run_id in (None, f"r-{worker}", None)
        ]
        return [claim for claim in claims if claim is not None]

    claims = [claim for some in await asyncio.gather(*map(claim_some, range(claimers))) for claim in some]

    per_agency = Counter(claim.run.agency_id for claim in claims)
    assert max(per_agency.values()) <= at_most
    assert len({claim.run.run_id for claim in claims}) == len(claims) == len({claim.fence for claim in claims})
    while (claim := await runs.queue.claim(worker="w", lease=LEASE, max_runs_per_agency=at_most)) is not None:
        per_agency[claim.run.agency_id] += 1
    assert per_agency == {1: at_most, 2: at_most, 3: at_most}


async def test_many_workers_share_a_queue(runs: RunStore) -> None:
    """Every run is claimed once, none is left, and nobody waits for anybody for good."""
    for number in range(60):
        await accepted(runs, f"r-{number}", agency_id=1 + number % 10)

    async def work(worker: int) -> list[str]:
        done: list[str] = []
        while len(done) < 60:
            claim = await runs.queue.claim(worker=f"w-{worker}", lease=LEASE, max_runs_per_agency=2)
            if claim is None:
                if not await runs.history.newest(RunFilter(states=(RunState.QUEUED,)), limit=1):
                    break
                await asyncio.sleep(0.001)
                continue
            await runs.attempts.fail(claim, FAILURE)
            done.append(claim.run.run_id)
        return done

    async with asyncio.timeout(30):
        done = await asyncio.gather(*(work(worker) for worker in range(12)))

    assert sorted(run_id for some in done for run_id in some) == sorted(f"r-{number}" for number in range(60))


# -- leases and fences ---------------------------------------------------------------------------


async def test_a_renewed_lease_lasts_from_now(backend: Backend) -> None:
    """Of a running and of a prepared run."""
    runs = backend.runs
    await accepted(runs)
    claim = await claimed(runs)
    for _ in range(2):
        await backend.age("r", 200)
        await runs.queue.renew(claim, lease=LEASE)
        await backend.age("r", 200)
        assert await nothing_to_claim(runs, "r")
        await runs.queue.renew(claim, lease=LEASE)
        if (await standing(runs)).state is RunState.RUNNING:
            await runs.attempts.prepare(claim, PLAN, OUTCOME)


async def test_a_cancelled_run_is_not_renewed(runs: RunStore) -> None:
    """Which is how its worker notices."""
    await accepted(runs)
    claim = await claimed(runs)
    await runs.queue.cancel("r")

    with pytest.raises(Superseded):
        await runs.queue.renew(claim, lease=LEASE)


async def test_a_lease_that_was_given_up_is_not_renewed(runs: RunStore) -> None:
    """A renewal may still be under way when its worker lets go."""
    claim = await prepared(runs)
    await runs.attempts.release(claim, delay=timedelta())

    with pytest.raises(Superseded):
        await runs.queue.renew(claim, lease=LEASE)
    assert (await claimed(runs)).run.run_id == "r"


async def test_a_claim_is_checked_without_changing_anything(backend: Backend) -> None:
    """It holds while the run is at work, or decided, and nobody has superseded it, however old its lease is."""
    runs = backend.runs
    await accepted(runs)
    claim = await claimed(runs)
    before = await backend.everything()
    await runs.queue.check(claim)
    assert await backend.everything() == before

    await backend.age("r", PAST_THE_LEASE)
    await runs.queue.check(claim)
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    await runs.queue.check(claim)
    await runs.attempts.succeed(claim)
    with pytest.raises(Superseded):
        await runs.queue.check(claim)


async def test_a_claim_that_was_given_up_holds_no_longer(runs: RunStore) -> None:
    """Whether somebody else has the run by now or not."""
    await accepted(runs)
    first = await claimed(runs)
    await runs.attempts.hand_back(first)
    with pytest.raises(Superseded):
        await runs.queue.check(first)
    second = await claimed(runs)
    await runs.attempts.prepare(second, PLAN, OUTCOME)
    await runs.attempts.release(second, delay=timedelta())
    with pytest.raises(Superseded):
        await runs.queue.check(second)


Write = Callable[[RunStore, Claim], Awaitable[Any]]
OF_A_RUNNING_RUN: dict[str, Write] = {
    "renew": lambda runs, claim: runs.queue.renew(claim, lease=LEASE),
    "check": lambda runs, claim: runs.queue.check(claim),
    "start": lambda runs, claim: runs.attempts.start(claim, trace_id="f" * 32, span_id="f" * 16),
    "record_upload": lambda runs, claim: runs.attempts.record_upload(claim, UNPLANNED),
    "prepare": lambda runs, claim: runs.attempts.prepare(claim, PLAN, OUTCOME),
    "succeed_dry": lambda runs, claim: runs.attempts.succeed(claim, OUTCOME),
    "fail": lambda runs, claim: runs.attempts.fail(claim, FAILURE, outcome=OUTCOME),
    "retry": lambda runs, claim: runs.attempts.retry(claim, FAILURE, delay=timedelta()),
    "hand_back": lambda runs, claim: runs.attempts.hand_back(claim),
}
OF_A_PREPARED_RUN: dict[str, Write] = {
    "renew": lambda runs, claim: runs.queue.renew(claim, lease=LEASE),
    "check": lambda runs, claim: runs.queue.check(claim),
    "start": lambda runs, claim: runs.attempts.start(claim, trace_id="f" * 32, span_id="f" * 16),
    "prepare": lambda runs, claim: runs.attempts.prepare(claim, PLAN, OUTCOME),
    "plan": lambda runs, claim: runs.attempts.plan(claim),
    "succeed": lambda runs, claim: runs.attempts.succeed(claim),
    "fail": lambda runs, claim: runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED),
    "hand_back": lambda runs, claim: runs.attempts.hand_back(claim),
    "release": lambda runs, claim: runs.attempts.release(claim, delay=timedelta()),
    "void_plan": lambda runs, claim: runs.attempts.void_plan(claim),
}


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in OF_A_RUNNING_RUN.items()])
async def test_a_superseded_worker_changes_nothing_of_a_running_run(backend: Backend, write: Write) -> None:
    """Whatever it tries, it learns that the run isn't its own any more."""
    await accepted(backend.runs, dry_run=True)
    old = await claimed(backend.runs)
    await taken_over(backend, old)
    before = await backend.everything()

    with pytest.raises(Superseded, match=f"fence {old.fence}"):
        await write(backend.runs, old)
    assert await backend.everything() == before


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in OF_A_PREPARED_RUN.items()])
async def test_a_superseded_worker_changes_nothing_of_a_prepared_run(backend: Backend, write: Write) -> None:
    """Neither does one whose plan another worker rolls forward."""
    old = await prepared(backend.runs)
    await taken_over(backend, old)
    before = await backend.everything()

    with pytest.raises(Superseded):
        await write(backend.runs, old)
    assert await backend.everything() == before


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in OF_A_RUNNING_RUN.items()])
async def test_nothing_is_written_to_a_cancelled_run(backend: Backend, write: Write) -> None:
    """Its worker's fence still holds, but the state it starts from doesn't."""
    await accepted(backend.runs, dry_run=True)
    claim = await claimed(backend.runs)
    await backend.runs.queue.cancel("r")
    before = await backend.everything()

    with pytest.raises(Superseded):
        await write(backend.runs, claim)
    assert await backend.everything() == before


@pytest.mark.parametrize("name", ["succeed", "release", "void_plan", "plan"])
async def test_a_running_run_has_no_plan_to_go_by(backend: Backend, name: str) -> None:
    """What starts from `prepared` is refused before."""
    await accepted(backend.runs)
    claim = await claimed(backend.runs)
    before = await backend.everything()

    with pytest.raises(Superseded):
        await OF_A_PREPARED_RUN[name](backend.runs, claim)
    assert await backend.everything() == before


@pytest.mark.parametrize("name", ["record_upload", "fail", "retry"])
async def test_a_prepared_run_cannot_go_back(backend: Backend, name: str) -> None:
    """What ends or extends the export is refused after the decision."""
    claim = await prepared(backend.runs)
    before = await backend.everything()

    with pytest.raises(Superseded):
        await OF_A_RUNNING_RUN[name](backend.runs, claim)
    assert await backend.everything() == before


# -- the decision and the end --------------------------------------------------------------------


async def test_prepare_stores_the_plan_and_what_was_measured(runs: RunStore) -> None:
    """To the byte; the lease goes on."""
    claim = await prepared(runs)

    run = await standing(runs)
    assert run.state is RunState.PREPARED
    assert (run.rows_read, run.rows_written, run.rows_filtered, run.rows_rejected) == (10, 8, 1, 1)
    assert (run.bytes_written, run.timings, run.manifest_url) == (4321, {"read": 1.5}, OUTCOME.manifest_url)
    assert run.bill == OUTCOME.bill
    assert run.lease_expires_at is not None
    assert await runs.attempts.plan(claim) == PLAN
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["prepared"]


@pytest.mark.parametrize("name", ["prepare", "succeed", "fail", "void_plan", "release", "hand_back"])
async def test_a_decisive_write_can_be_repeated(backend: Backend, name: str) -> None:
    """After a lost reply the same write gives the run as it stands, and changes nothing but a `not_before`."""
    runs = backend.runs
    claim = await prepared(runs)
    first = await OF_A_PREPARED_RUN[name](runs, claim)

    again = await OF_A_PREPARED_RUN[name](runs, claim)

    assert again == first or name in ("release", "hand_back")
    assert len(await backend.outbox("r")) == (name in ("succeed", "fail"))


@pytest.mark.parametrize("name", ["prepare", "succeed_dry", "fail", "retry", "hand_back"])
async def test_a_decisive_write_on_a_running_run_can_be_repeated(backend: Backend, name: str) -> None:
    """The same before the decision; a run that was handed back twice counts as once."""
    runs = backend.runs
    await accepted(runs, dry_run=True)
    claim = await claimed(runs)
    first = await OF_A_RUNNING_RUN[name](runs, claim)
    before = await backend.everything()

    assert await OF_A_RUNNING_RUN[name](runs, claim) == first
    assert await backend.everything() == before


async def test_success_is_announced_once(backend: Backend) -> None:
    """In the same transaction: one event, whose id and bytes are fixed."""
    runs = backend.runs
    claim = await prepared(runs)

    run = await runs.attempts.succeed(claim)

    assert run.state is RunState.SUCCEEDED
    assert run == await standing(runs)
    assert (run.lease_expires_at, run.worker, run.error) == (None, "w-1", None)
    assert run.finished_at is not None
    assert run.duration_ms is not None
    assert run.duration_ms >= 0
    [event] = await backend.outbox("r")
    assert (event.event_id, event.type, event.key) == ("r:succeeded", "agency.run.succeeded", "7")
    assert event.headers == {
        "ce_specversion": "1.0",
        "ce_id": "r:succeeded",
        "ce_source": "/pipeline-processing",
        "ce_type": "agency.run.succeeded",
        "ce_time": run.finished_at.isoformat(),
        "content-type": "application/json",
        "traceparent": f"00-{TRACE}-{SPAN}-01",
    }
    completion = RunCompletion.model_validate_json(event.value)
    assert completion == RunCompletion.of(run)
    assert (completion.rows_written, completion.manifest) == (8, OUTCOME.manifest_url)
    assert completion.bill == OUTCOME.bill
    assert await events(backend, "r") == [("r:succeeded", completion)]

    assert await runs.attempts.succeed(claim) == run
    assert await backend.outbox("r") == [event]
    [attempt] = await runs.history.attempts("r")
    assert attempt.outcome == "succeeded"
    assert attempt.finished_at is not None


async def test_a_dry_run_succeeds_without_a_plan(backend: Backend) -> None:
    """With what it measured, no manifest, and an event that says so."""
    runs = backend.runs
    await accepted(runs, dry_run=True)
    claim = await claimed(runs)

    run = await runs.attempts.succeed(claim, Outcome(counts=Counts(rows_read=3, rows_filtered=3)))

    assert (run.state, run.rows_read, run.manifest_url) == (RunState.SUCCEEDED, 3, None)
    [(_, completion)] = await events(backend, "r")
    assert completion.dry_run
    assert completion.rows_filtered == 3


async def test_only_a_dry_run_succeeds_without_a_plan(runs: RunStore) -> None:
    """Anything else would be a success without a manifest."""
    await accepted(runs)
    claim = await claimed(runs)

    with pytest.raises(ValueError, match="by its plan"):
        await runs.attempts.succeed(claim, OUTCOME)


async def test_a_failure_is_announced_with_its_error(backend: Backend, runs: RunStore) -> None:
    """And kept whole in the history."""
    await accepted(runs)
    claim = await claimed(runs)

    run = await runs.attempts.fail(claim, FAILURE, outcome=OUTCOME)

    assert run.state is RunState.FAILED
    assert run == await standing(runs)
    assert run.error == FAILURE
    assert (run.rows_read, run.manifest_url, run.lease_expires_at) == (10, None, None)
    [(event_id, completion)] = await events(backend, "r")
    assert event_id == "r:failed"
    assert (completion.error, completion.manifest, completion.bill) == (FAILURE, None, OUTCOME.bill)
    [attempt] = await runs.history.attempts("r")
    assert (attempt.outcome, attempt.error_kind, attempt.error_message) == ("failed", FAILURE.kind, FAILURE.message)


async def test_a_plan_that_cannot_be_published_fails_its_run(runs: RunStore) -> None:
    """From `prepared`, with the counts that were stored and no manifest."""
    claim = await prepared(runs)

    run = await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)

    assert (run.state, run.rows_read, run.manifest_url) == (RunState.FAILED, 10, None)
    with pytest.raises(Superseded):
        await runs.attempts.plan(claim)


@pytest.mark.parametrize("message", ["a\0b", "half \ud800 a pair", "long " * 100_000], ids=["nul", "surrogate", "long"])
async def test_any_error_message_can_be_stored(backend: Backend, message: str) -> None:
    """Else a run that fails with it could never end, or its event never be sent."""
    runs = backend.runs
    await accepted(runs)
    failure = FAILURE.model_copy(update={"message": message})
    await runs.attempts.retry(await claimed(runs), failure, delay=timedelta())

    run = await runs.attempts.fail(await claimed(runs), failure)

    assert run.error is not None
    assert run.error.message[:1] == message[:1]
    [event] = await backend.outbox("r")
    assert len(event.value) < 100_000


# -- letting go ----------------------------------------------------------------------------------


async def test_a_retried_run_is_queued_again(backend: Backend, runs: RunStore) -> None:
    """With the error on its attempt, the fence as it was, and no lease."""
    await accepted(runs)
    claim = await claimed(runs)

    run = await runs.attempts.retry(claim, FAILURE, delay=timedelta(seconds=60))

    assert run == await standing(runs)
    assert (run.state, run.attempt, run.fence, run.worker) == (RunState.QUEUED, 1, claim.fence, None)
    assert (run.lease_expires_at, run.error, run.finished_at) == (None, None, None)
    assert run.not_before is not None
    assert claim.run.started_at is not None
    assert run.not_before >= claim.run.started_at + timedelta(seconds=59)
    [attempt] = await runs.history.attempts("r")
    assert (attempt.outcome, attempt.error_kind, attempt.error_message) == ("retrying", FAILURE.kind, FAILURE.message)
    assert await events(backend, "r") == []


async def test_a_run_that_was_handed_back_is_due_at_once_and_not_a_try(runs: RunStore) -> None:
    """A draining worker costs a run none of its tries."""
    await accepted(runs)
    run = await runs.attempts.hand_back(await claimed(runs))

    assert (run.state, run.attempt) == (RunState.QUEUED, 1)
    assert await runs.history.tries("r") == 0
    second = await claimed(runs)
    assert second.run.attempt == 2
    assert await runs.history.tries("r") == 1
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["handed_back", "running"]


async def test_a_run_that_goes_on_later_keeps_its_bill(backend: Backend, runs: RunStore) -> None:
    """An attempt that can't tell changes nothing, and a cancelled run is announced with what is known."""
    await accepted(runs)
    first, second = Bill(client_cpu_ms=1.5), Bill(client_cpu_ms=2.5, s3_requests=3)
    assert (await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta(), bill=first)).bill == first
    claim = await claimed(runs)
    assert claim.run.bill == first
    assert (await runs.attempts.hand_back(claim, bill=second)).bill == second
    assert (await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta())).bill == second

    run = await runs.queue.cancel("r")

    assert run.bill == second
    [(_, completion)] = await events(backend, "r")
    assert completion.bill == second


async def test_a_retry_that_doesnt_count_is_no_try(runs: RunStore) -> None:
    """However often it is written."""
    await accepted(runs)
    claim = await claimed(runs)
    for _ in range(2):
        run = await runs.attempts.retry(claim, FAILURE, delay=timedelta(), counts=False)

    assert (run.state, run.attempt, await runs.history.tries("r")) == (RunState.QUEUED, 1, 0)
    await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta())
    assert await runs.history.tries("r") == 1
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["retrying", "retrying"]


async def test_the_time_is_that_of_leases(runs: RunStore) -> None:
    """So that a worker can tell the one by the other."""
    await accepted(runs)
    before = await runs.queue.now()
    claim = await claimed(runs)
    assert claim.run.lease_expires_at is not None
    assert before <= claim.run.lease_expires_at - LEASE <= await runs.queue.now()


async def test_a_prepared_run_is_only_let_go(runs: RunStore) -> None:
    """Handing it back keeps its decision; it can be claimed at once."""
    claim = await prepared(runs)

    run = await runs.attempts.hand_back(claim)

    assert (run.state, run.lease_expires_at, run.worker) == (RunState.PREPARED, None, None)
    assert await runs.history.tries("r") == 1
    assert (await claimed(runs)).run.state is RunState.PREPARED
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["prepared"]


async def test_a_released_run_can_be_claimed_after_the_delay(backend: Backend) -> None:
    """Whoever could not publish lets another try, a little later."""
    runs = backend.runs
    claim = await prepared(runs)
    await runs.attempts.release(claim, delay=timedelta(seconds=60))

    assert await nothing_to_claim(runs)
    assert await nothing_to_claim(runs, "r")
    await backend.age("r", 61)
    assert (await claimed(runs)).run.attempt == 1


async def test_a_void_plan_is_exported_again(runs: RunStore) -> None:
    """The run is queued as if nothing had been measured, and its uploads are left to the clean-up."""
    claim = await prepared(runs)

    run = await runs.attempts.void_plan(claim)

    assert run == await standing(runs)
    assert (run.state, run.rows_read, run.timings, run.manifest_url) == (RunState.QUEUED, None, None, None)
    assert set_of(await runs.leftovers.lost_uploads("r")) == set_of([UNPLANNED, *PLANNED])
    second = await claimed(runs)
    assert second.run.attempt == 2
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["voided", "running"]
    await runs.attempts.prepare(second, PLAN, OUTCOME)
    assert (await runs.attempts.succeed(second)).attempt == 2


# -- cancel --------------------------------------------------------------------------------------


async def test_a_queued_run_can_be_cancelled(backend: Backend, runs: RunStore) -> None:
    """It never runs, and its end is announced like any other."""
    await accepted(runs)

    run = await runs.queue.cancel("r")

    assert (run.state, run.started_at, run.error) == (RunState.CANCELLED, None, None)
    assert run == await standing(runs)
    [(event_id, completion)] = await events(backend, "r")
    assert (event_id, completion.state, completion.attempt) == ("r:cancelled", "cancelled", 0)
    assert await nothing_to_claim(runs)
    assert await runs.queue.cancel("r") == run
    assert len(await events(backend, "r")) == 1


async def test_a_running_run_can_be_cancelled(runs: RunStore) -> None:
    """Its attempt ends with it."""
    await accepted(runs)
    await claimed(runs)

    run = await runs.queue.cancel("r")

    assert (run.state, run.lease_expires_at) == (RunState.CANCELLED, None)
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["cancelled"]


async def test_a_run_that_waits_for_its_retry_can_be_cancelled(runs: RunStore) -> None:
    """The outcome of its last attempt stays."""
    await accepted(runs)
    await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta(hours=1))

    assert (await runs.queue.cancel("r")).state is RunState.CANCELLED
    assert [attempt.outcome for attempt in await runs.history.attempts("r")] == ["retrying"]


async def test_a_decided_run_cannot_be_cancelled(backend: Backend) -> None:
    """It is returned as it is, prepared or finished."""
    runs = backend.runs
    claim = await prepared(runs)
    before = await backend.everything()
    assert (await runs.queue.cancel("r")).state is RunState.PREPARED
    assert await backend.everything() == before

    succeeded = await runs.attempts.succeed(claim)
    assert await runs.queue.cancel("r") == succeeded
    assert len(await events(backend, "r")) == 1


async def test_only_a_known_run_can_be_cancelled(runs: RunStore) -> None:
    """Nor does an unknown one have tries."""
    with pytest.raises(RunUnknown, match="lists the runs"):
        await runs.queue.cancel("unknown")
    with pytest.raises(RunUnknown):
        await runs.history.tries("unknown")


async def test_cancel_and_the_decision_exclude_each_other(runs: RunStore) -> None:
    """Whichever comes first holds; the other learns of it."""
    for number in range(20):
        run_id = f"r-{number}"
        await accepted(runs, run_id, agency_id=1 + number)
        claim = await claimed(runs, run_id)
        cancelled, decided = await asyncio.gather(
            runs.queue.cancel(run_id), runs.attempts.prepare(claim, PLAN, OUTCOME), return_exceptions=True
        )
        assert isinstance(cancelled, Run)
        if cancelled.state is RunState.CANCELLED:
            assert isinstance(decided, Superseded)
        else:
            assert decided is None
            assert (await standing(runs, run_id)).state is RunState.PREPARED


# -- uploads -------------------------------------------------------------------------------------


async def test_uploads_of_a_held_run_are_not_lost(runs: RunStore) -> None:
    """Recording one again is harmless; time alone makes none lost."""
    await accepted(runs)
    claim = await claimed(runs)
    for upload in (UNPLANNED, UNPLANNED, *PLANNED):
        await runs.attempts.record_upload(claim, upload)

    assert await runs.leftovers.lost_uploads("r") == []
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    assert await runs.leftovers.lost_uploads("r") == []


async def test_an_ended_lease_alone_loses_no_upload(backend: Backend) -> None:
    """Until a claim supersedes it, the worker may still be at work."""
    runs = backend.runs
    await accepted(runs)
    claim = await claimed(runs)
    await runs.attempts.record_upload(claim, UNPLANNED)
    await backend.age("r", PAST_THE_LEASE)
    assert await runs.leftovers.lost_uploads("r") == []

    second = await claimed(runs)
    assert await runs.leftovers.lost_uploads("r") == [UNPLANNED]
    await runs.attempts.record_upload(second, PLANNED[0])
    assert await runs.leftovers.lost_uploads("r") == [UNPLANNED]


async def test_uploads_that_a_stored_plan_names_are_not_lost(backend: Backend) -> None:
    """Whoever takes the plan over completes them; the others of that attempt are lost."""
    runs = backend.runs
    second = await taken_over(backend, await prepared(runs))

    assert await runs.leftovers.lost_uploads("r") == [UNPLANNED]
    await runs.attempts.succeed(second)
    assert await runs.leftovers.lost_uploads("r") == [UNPLANNED]


async def test_a_handle_used_again_belongs_to_the_new_attempt(backend: Backend) -> None:
    """A file of the same name is the newer attempt's, and not to be removed under it."""
    runs = backend.runs
    await accepted(runs)
    first = await claimed(runs)
    await runs.attempts.record_upload(first, UNPLANNED)
    await runs.attempts.record_upload(await taken_over(backend, first), UNPLANNED)

    assert await runs.leftovers.lost_uploads("r") == []


@pytest.mark.parametrize("end", ["retry", "hand_back", "fail"])
async def test_uploads_of_an_attempt_that_ended_are_lost(runs: RunStore, end: str) -> None:
    """Whether the run goes on or not."""
    await accepted(runs)
    claim = await claimed(runs)
    await runs.attempts.record_upload(claim, UNPLANNED)
    await OF_A_RUNNING_RUN[end](runs, claim)

    assert await runs.leftovers.lost_uploads("r") == [UNPLANNED]


async def test_a_failed_plan_names_nothing(runs: RunStore) -> None:
    """`failed` is final, so nobody completes what is left of its uploads."""
    claim = await prepared(runs)
    await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)

    assert set_of(await runs.leftovers.lost_uploads("r")) == set_of([UNPLANNED, *PLANNED])


async def test_uploads_that_are_cleaned_up_are_forgotten(runs: RunStore) -> None:
    """Only those; and forgetting what isn't there is fine."""
    claim = await prepared(runs)
    await runs.attempts.fail(claim, FAILURE, state=RunState.PREPARED)
    await runs.leftovers.forget_uploads("r", [UNPLANNED, PLANNED[0], UploadRef(key="large", upload_id="unknown")])
    await runs.leftovers.forget_uploads("unknown", [UNPLANNED])
    await runs.leftovers.forget_uploads("r", [])

    assert await runs.leftovers.lost_uploads("r") == [PLANNED[1]]
    assert await runs.leftovers.lost_uploads("unknown") == []


# -- history -------------------------------------------------------------------------------------


async def test_history_can_be_had_whole(runs: RunStore) -> None:
    """Fifty runs unless told otherwise."""
    await runs.intake.accept_all([incoming(f"r-{number}") for number in range(60)])

    assert len(await runs.history.newest()) == 50
    assert len(await runs.history.newest(limit=None)) == 60
    assert len(await runs.history.newest(RunFilter(agency_id=8), limit=None)) == 0


async def test_many_runs_are_looked_up_at_once(runs: RunStore) -> None:
    """Those that there are."""
    first, second = await accepted(runs, "a"), await accepted(runs, "b")

    assert await runs.history.get_all(["b", "unknown", "a", "a"]) == {"a": first, "b": second}
    assert await runs.history.get_all([]) == {}


async def test_replays_are_counted_by_what_they_replay(runs: RunStore) -> None:
    """Whatever has become of them; a replay of a replay counts for that."""
    for run_id, replay_of in (("r", None), ("r-1", "r"), ("r-2", "r"), ("r-3", "r-1"), ("other", "pruned")):
        await accepted(runs, run_id, replay_of=replay_of)
    await runs.queue.cancel("r-2")

    assert await runs.history.replays(["r", "r-1", "r-2", "unknown"]) == {"r": 2, "r-1": 1}
    assert await runs.history.replays(["pruned"]) == {"pruned": 1}
    assert await runs.history.replays([]) == {}


async def test_an_unknown_run_has_no_history(backend: Backend, runs: RunStore) -> None:
    """And asking for it is no error."""
    assert await runs.history.get("unknown") is None
    assert await runs.history.attempts("unknown") == []
    assert await backend.outbox("unknown") == []


async def test_the_installation_keeps_its_id(runs: RunStore) -> None:
    """It is what a destination is marked with."""
    assert await runs.history.installation_id() == await runs.history.installation_id()
