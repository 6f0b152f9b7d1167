"""The `run` command's run: accepted, worked on to its end by the workers' own protocol, and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from pipeline_processing.destinations.installation import INSTALLATION_KEY, mark_of
from pipeline_processing.errors import (
    AccessDenied,
    ConflictingRequest,
    DestinationUnavailable,
    ForeignPrefix,
    HistoryUnavailable,
    PipelineError,
    RunHeldElsewhere,
    RunPutOff,
    SourceBusy,
    SourceUnavailable,
    StepFailed,
    Throttled,
    TooManyConnections,
)
from pipeline_processing.model import FormatName, JobRequest, Run, RunState
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.runs.run_now import LONGEST_WAIT
from tests.unit.in_memory import (
    INSTALLATION,
    LEASE,
    SPAN_ID,
    TRACE_ID,
    Call,
    Fault,
    Service,
    lost_reply,
    refused,
    without_jitter,
)
from tests.unit.virtual_clock import WrongClock, in_virtual_time

HISTORY_DOWN = HistoryUnavailable("the history is down")
DOWN = DestinationUnavailable("the destination is down")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tracebacks in the log take most of the time otherwise."""
    with capture_logs():
        yield


@pytest.fixture
def service() -> Service:
    return Service()


async def run(service: Service, run_id: str = "r", **request: Any) -> Run:
    """Run it now; the run as the history has it then."""
    asked = JobRequest(agency_id=7, **request)
    finished = await service.run_now().run(asked, run_id=run_id, trace_id=TRACE_ID, span_id=SPAN_ID)
    assert finished == service.record(run_id).run
    return finished


# -- from request to end -------------------------------------------------------------------------


@in_virtual_time
async def test_a_run_is_accepted_and_worked_on(service: Service) -> None:
    """Through the whole protocol, at once."""
    finished = await run(service)
    assert finished.state is RunState.SUCCEEDED
    assert [call for call in service.between.log if call in ("accept", "claim", "prepare", "succeed")] == [
        "accept",
        "claim",
        "prepare",
        "succeed",
    ]
    assert service.clock.monotonic() == 0
    assert len(service.events()) == 1


@pytest.mark.parametrize("fails", [False, True])
@in_virtual_time
async def test_a_finished_run_is_told_again_without_any_work(service: Service, fails: bool) -> None:
    """Also one that failed: a second try is a replay."""
    if fails:
        service.between.on_next("batch", refused(StepFailed("x")))
    first = await run(service)
    service.between.log.clear()
    assert await run(service) == first
    assert "claim" not in service.between.log
    assert len(service.events()) == 1


@in_virtual_time
async def test_a_run_id_stands_for_one_request(service: Service) -> None:
    """Another request under it is refused."""
    await run(service)
    with pytest.raises(ConflictingRequest):
        await run(service, format=FormatName.CSV)


@in_virtual_time
async def test_a_foreign_destination_is_found_before_the_run_id_is_spent(service: Service) -> None:
    """Nothing is written to the history."""
    service.destination.objects[INSTALLATION_KEY] = (mark_of(uuid4()), {})
    with pytest.raises(ForeignPrefix):
        await run(service)
    assert await service.runs.history.get("r") is None
    assert mark_of(INSTALLATION) != service.destination.objects[INSTALLATION_KEY][0]


@in_virtual_time
async def test_a_cancelled_run_is_told_as_such(service: Service) -> None:
    """From the moment at which the worker notices."""

    async def cancelled(call: Call) -> Any:
        await service.runs.queue.cancel("r")
        await service.clock.sleep(1000)

    service.between.on_next("batch", cancelled)
    assert (await run(service)).state is RunState.CANCELLED


@in_virtual_time
async def test_being_interrupted_hands_the_run_back(service: Service) -> None:
    """A worker may go on with it at once."""
    reached = asyncio.Event()

    async def stuck(call: Call) -> Any:
        reached.set()
        await asyncio.Event().wait()

    service.between.on_next("batch", stuck)
    running = asyncio.create_task(run(service))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert service.outcomes() == ["handed_back"]
    assert (await service.attempt(service.second)).run.state is RunState.SUCCEEDED


# -- waiting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True])
@in_virtual_time
async def test_a_run_that_somebody_else_has_is_not_waited_for(service: Service, prepared: bool) -> None:
    """The error names the worker."""
    if prepared:
        await service.accept()
        service.between.on_next("complete", refused(DOWN))
        await service.attempt()
        await service.clock.sleep(1)
    else:
        await service.accept()
    assert await service.second.claim() is not None
    with pytest.raises(RunHeldElsewhere, match="worker second"):
        await run(service)


@in_virtual_time
async def test_it_waits_while_the_agency_is_full(service: Service) -> None:
    """Until another run of the agency ends."""
    await service.accept("other")
    other = await service.second.claim()
    assert other is not None
    running = asyncio.create_task(run(service))
    await service.clock.sleep(20)
    assert not running.done()
    await service.second.execute(other)
    assert (await running).state is RunState.SUCCEEDED
    assert 20 <= service.clock.monotonic() < 21


