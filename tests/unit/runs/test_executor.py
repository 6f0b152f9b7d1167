"""One attempt of a run: in which order it goes, and what becomes of the run whatever goes wrong, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline_processing.aio.asking import Backoff
from pipeline_processing.aio.tasks import shielded
from pipeline_processing.errors import (
    AccessDenied,
    BucketMissing,
    DestinationChanged,
    DestinationUnavailable,
    ForeignPrefix,
    HistoryUnavailable,
    PipelineError,
    QueryInvalid,
    SourceBusy,
    SourceUnavailable,
    StandbyConflict,
    StepFailed,
    Superseded,
    Throttled,
    TooManyConnections,
    UnknownDataset,
    UpstreamUnavailable,
)
from pipeline_processing.model import RunState
from pipeline_processing.plan import InlineContent, MultipartUpload
from pipeline_processing.runs.failures import RetryPolicy, Trouble
from pipeline_processing.runs.lease import Lease
from tests.memory.destination import MemoryDestination
from tests.unit.in_memory import LEASE, Call, Fault, Service, after, lost_reply, refused, without_jitter
from tests.unit.recorded import Recorded
from tests.unit.virtual_clock import EPOCH, WrongClock, in_virtual_time

PROTOCOL = [
    "claim",
    "start",
    "snapshot",
    "exists",
    "mark_installation",
    "prepare",
    "plan",
    *["complete"] * 3,
    "publish",
    "succeed",
]
HISTORY_DOWN = HistoryUnavailable("the history is down")
DOWN = DestinationUnavailable("the destination is down")
ONCE = RetryPolicy(max_attempts=1, backoff=without_jitter())
IMPATIENT = replace(ONCE, patience=timedelta(), patience_for_servers=timedelta())
NOTHING: tuple[list[Any], list[Any]] = ([], [])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tracebacks in the log take most of the time otherwise."""
    with capture_logs():
        yield


@pytest.fixture
def service() -> Service:
    return Service()


def succeeded(service: Service, *, outcomes: list[str], run_id: str = "r") -> None:
    """The run has ended well: one manifest of its last attempt, one event, nothing left over."""
    run = service.record(run_id).run
    assert run.state is RunState.SUCCEEDED
    assert service.outcomes(run_id) == outcomes
    manifest = json.loads(service.visible()[f"run_id={run_id}/_manifest.json"])
    assert manifest["attempt"] == run.attempt == len(outcomes)
    assert [entry["rows"] for entry in manifest["entries"]] == [2, 3, 3]
    assert [event.state for event in service.events(run_id)] == ["succeeded"]
    assert service.left_over() == NOTHING


# -- the protocol --------------------------------------------------------------------------------


@in_virtual_time
async def test_a_run_goes_through_the_protocol_in_order(service: Service) -> None:
    """Every step, from its claim to its end."""
    await service.accept()
    attempted = await service.attempt()
    assert attempted.error is None
    assert attempted.run == service.record().run
    assert [call for call in service.between.log if call in PROTOCOL] == PROTOCOL
    succeeded(service, outcomes=["succeeded"])


@in_virtual_time
async def test_nothing_is_visible_before_the_decision(service: Service) -> None:
    """And nothing is decided before all is known that could speak against it."""
    seen: list[tuple[str, RunState, int]] = []

    async def look(method: str, call: Call) -> Any:
        answer = await call()
        if method in PROTOCOL:
            seen.append((method, service.record().run.state, len(service.visible())))
        return answer

    await service.accept()
    await service.attempt(service.executor("w", around=look))
    running, prepared = RunState.RUNNING, RunState.PREPARED
    assert seen == [
        *[(method, running, 0) for method in ("claim", "start", "snapshot", "exists", "mark_installation")],
        *[("prepare", prepared, 0), ("plan", prepared, 0)],
        *[("complete", prepared, number) for number in (1, 2, 3)],
        ("publish", prepared, 4),
        ("succeed", RunState.SUCCEEDED, 4),
    ]


@in_virtual_time
async def test_an_attempt_has_a_trace_of_its_own_within_the_runs(service: Service) -> None:
    """It is noted with the attempt."""
    run = await service.accept()
    await service.attempt()
    (attempt,) = service.record().attempts
    assert attempt.trace_id == run.trace_id
    assert attempt.span_id not in (None, run.span_id)


@in_virtual_time
async def test_progress_adds_up_over_the_datasets(service: Service) -> None:
    """Told after every batch; rows and bytes never go back."""
    await service.accept()
    await service.attempt()
    assert [p.dataset for p in service.progress] == ["small", "large", "large", "last", "last", "last"]
    assert [p.rows_read for p in service.progress] == [2, 4, 5, 6, 7, 8]
    assert service.progress[-1].bytes_written == service.record().run.bytes_written
    assert {(p.state, p.attempt, p.agency_id) for p in service.progress} == {(RunState.RUNNING, 1, 7)}


@in_virtual_time
async def test_nothing_to_do_is_no_claim(service: Service) -> None:
    """Nor is a run that somebody else has."""
    assert await service.first.claim() is None
    await service.accept()
    assert await service.second.claim() is not None
    assert await service.first.claim() is None
    assert await service.first.claim(run_id="r") is None
    assert "start" not in service.between.log