@in_virtual_time
async def test_it_waits_until_it_is_due(service: Service) -> None:
    """`not_before` of the request."""
    finished = await run(service, not_before=service.clock.now() + timedelta(minutes=5))
    assert finished.state is RunState.SUCCEEDED
    assert 300 <= service.clock.monotonic() < 301


@in_virtual_time
async def test_somebody_else_may_finish_it_meanwhile(service: Service) -> None:
    """Then its result is told."""
    running = asyncio.create_task(run(service, not_before=service.clock.now() + timedelta(minutes=1)))
    await service.clock.sleep(0.25)
    await service.runs.queue.cancel("r")
    assert (await running).state is RunState.CANCELLED
    assert service.clock.monotonic() < 1


@in_virtual_time
async def test_a_dead_workers_run_is_taken_over_once_its_lease_has_ended(service: Service) -> None:
    """Neither of the two had an event before."""
    await service.accept()
    assert await service.second.claim() is not None
    await service.clock.sleep(LEASE.total_seconds())
    finished = await run(service)
    assert (finished.state, finished.attempt) == (RunState.SUCCEEDED, 2)
    assert service.outcomes() == ["lost", "succeeded"]


# -- errors --------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_is_retried_to_the_end(service: Service) -> None:
    """With the pauses of a worker."""
    service.between.on_next("batch", *[refused(SourceBusy("no slots"))] * 3)
    finished = await run(service)
    assert (finished.state, finished.attempt) == (RunState.SUCCEEDED, 4)
    assert 1 + 2 + 4 <= service.clock.monotonic() < 1 + 2 + 4 + 3 * 0.5


@in_virtual_time
async def test_what_is_sure_to_pass_is_waited_for_as_a_worker_does(service: Service) -> None:
    """Beyond its tries."""
    service.between.on_next("batch", *[refused(TooManyConnections("full"))] * 10)
    assert (await run(service)).attempt == 11
    assert 300 <= service.clock.monotonic() <= 360


@pytest.mark.parametrize(("asked_for", "waits"), [(600, True), (3600, False)])
@in_virtual_time
async def test_a_server_that_asks_to_be_left_alone(service: Service, asked_for: float, waits: bool) -> None:
    """Some minutes are waited for; else the run stays queued, to be taken up again by its id."""
    service.between.on_next("batch", refused(Throttled("slow down", retry_after=asked_for)))
    if waits:
        assert (await run(service)).state is RunState.SUCCEEDED
        assert asked_for <= service.clock.monotonic() < asked_for + 1
        return
    with pytest.raises(RunPutOff, match=r"13:00:00Z.*--run-id r.*slow down") as raised:
        await run(service)
    assert raised.value.exit_code == 75
    assert (service.clock.monotonic(), service.record().run.state) == (0, RunState.QUEUED)
    await service.clock.sleep(asked_for)
    assert (await run(service)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("fast", [120, -120])
@in_virtual_time
async def test_who_has_a_run_is_told_by_the_historys_clock(service: Service, fast: float) -> None:
    """Another worker's lease is as long as the database says, however wrong the clock is here."""
    service.first = service.executor("wrong", around=service.between, own_clock=WrongClock(fast))
    await service.accept()
    held = await service.second.claim()
    assert held is not None
    with pytest.raises(RunHeldElsewhere):
        await run(service)
    await service.clock.sleep(LEASE.total_seconds())
    assert (await run(service)).state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "kind", "exit_code", "attempts"),
    [
        (SourceUnavailable("no route"), "source_unavailable", 69, 3),
        (SourceBusy("no slots"), "attempts_exhausted", 75, 3),
        (StepFailed("x"), "step_failed", 1, 1),
    ],
)
@in_virtual_time
async def test_retries_end(error: PipelineError, kind: str, exit_code: int, attempts: int) -> None:
    """After the last try, or at once where none can help."""
    service = Service(retry=RetryPolicy(max_attempts=3, backoff=without_jitter(), patience_for_servers=timedelta()))
    service.between.on_every("batch", refused(error))
    finished = await run(service)
    assert (finished.state, finished.attempt) == (RunState.FAILED, attempts)
    assert finished.error is not None
    assert (finished.error.kind, finished.error.exit_code) == (kind, exit_code)


PATIENT = ["installation_id", "verify_installation", "accept", "claim", "get"]


@pytest.mark.parametrize("method", PATIENT)
@in_virtual_time
async def test_a_server_that_stumbles_is_asked_again(service: Service, method: str) -> None:
    """A few times, each a little later."""
    if method == "get":
        await service.accept("other")
        other = await service.second.claim()
        assert other is not None
        asyncio.get_running_loop().call_later(
            2, lambda: tasks.append(asyncio.create_task(service.second.execute(other)))
        )
    tasks: list[Any] = []
    service.between.on_next(method, *[refused(HISTORY_DOWN)] * 4)
    assert (await run(service)).state is RunState.SUCCEEDED
    assert service.clock.monotonic() >= 1 + 2 + 4 + 8