# -- errors before the decision ------------------------------------------------------------------

BEFORE_THE_DECISION = ["snapshot", "batch", "write", "seal", "exists", "mark_installation", "installation_id"]


# Calls of the history are repeated instead: see below.
@pytest.mark.parametrize("method", [each for each in BEFORE_THE_DECISION if each != "installation_id"])
@in_virtual_time
async def test_a_transient_error_sends_the_run_back(service: Service, method: str) -> None:
    """It is queued, for later; nothing is left of the attempt, and the next one succeeds."""
    await service.accept()
    service.between.on_next(method, refused(SourceBusy("no connection left")))
    attempted = await service.attempt()
    assert isinstance(attempted.error, SourceBusy)
    run = service.record().run
    assert (run.state, run.error, run.lease_expires_at, run.worker) == (RunState.QUEUED, None, None, None)
    assert run.not_before == service.clock.now() + timedelta(seconds=1)
    assert service.record().attempts[0].error_kind == "source_busy"
    assert (service.visible(), service.events(), service.left_over()) == ({}, [], NOTHING)

    assert await service.first.claim() is None
    await service.clock.sleep(1)
    await service.attempt()
    succeeded(service, outcomes=["retrying", "succeeded"])


@in_virtual_time
async def test_each_try_waits_longer(service: Service) -> None:
    """1, 2, 4, 8 seconds, and the last error is the run's."""
    await service.accept()
    service.between.on_every("batch", refused(SourceBusy("a deadlock")))
    pauses = []
    while (attempted := await service.attempt()).run.state is RunState.QUEUED:
        assert attempted.run.not_before is not None
        pauses.append((attempted.run.not_before - service.clock.now()).total_seconds())
        await service.clock.sleep(pauses[-1])
    assert pauses == [1, 2, 4, 8]
    error = service.record().run.error
    assert error is not None
    assert (error.kind, error.exit_code, error.retryable) == ("attempts_exhausted", 75, False)
    assert "after 5 attempts" in error.message
    assert "a deadlock" in error.message


@in_virtual_time
async def test_jitter_shortens_the_pause() -> None:
    """It is asked for anew each time."""
    service = Service(retry=RetryPolicy(backoff=Backoff(1.0, 60.0, jitter=lambda: 0.5)))
    await service.accept()
    service.between.on_next("batch", refused(Throttled("slow down")))
    attempted = await service.attempt()
    assert attempted.run.not_before == service.clock.now() + timedelta(seconds=0.75)


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (SourceUnavailable("no route"), "source_unavailable", 69),
        (DestinationUnavailable("503"), "destination_unavailable", 69),
        (SourceBusy("no slots"), "attempts_exhausted", 75),
        (Throttled("slow down"), "attempts_exhausted", 75),
    ],
)
@in_virtual_time
async def test_the_last_try_fails_the_run(error: PipelineError, kind: str, exit_code: int) -> None:
    """A server that can't be reached keeps its own kind and exit code."""
    service = Service(retry=IMPATIENT)
    await service.accept()
    service.between.on_next("batch", refused(error))
    attempted = await service.attempt()
    assert attempted.error is not None
    assert attempted.error.kind == kind
    failed(service, kind=kind, exit_code=exit_code)


# -- what is sure to pass ------------------------------------------------------------------------


SURE_TO_PASS = [
    SourceUnavailable("no route"),
    DestinationUnavailable("503"),
    UpstreamUnavailable("503"),
    Throttled("slow down"),
    StandbyConflict("cancelled by replay"),
    TooManyConnections("too many connections for role"),
]


@pytest.mark.parametrize("error", SURE_TO_PASS, ids=lambda error: error.kind)
@in_virtual_time
async def test_what_is_sure_to_pass_is_waited_for(error: PipelineError) -> None:
    """For a quarter of an hour such tries don't count, and come once a minute at least."""
    service = Service(retry=ONCE)
    await service.accept()
    service.between.on_every("batch", refused(error))
    while service.clock.monotonic() < 14 * 60:
        attempted = await service.attempt()
        assert (attempted.run.state, await service.runs.history.tries("r")) == (RunState.QUEUED, 0)
        assert attempted.run.not_before is not None
        pause = (attempted.run.not_before - service.clock.now()).total_seconds()
        assert pause <= 60
        await service.clock.sleep(pause)

    service.between.on_every("batch", None)
    await service.attempt()
    assert service.record().run.state is RunState.SUCCEEDED


@pytest.mark.parametrize("error", SURE_TO_PASS, ids=lambda error: error.kind)
@in_virtual_time
async def test_it_isnt_waited_for_for_ever(error: PipelineError) -> None:
    """After a quarter of an hour the tries count, and the run fails as ever."""
    service = Service()
    await service.accept()
    service.between.on_every("batch", refused(error))
    await until_finished(service)

    assert 15 * 60 <= service.clock.monotonic() <= 21 * 60
    exhausted = error.exit_code == 75
    failed(service, kind="attempts_exhausted" if exhausted else error.kind, exit_code=error.exit_code)
    assert await service.runs.history.tries("r") == 5


@in_virtual_time
async def test_a_run_that_always_breaks_off_late_has_its_tries(service: Service) -> None:
    """What had worked for twenty minutes wasn't hindered all the time: else it would be tried for ever."""
    await service.accept()

    async def late(call: Call) -> Any:
        await service.clock.sleep(20 * 60)
        raise StandbyConflict("cancelled by replay")

    service.between.on_every("batch", late)
    await until_finished(service)
    assert service.outcomes() == [*["retrying"] * 4, "failed"]


@in_virtual_time
async def test_an_outage_after_hours_of_work_is_a_new_one(service: Service) -> None:
    """It is waited for as the first, though that is long over."""
    await service.accept()

    async def late(call: Call) -> Any:
        await service.clock.sleep(2 * 60 * 60)
        raise SourceUnavailable("gone")

    service.between.on_next("batch", refused(SourceUnavailable("gone")), late)
    for _ in range(2):
        await service.clock.sleep(60)
        await service.attempt()
    assert await service.runs.history.tries("r") == 1
    service.between.on_next("batch", *[refused(SourceUnavailable("gone"))] * 10)
    for _ in range(10):
        await service.clock.sleep(60)
        await service.attempt()
    assert await service.runs.history.tries("r") == 1
    await service.clock.sleep(60)
    assert (await service.attempt()).run.state is RunState.SUCCEEDED


async def until_finished(service: Service) -> None:
    """Try again whenever the run is due."""
    while not (run := (await service.attempt()).run).state.finished:
        assert run.not_before is not None
        await service.clock.sleep((run.not_before - service.clock.now()).total_seconds())


@pytest.mark.parametrize(
    ("asked_for", "waits"), [(0.5, 1), (600, 600), (999_999_999, 24 * 60 * 60)], ids=["short", "long", "endless"]
)
@in_virtual_time
async def test_a_server_that_asks_to_be_left_alone_is(service: Service, asked_for: float, waits: float) -> None:
    """For a day at most; and for no shorter time than after any other error."""
    await service.accept()
    service.between.on_next("batch", refused(Throttled("slow down", retry_after=asked_for)))
    attempted = await service.attempt()
    assert attempted.run.not_before == service.clock.now() + timedelta(seconds=waits)


@in_virtual_time
async def test_so_is_a_destination_by_a_decided_run(service: Service) -> None:
    """It is published then."""
    await service.accept()
    service.between.on_next("publish", refused(Throttled("slow down", retry_after=600)))
    attempted = await service.attempt()
    assert attempted.run.not_before == service.clock.now() + timedelta(seconds=600)


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [120, -120])
@in_virtual_time
async def test_a_deadline_is_meant_by_the_historys_clock(service: Service, fast: float) -> None:
    """However wrong the worker's own is: a run that is in time succeeds, and one that isn't fails when it passes."""
    worker = service.executor("wrong", around=service.between, own_clock=WrongClock(fast))
    await service.accept("in-time", deadline=service.clock.now() + timedelta(seconds=60))
    await service.attempt(worker)
    assert service.record("in-time").run.state is RunState.SUCCEEDED
    manifest = json.loads(service.visible()["run_id=in-time/_manifest.json"])
    assert datetime.fromisoformat(manifest["created_at"]) == service.clock.now()
    assert datetime.fromisoformat(manifest["snapshot_at"]) == service.clock.now()

    await service.accept("late", deadline=service.clock.now() + timedelta(seconds=60))
    service.between.on_next("batch", lambda call: service.clock.sleep(1000))
    await service.attempt(worker)
    assert service.clock.monotonic() == 60
    error = service.record("late").run.error
    assert error is not None
    assert error.kind == "deadline_exceeded"


@in_virtual_time
async def test_a_deadline_ends_a_long_wait(service: Service) -> None:
    """The run fails when it passes, not when the server may be asked again."""
    await service.accept(deadline=service.clock.now() + timedelta(seconds=90))
    service.between.on_every("batch", refused(Throttled("slow down", retry_after=600)))
    await until_finished(service)
    assert service.clock.monotonic() == 90
    failed(service, kind="deadline_exceeded", exit_code=75)


def failed(service: Service, *, kind: str, exit_code: int) -> None:
    """The run has failed with this error, and left nothing behind."""
    run = service.record().run
    assert run.state is RunState.FAILED
    assert run.error is not None
    assert (run.error.kind, run.error.exit_code) == (kind, exit_code)
    assert [event.error for event in service.events()] == [run.error]
    assert (service.visible(), service.left_over()) == ({}, NOTHING)


@pytest.mark.parametrize("method", BEFORE_THE_DECISION)
@pytest.mark.parametrize(
    "error",
    [
        StepFailed("step 'x' raised KeyError"),
        QueryInvalid("no such table"),
        AccessDenied("403"),
        BucketMissing("no such bucket"),
        ForeignPrefix("somebody else's"),
    ],
    ids=lambda error: error.kind,
)
@in_virtual_time
async def test_a_permanent_error_fails_the_run_at_once(service: Service, method: str, error: PipelineError) -> None:
    """Another attempt would find the same."""
    await service.accept()
    service.between.on_next(method, refused(error))
    attempted = await service.attempt()
    assert attempted.error is error
    assert service.outcomes() == ["failed"]
    failed(service, kind=error.kind, exit_code=error.exit_code)