@pytest.mark.parametrize("method", PATIENT[:-1])
@in_virtual_time
async def test_a_server_that_stays_away_is_told(service: Service, method: str) -> None:
    """After as many tries as a run gets."""
    service.between.on_every(method, refused(HISTORY_DOWN))
    with pytest.raises(HistoryUnavailable):
        await run(service)
    assert service.between.log.count(method) == 5
    assert service.clock.monotonic() == 1 + 2 + 4 + 8


@in_virtual_time
async def test_a_permanent_error_is_told_at_once(service: Service) -> None:
    """Asking again wouldn't help."""
    service.between.on_next("accept", refused(AccessDenied("the history refuses this user")))
    with pytest.raises(AccessDenied):
        await run(service)
    assert service.clock.monotonic() == 0


@in_virtual_time
async def test_a_lost_reply_to_accept_is_no_second_run(service: Service) -> None:
    """The request is the same, so it is the same run."""
    service.between.on_next("accept", lost_reply(HISTORY_DOWN))
    assert (await run(service)).state is RunState.SUCCEEDED
    assert len(await service.runs.history.newest()) == 1


# -- a decided run -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [refused, lost_reply])
@in_virtual_time
async def test_publishing_goes_on_after_an_error(service: Service, fault: Callable[[Exception], Fault]) -> None:
    """With the stored plan."""
    service.between.on_next("publish", *[fault(DOWN)] * 3)
    finished = await run(service)
    assert (finished.state, finished.attempt) == (RunState.SUCCEEDED, 1)
    assert service.between.log.count("snapshot") == 1


@in_virtual_time
async def test_a_decided_run_that_cant_be_published_stays_decided(service: Service) -> None:
    """The error is told after as many tries as a run gets, and a worker publishes it once it can be."""
    service.between.on_every("publish", refused(DOWN))
    with pytest.raises(DestinationUnavailable):
        await run(service)
    assert service.between.log.count("publish") == 5
    assert service.record().run.state is RunState.PREPARED
    assert service.events() == []
    service.between.on_every("publish", None)
    assert (await run(service)).state is RunState.SUCCEEDED
    assert service.between.log.count("snapshot") == 1


@in_virtual_time
async def test_a_refusal_to_publish_is_told_at_once(service: Service) -> None:
    """And it stays decided, too."""
    service.between.on_every("publish", refused(AccessDenied("no s3:PutObject")))
    with pytest.raises(AccessDenied):
        await run(service)
    assert service.between.log.count("publish") == 1
    assert service.record().run.state is RunState.PREPARED


@in_virtual_time
async def test_a_plan_that_is_lost_fails_the_run(service: Service) -> None:
    """That is told as its result."""
    service.destination.objects["agency_id=7/run_id=r/last/part-00000.ndjson"] = (b"not ours", {})
    finished = await run(service)
    assert finished.state is RunState.FAILED
    assert finished.error is not None
    assert finished.error.kind == "conflicting_objects"


# -- dry runs ------------------------------------------------------------------------------------


async def dry(service: Service) -> Run:
    """`run --dry-run`: the same, on a run table of its own, by a policy that fails what a command can't wait for."""
    alone = Service(
        rows=service.rows, retry=replace(service.retry, longest_delay=LONGEST_WAIT), between=service.between
    )
    return await run(alone, dry_run=True)


@in_virtual_time
async def test_a_dry_run_tells_what_a_run_would_have(service: Service) -> None:
    """Rows and bytes, and no manifest."""
    completion = RunCompletion.of(await dry(service))
    assert (completion.state, completion.dry_run, completion.attempt) == ("succeeded", True, 1)
    assert (completion.rows_read, completion.rows_written, completion.manifest) == (8, 8, None)
    assert completion.bytes_written == (await run(service)).bytes_written


@in_virtual_time
async def test_a_dry_run_is_retried_in_this_process(service: Service) -> None:
    """With the pauses of a run."""
    service.between.on_next("batch", *[refused(SourceBusy("no slots"))] * 2)
    completion = RunCompletion.of(await dry(service))
    assert (completion.state, completion.attempt, completion.duration_ms) == ("succeeded", 3, 3000)


@pytest.mark.parametrize(("asked_for", "state", "seconds"), [(600, "succeeded", 600), (3600, "failed", 0)])
@in_virtual_time
async def test_a_dry_run_that_would_wait_for_long_fails(
    service: Service, asked_for: float, state: str, seconds: float
) -> None:
    """Nobody could go on with it later."""
    service.between.on_next("batch", refused(Throttled("slow down", retry_after=asked_for)))
    finished = await dry(service)
    assert (finished.state.value, service.clock.monotonic()) == (state, seconds)
    assert finished.error is None or (finished.error.kind, finished.error.exit_code) == ("attempts_exhausted", 75)


@in_virtual_time
async def test_a_dry_runs_last_error_is_that_of_a_run(service: Service) -> None:
    """Retries that are used up have a kind of their own, as for a run."""
    service.between.on_every("batch", refused(SourceBusy("no slots")))
    dry_error, run_error = (await dry(service)).error, (await run(service)).error
    assert dry_error == run_error