@pytest.mark.parametrize("method", BEFORE_THE_DECISION)
@in_virtual_time
async def test_an_unexpected_error_is_a_bug(service: Service, method: str) -> None:
    """It fails the run with 70, and names itself."""
    await service.accept()
    service.between.on_next(method, refused(ZeroDivisionError("division by zero")))
    await service.attempt()
    failed(service, kind="internal_error", exit_code=70)
    assert "ZeroDivisionError: division by zero" in service.events()[0].error.message  # type: ignore[union-attr]


@in_virtual_time
async def test_a_dataset_that_the_job_doesnt_have_fails_the_run(service: Service) -> None:
    """A request may be older than the job config."""
    await service.accept(datasets=("small", "gone"))
    attempted = await service.attempt()
    assert isinstance(attempted.error, UnknownDataset)
    failed(service, kind="unknown_dataset", exit_code=65)


@in_virtual_time
async def test_a_later_dataset_that_fails_takes_the_earlier_ones_along(service: Service) -> None:
    """Uploads that were sealed already are aborted, and forgotten."""
    await service.accept()
    open_uploads = []

    async def look() -> None:
        open_uploads.extend(service.destination.open_uploads)

    service.between.on_next("seal", None, None, after(look))
    service.between.on_next("batch", *[None] * 5, refused(StepFailed("in the last dataset")))
    await service.attempt()
    failed(service, kind="step_failed", exit_code=1)
    assert service.between.log.count("seal") == 2
    assert [method for method in service.between.log if method in ("lost_uploads", "abort", "forget_uploads")] == [
        "lost_uploads",
        "abort",
        "forget_uploads",
    ]


@in_virtual_time
async def test_a_manifest_that_is_there_already_fails_the_run(service: Service) -> None:
    """The id was used by a history that is gone, say; nothing is overwritten."""
    await service.accept()
    service.destination.objects["agency_id=7/run_id=r/_manifest.json"] = (b"{}", {})
    await service.attempt()
    run = service.record().run
    assert (run.state, run.error and run.error.kind) == (RunState.FAILED, "conflicting_objects")
    assert service.visible() == {"run_id=r/_manifest.json": b"{}"}
    assert service.left_over() == NOTHING


@in_virtual_time
async def test_clean_up_that_fails_is_left_to_gc(service: Service) -> None:
    """The run's own end stands, and the history still knows the uploads."""
    await service.accept()
    service.between.on_next("exists", refused(StepFailed("x")))
    service.between.on_next("abort", refused(DOWN))
    attempted = await service.attempt()
    assert attempted.run.state is RunState.FAILED
    (pending,), (lost,) = service.destination.open_uploads, await service.runs.leftovers.lost_uploads("r")
    assert (lost.key, lost.upload_id, lost.destination) == (pending.key, pending.upload_id, service.destination.url)


# -- an absent history ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [refused, lost_reply])
@pytest.mark.parametrize(
    ("method", "breaks", "outcomes"),
    [
        *[(method, {}, ["succeeded"]) for method in ("start", "record_upload", "installation_id")],
        *[(method, {}, ["succeeded"]) for method in ("prepare", "plan", "succeed")],
        *[(method, {"batch": SourceBusy("x")}, ["retrying", "succeeded"]) for method in ("attempts", "tries", "retry")],
        ("fail", {"batch": StepFailed("x")}, ["failed"]),
        ("release", {"publish": DOWN}, ["succeeded"]),
    ],
)
@in_virtual_time
async def test_calls_of_an_attempt_are_repeated_until_they_are_answered(
    service: Service,
    fault: Callable[[Exception], Fault],
    method: str,
    breaks: dict[str, PipelineError],
    outcomes: list[str],
) -> None:
    """Each write takes effect once, and the attempt goes on."""
    await service.accept()
    for call, error in breaks.items():
        service.between.on_next(call, refused(error))
    service.between.on_next(method, *[fault(HISTORY_DOWN)] * 3)
    await until_finished(service)
    assert service.between.log.count(method) >= 4
    assert (service.outcomes(), len(service.events()), service.left_over()) == (outcomes, 1, NOTHING)


@pytest.mark.parametrize("method", ["start", "prepare", "retry"])
@in_virtual_time
async def test_the_end_of_the_lease_ends_asking(service: Service, method: str) -> None:
    """Whoever claims the run then goes on; this worker leaves all to it."""
    await service.accept()
    if method == "retry":
        service.between.on_next("batch", refused(SourceBusy("no slots")))
    for each in (method, "renew"):
        service.between.on_every(each, refused(HISTORY_DOWN))
    attempted = await service.attempt()
    assert isinstance(attempted.error, Superseded)
    assert attempted.run.state is RunState.RUNNING
    assert service.clock.monotonic() == pytest.approx(LEASE.total_seconds() * 0.9)
    await service.clock.sleep(LEASE.total_seconds())
    await service.attempt(service.second)
    succeeded(service, outcomes=["lost", "succeeded"])


@pytest.mark.parametrize(
    ("method", "breaks", "state"),
    [
        ("succeed", {}, RunState.SUCCEEDED),
        ("release", {"publish": DOWN}, RunState.PREPARED),
        ("fail", {"batch": StepFailed("x")}, RunState.FAILED),
        ("retry", {"batch": SourceBusy("no slots")}, RunState.QUEUED),
    ],
)
@in_virtual_time
async def test_an_end_whose_reply_stays_lost_is_no_loss_of_the_run(
    method: str, breaks: dict[str, PipelineError], state: RunState
) -> None:
    """The worker finds its own write when it checks the lease, and says nothing of another worker."""
    recorded = Recorded()
    service = Service(tracer=recorded.tracer)
    await service.accept()
    for call, error in breaks.items():
        service.between.on_next(call, refused(error))
    service.between.on_every(method, lost_reply(HISTORY_DOWN))
    with recorded, capture_logs() as log:
        attempted = await service.attempt()
    assert (attempted.run.state, attempted.error) == (state, None)
    assert service.clock.monotonic() == pytest.approx(1)
    assert not any("taken over" in line["event"] for line in log)
    assert recorded.named("attempt 1").status.is_ok == (state is not RunState.FAILED)


@in_virtual_time
async def test_whatever_is_tried_again_is_an_event_of_the_attempt() -> None:
    """The run itself, and a call of the history."""
    recorded = Recorded()
    service = Service(tracer=recorded.tracer)
    await service.accept()
    service.between.on_next("batch", refused(SourceBusy("no slots")))
    service.between.on_next("retry", refused(HISTORY_DOWN))
    with recorded:
        await service.attempt()
    again, unanswered = (event for event in recorded.named("attempt 1").events if event.name == "retry")
    assert {*(again.attributes or {})} == {"error.type", "delay_ms"}
    assert (again.attributes or {})["error.type"] == "source_busy"
    assert dict(unanswered.attributes or {}) == {"server": "the history", "error.type": "history_unavailable"}


@in_virtual_time
async def test_a_history_that_stays_away_is_told_to_the_caller(service: Service) -> None:
    """The outcome can't be written, nor read."""
    await service.accept()
    for each in ("prepare", "renew", "get"):
        service.between.on_every(each, refused(HISTORY_DOWN))
    with pytest.raises(HistoryUnavailable):
        await service.attempt()


# -- from the decision on ------------------------------------------------------------------------


STAYS = [AccessDenied("403"), BucketMissing("gone"), ZeroDivisionError("a bug")]
OF_THE_HISTORY = [(method, error) for method in ("plan", "succeed") for error in STAYS]
OF_THE_DESTINATION = [(method, error) for method in ("complete", "publish") for error in (DOWN, *STAYS)]


@pytest.mark.parametrize(
    ("method", "error"), OF_THE_HISTORY + OF_THE_DESTINATION, ids=lambda each: str(getattr(each, "args", each))
)
@in_virtual_time
async def test_nothing_fails_a_decided_run(method: str, error: Exception) -> None:
    """
    It is released, for a moment or until a person may have changed something, and the next worker to claim it
    continues with the stored plan, in the same attempt.
    """
    service = Service(retry=ONCE)
    await service.accept()
    service.between.on_next(method, refused(error))
    attempted = await service.attempt()
    assert attempted.error is not None
    run = service.record().run
    assert (run.state, run.lease_expires_at) == (RunState.PREPARED, None)
    pause = 1 if attempted.error.retryable else 30
    assert run.not_before == service.clock.now() + timedelta(seconds=pause)
    assert service.events() == []
    await service.clock.sleep(pause)
    await service.attempt(service.second)
    succeeded(service, outcomes=["succeeded"])
    assert service.between.log.count("snapshot") == 1


@pytest.mark.parametrize("method", ["complete", "publish"])
@in_virtual_time
async def test_a_lost_reply_of_the_destination_is_harmless(service: Service, method: str) -> None:
    """The next attempt finds what was done."""
    await service.accept()
    service.between.on_next(method, lost_reply(DOWN))
    await until_finished(service)
    succeeded(service, outcomes=["succeeded"])


@pytest.mark.parametrize("fault", [refused, lost_reply])
@in_virtual_time
async def test_a_void_plan_is_exported_again(service: Service, fault: Callable[[Exception], Fault]) -> None:
    """Its first upload is gone and nothing was completed; what is left of it is aborted."""
    await service.accept()

    async def lose_upload() -> None:
        plan = service.record().plan
        assert plan is not None
        assert [type(artifact.staged) for artifact in plan.artifacts] == [MultipartUpload, InlineContent, InlineContent]
        (upload,) = service.destination.open_uploads
        await service.destination.abort(upload)

    service.between.on_next("complete", after(lose_upload))
    service.between.on_next("void_plan", fault(HISTORY_DOWN))
    attempted = await service.attempt()
    if attempted.run.state is RunState.PREPARED:  # the history was away
        await service.clock.sleep(1)
        attempted = await service.attempt()
    assert attempted.run.state is RunState.QUEUED
    assert (service.visible(), service.left_over()) == ({}, NOTHING)
    await service.attempt()
    succeeded(service, outcomes=["voided", "succeeded"])


@in_virtual_time
async def test_a_plan_for_a_destination_that_isnt_here_waits_for_it() -> None:
    """Somebody has to set it back first, so nobody looks again for a while; nothing is taken for lost meanwhile."""
    second = MemoryDestination(url="memory://second", inline_limit=0, handles="second")
    service = Service(others=[second])
    await service.accept()
    service.between.on_next("complete", refused(DOWN))
    await service.attempt()
    await service.clock.sleep(1)

    service.others = []
    attempted = await service.attempt(service.executor("without"))
    assert isinstance(attempted.error, DestinationChanged)
    assert (attempted.run.state, attempted.run.lease_expires_at) == (RunState.PREPARED, None)
    assert attempted.run.not_before == service.clock.now() + timedelta(seconds=30)
    assert (service.visible(), len(second.open_uploads)) == ({}, 3)

    await service.clock.sleep(30)
    await service.attempt()
    succeeded(service, outcomes=["succeeded"])
    assert second.open_uploads == []


# -- losing the run ------------------------------------------------------------------------------


async def _overtaken(service: Service) -> None:
    """The lease ends during a pause, and another worker exports and publishes."""
    await service.clock.sleep(LEASE.total_seconds())
    await service.attempt(service.second)
    assert service.record().run.state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    "method",
    ["start", "snapshot", "batch", "record_upload", "write", "seal", "exists", "mark_installation", "prepare"],
)
@in_virtual_time
async def test_a_worker_that_was_taken_over_changes_nothing(service: Service, method: str) -> None:
    """Paused at any place before the decision, it finds the run finished, and only its own uploads go."""
    await service.accept()
    claim = await service.runs.queue.claim(worker="paused", lease=LEASE, max_runs_per_agency=1)
    assert claim is not None
    paused_worker = service.executor("paused", around=service.between, lease=timedelta(days=1))  # renews nothing
    service.between.on_every("check", refused(HistoryUnavailable("paused")))  # nor does it look
    seen = {}

    async def paused() -> None:
        await _overtaken(service)
        seen.update(
            objects=dict(service.destination.objects), run=service.record().run, outbox=list(service.table.events)
        )

    service.between.on_next(method, after(paused))
    attempted = await paused_worker.execute(Lease(claim, ends_at=timedelta(days=1).total_seconds()))
    assert isinstance(attempted.error, Superseded)
    assert attempted.run == service.record().run
    assert seen == {
        "objects": service.destination.objects,
        "run": service.record().run,
        "outbox": service.table.events,
    }
    succeeded(service, outcomes=["lost", "succeeded"])


@in_virtual_time
async def test_a_cancelled_run_is_noticed_within_a_second(service: Service) -> None:
    """Its uploads are aborted, and it stays cancelled, with one event."""
    await service.accept()

    async def cancelled(call: Call) -> Any:
        await service.runs.queue.cancel("r")
        await service.clock.sleep(1000)

    service.between.on_next("batch", None, None, None, cancelled)  # in the middle of the upload
    attempted = await service.attempt()
    assert isinstance(attempted.error, Superseded)
    assert attempted.run.state is RunState.CANCELLED
    assert service.clock.monotonic() == 1
    assert [event.state for event in service.events()] == ["cancelled"]
    assert service.outcomes() == ["cancelled"]
    assert (service.visible(), service.left_over()) == ({}, NOTHING)


@in_virtual_time
async def test_a_run_cancelled_right_before_the_decision_is_not_decided(service: Service) -> None:
    """The decision starts from `running`, so one of the two comes first."""
    await service.accept()
    service.between.on_next("prepare", after(lambda: service.runs.queue.cancel("r")))
    attempted = await service.attempt()
    assert attempted.run.state is RunState.CANCELLED
    assert (service.visible(), service.left_over()) == ({}, NOTHING)


@in_virtual_time
async def test_a_run_cannot_be_cancelled_once_it_is_decided(service: Service) -> None:
    """It succeeds."""
    await service.accept()
    service.between.on_next("complete", after(lambda: service.runs.queue.cancel("r")))
    await service.attempt()
    succeeded(service, outcomes=["succeeded"])


@in_virtual_time
async def test_a_run_whose_workers_die_of_it_ends_as_well(service: Service) -> None:
    """Attempts that were lost are tries like the others, though nobody could say why they failed."""
    await service.accept()
    for number in range(5):
        claim = await service.runs.queue.claim(worker=f"killed {number}", lease=LEASE, max_runs_per_agency=1)
        assert claim is not None
        await service.clock.sleep(LEASE.total_seconds())
    attempted = await service.attempt()
    assert attempted.error is not None
    assert "after 5 attempts" in str(attempted.error)
    assert "snapshot" not in service.between.log
    assert service.outcomes() == [*["lost"] * 5, "failed"]
    failed(service, kind="attempts_exhausted", exit_code=75)


# -- draining ------------------------------------------------------------------------------------


async def drained(service: Service, method: str, *, calls_before: int = 0, done: bool = False) -> None:
    """Cancel an attempt while it waits for a call, made or not."""
    reached = asyncio.Event()

    async def stuck(call: Call) -> Any:
        if done:
            await call()
        reached.set()
        await asyncio.Event().wait()

    service.between.on_next(method, *[None] * calls_before, stuck)
    lease = await service.first.claim()
    assert lease is not None
    attempt = asyncio.create_task(service.first.execute(lease))
    await reached.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


@pytest.mark.parametrize("method", ["start", "snapshot", "batch", "write", "seal", "exists", "prepare"])
@in_virtual_time
async def test_a_drained_run_is_handed_back(method: str) -> None:
    """It is due at once, its uploads are gone, and that was no try."""
    service = Service(retry=ONCE)
    await service.accept()
    await drained(service, method, calls_before=3 if method == "batch" else 0)
    assert service.record().run.state is RunState.QUEUED
    assert service.outcomes() == ["handed_back"]
    assert await service.runs.history.tries("r") == 0
    assert (service.visible(), service.left_over()) == ({}, NOTHING)
    await service.attempt(service.second)
    succeeded(service, outcomes=["handed_back", "succeeded"])


@pytest.mark.parametrize(("method", "done"), [("prepare", True), ("complete", False), ("publish", True)])
@in_virtual_time
async def test_a_drained_run_that_is_decided_is_let_go(service: Service, method: str, done: bool) -> None:
    """Another worker goes on with its plan at once."""
    await service.accept()
    await drained(service, method, done=done)
    assert service.record().run.state is RunState.PREPARED
    await service.attempt(service.second)
    succeeded(service, outcomes=["succeeded"])
    assert service.between.log.count("snapshot") == 1


@pytest.mark.parametrize("fault", [refused, lost_reply])
@in_virtual_time
async def test_a_run_is_handed_back_although_the_history_stumbles(
    service: Service, fault: Callable[[Exception], Fault]
) -> None:
    """Else everybody would wait for the end of the lease."""
    await service.accept()
    service.between.on_next("hand_back", fault(HISTORY_DOWN))
    await drained(service, "batch", calls_before=3)
    assert await service.runs.history.tries("r") == 0
    assert service.left_over() == NOTHING
    await service.attempt(service.second)
    succeeded(service, outcomes=["handed_back", "succeeded"])


@in_virtual_time
async def test_a_run_is_handed_back_while_what_it_waits_for_hangs(service: Service) -> None:
    """Another worker goes on at once, and what the first still does when it comes to itself harms nobody."""
    await service.accept()
    reached, released = asyncio.Event(), asyncio.Event()

    async def stuck(call: Call) -> Any:
        reached.set()
        await asyncio.Event().wait()

    async def hangs(call: Call) -> Any:
        await shielded(released.wait())
        return await call()

    service.between.on_next("batch", None, None, None, stuck)
    lease = await service.first.claim()
    assert lease is not None
    attempt = asyncio.create_task(service.first.execute(lease))
    await reached.wait()
    service.between.on_every("leave", hangs)
    attempt.cancel()

    await service.clock.sleep(0.1)
    assert service.outcomes() == ["handed_back"]
    second = await service.second.claim()
    assert second is not None
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert service.clock.monotonic() <= 6
    assert service.first.attempts
    await service.second.execute(second)
    released.set()
    await asyncio.wait(service.first.attempts)
    succeeded(service, outcomes=["handed_back", "succeeded"])


@in_virtual_time
async def test_a_connection_that_hangs_doesnt_keep_a_run(service: Service) -> None:
    """It is handed back on another one."""
    await service.accept()
    service.between.on_next("hand_back", lambda call: asyncio.Event().wait())
    await drained(service, "batch", calls_before=3)
    assert service.clock.monotonic() <= 5
    assert service.outcomes() == ["handed_back"]
    assert service.left_over() == NOTHING


@in_virtual_time
async def test_what_breaks_while_stopping_says_nothing_about_the_run(service: Service) -> None:
    """A connection that can't be closed in order, say: the run is handed back all the same, and that was no try."""
    await service.accept()
    reached = asyncio.Event()

    async def breaks(call: Call) -> Any:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise SourceUnavailable("can't roll back") from None

    service.between.on_next("batch", breaks)
    lease = await service.first.claim()
    assert lease is not None
    attempt = asyncio.create_task(service.first.execute(lease))
    await reached.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert service.outcomes() == ["handed_back"]
    assert await service.runs.history.tries("r") == 0


@pytest.mark.parametrize(
    "error", [SystemExit("enough"), KeyboardInterrupt("enough"), GeneratorExit("enough"), BaseException("enough")]
)
@pytest.mark.parametrize("method", ["snapshot", "batch", "write", "seal", "leave"])
def test_user_code_that_ends_the_process_fails_its_run(method: str, error: BaseException) -> None:
    """A plugin's, or that of a value which a step has made. The worker goes on."""

    @in_virtual_time
    async def scenario() -> None:
        service = Service()
        await service.accept()
        service.between.on_next(method, refused(error))
        await service.attempt()
        failed(service, kind="step_failed", exit_code=1)
        assert f"{type(error).__name__}: enough" in service.events()[0].error.message  # type: ignore[union-attr]

        await service.accept("next")
        await service.attempt()
        succeeded(service, outcomes=["succeeded"], run_id="next")

    scenario()


@pytest.mark.parametrize("method", ["complete", "publish"])
@in_virtual_time
async def test_a_plugin_that_ends_the_process_while_a_decided_run_is_published(service: Service, method: str) -> None:
    """The run is decided: it is published by the next one that claims it."""
    await service.accept()
    service.between.on_next(method, refused(SystemExit("enough")))
    attempted = await service.attempt()
    assert (attempted.run.state, attempted.error.kind) == (RunState.PREPARED, "step_failed")  # type: ignore[union-attr]


@in_virtual_time
async def test_a_plugin_that_ends_the_process_while_it_is_cleaned_up(service: Service) -> None:
    """The run has ended already; `gc` has to remove what is left."""
    await service.accept()
    service.between.on_next("batch", None, None, None, None, refused(StepFailed("no such street")))
    service.between.on_every("abort", refused(SystemExit("enough")))
    attempted = await service.attempt()
    assert attempted.run.state is RunState.FAILED
    assert service.left_over() != NOTHING


@in_virtual_time
async def test_a_cancellation_that_nobody_asked_for_is_a_bug(service: Service) -> None:
    """A step that lets one of its own out would otherwise be handed back and tried for ever."""
    await service.accept()
    service.between.on_next("batch", refused(asyncio.CancelledError()))
    await service.attempt()
    failed(service, kind="internal_error", exit_code=70)


@in_virtual_time
async def test_a_history_that_stays_away_cant_hold_up_a_drain(service: Service) -> None:
    """Handing back is given up in time; the lease ends by itself."""
    await service.accept()
    service.between.on_every("hand_back", refused(HISTORY_DOWN))
    await drained(service, "snapshot")
    assert service.clock.monotonic() <= 10
    assert service.record().run.state is RunState.RUNNING


@in_virtual_time
async def test_a_second_cancellation_doesnt_break_off_the_handing_back(service: Service) -> None:
    """Whoever is impatient waits for it still."""
    await service.accept()

    async def slow(call: Call) -> Any:
        await service.clock.sleep(2)
        return await call()

    service.between.on_next("hand_back", slow)
    service.between.on_next("snapshot", lambda call: asyncio.Event().wait())
    lease = await service.first.claim()
    assert lease is not None
    attempt = asyncio.create_task(service.first.execute(lease))
    for _ in range(2):
        await service.clock.sleep(1)
        attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert service.outcomes() == ["handed_back"]


# -- dry runs ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_dry_run_leaves_a_history_row_and_an_event(service: Service) -> None:
    """It reads all rows, and touches the destination nowhere."""
    await service.accept(dry_run=True)
    attempted = await service.attempt()
    run = attempted.run
    assert (run.state, run.rows_read, run.rows_written, run.manifest_url) == (RunState.SUCCEEDED, 8, 8, None)
    assert run.bytes_written
    (event,) = service.events()
    assert (event.dry_run, event.state, event.manifest, event.rows_read) == (True, "succeeded", None, 8)
    assert service.record().plan is None
    assert (service.destination.objects, service.left_over()) == ({}, NOTHING)
    assert not {"exists", "record_upload", "mark_installation", "write"} & set(service.between.log)


@in_virtual_time
async def test_a_dry_run_fails_and_is_retried_as_any_other(service: Service) -> None:
    """Its errors mean the same."""
    await service.accept(dry_run=True)
    service.between.on_next("batch", refused(SourceBusy("no slots")), refused(StepFailed("x")))
    assert (await service.attempt()).run.state is RunState.QUEUED
    await service.clock.sleep(1)
    await service.attempt()
    failed(service, kind="step_failed", exit_code=1)


# -- several runs --------------------------------------------------------------------------------


@in_virtual_time
async def test_two_workers_share_the_runs(service: Service) -> None:
    """Each run is worked on once; those of one agency one after the other."""
    for number in range(4):
        await service.accept(f"r{number}", agency_id=7 + number % 2)

    async def works(executor: Any) -> None:
        idle = 0
        while idle < 3:
            lease = await executor.claim()
            if lease is None:
                idle += 1
                await service.clock.sleep(1)
            else:
                await executor.execute(lease)

    await asyncio.gather(works(service.first), works(service.second))
    assert {run.state for run in await service.runs.history.newest()} == {RunState.SUCCEEDED}
    assert [service.outcomes(f"r{number}") for number in range(4)] == [["succeeded"]] * 4
    assert len(service.table.events) == 4


@in_virtual_time
async def test_uploads_of_a_killed_attempt_go_with_the_next_one(service: Service) -> None:
    """Whoever finishes the run looks after what the others left."""
    await service.accept()
    claim = await service.runs.queue.claim(worker="killed", lease=LEASE, max_runs_per_agency=1)
    assert claim is not None
    upload = service.destination.start("agency_id=7/run_id=r/large/part-00000.ndjson")
    await service.runs.attempts.record_upload(claim, upload.model_copy(update={"destination": service.destination.url}))
    await service.clock.sleep(LEASE.total_seconds())
    await service.attempt()
    succeeded(service, outcomes=["lost", "succeeded"])


def test_attempts_that_a_failover_of_the_history_has_lost() -> None:
    """They tell nothing about the last error, and break nothing: what is written next finds the run gone."""
    assert Trouble.of([], now=EPOCH) == Trouble()
