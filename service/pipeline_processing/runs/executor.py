"""
One attempt of a run, from its claim to its end: stream, verify, prepare (the decision), publish, finish.

What follows from an error depends on whether the run is decided. Before that, the attempt ends: the run is queued
again if another attempt may help, else it fails. From `prepared` on there is only one way, forward: the worker gives
up its lease, and whoever claims the run next goes on with the stored plan.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog
from opentelemetry.trace import Status, StatusCode, Tracer, get_current_span

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor, Export
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.patience import until_answered
from pipeline_processing.aio.shielded import give_up, in_time, shielded
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import (
    AttemptsExhausted,
    ConflictingObjects,
    DeadlineExceeded,
    HistoryUnavailable,
    InternalError,
    PipelineError,
    ProcessEnded,
    StepFailed,
    Superseded,
)
from pipeline_processing.model import Run, RunState, UploadRef
from pipeline_processing.ports import Services, Source
from pipeline_processing.runs.clean_up import CleanUp
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.failures import failure_of
from pipeline_processing.runs.lease import Held, Leases
from pipeline_processing.runs.publication import Publisher, decide, manifest_key, outcome_of
from pipeline_processing.runs.retrying import RetryPolicy, Trouble, final_error
from pipeline_processing.runs.store import Claim, RunStore
from pipeline_processing.runs.totals import RunTotals
from pipeline_processing.telemetry.logs import bound_run
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import parent_context, trace_ids
from pipeline_processing.user_code import NoException, asked_to_stop, contained, described, is_for_us

log = structlog.get_logger(__name__)

T = TypeVar("T")

_CLEAN_UP_SECONDS = 10.0
_HAND_BACK_TRIES = 3
"""So many at a time, each a third of the time later: a connection that doesn't answer isn't the history."""
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_MENDED_BY_HAND = timedelta(seconds=30)
"""Somebody has to change a setting or a permission first."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """The run as an attempt left it, and the error that ended the attempt, if one did."""

    run: Run
    error: PipelineError | None = None


class IsolatedAttempt(Protocol):
    """One attempt in a process of its own."""

    async def start(self) -> None:
        """Start the process, and wait until it renews the lease by itself, or has ended."""

    async def ended(self) -> int:
        """Wait for the process to end: its exit code, or, negative, the signal that ended it."""

    async def stop(self) -> None:
        """End the process if it was started and still runs; it hands the run back."""


Isolated = Callable[[Claim], IsolatedAttempt]


class Executor:
    """
    Claims runs and works on them, one call an attempt.

    `isolated` makes the attempts of runs that may end their process; without it, they are made in this one.
    `leave_seconds` is how long handing back a run, and cleaning up after it, may take. `on_progress` is told after
    every batch; `after` the name of each step of the protocol once it is done (tests stop the world there).
    """

    def __init__(
        self,
        *,
        worker: str,
        runs: RunStore,
        source: Source,
        services: Services,
        destinations: Destinations,
        config: AgencyJobConfig,
        config_id: str,
        leases: Leases,
        clock: Clock,
        tracer: Tracer,
        mask: Mask,
        retry: RetryPolicy,
        max_runs_per_agency: int,
        max_row_bytes: int,
        jitter: Callable[[], float],
        leave_seconds: float,
        on_progress: Callable[[RunProgress], None],
        isolated: Isolated | None = None,
        after: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.worker = worker
        self._runs = runs
        self._source = source
        self._services = services
        self._destinations = destinations
        self._config = config
        self.config_id = config_id
        self._leases = leases
        self._clock = clock
        self._tracer = tracer
        self._mask = mask
        self._retry = retry
        self._max_runs_per_agency = max_runs_per_agency
        self._max_row_bytes = max_row_bytes
        self._jitter = jitter
        self._leave_seconds = leave_seconds
        self._on_progress = on_progress
        self._isolated = isolated
        self._after = after
        self._publisher = Publisher(
            attempts=runs.attempts, destinations=destinations, clock=clock, mask=mask, after=after
        )
        self.attempts: set[asyncio.Task[Attempted]] = set()
        """Those that haven't ended, also when they were given up: what they wait for may hang."""

    async def claim(self, *, run_id: str | None = None) -> Held | None:
        """Claim the next run that is due, or that run."""
        held = await self._leases.claim(
            worker=self.worker,
            max_runs_per_agency=self._max_runs_per_agency,
            config_id=self.config_id,
            run_id=run_id,
        )
        if held is not None:
            self._after("claim")
        return held

    async def execute(self, held: Held) -> Attempted:
        """
        Work on a claimed run until the attempt ends, one way or another; the run as it stands then.

        Raises HistoryUnavailable when the outcome can't be written: the run goes on when its lease has ended. When
        cancelled, hands the run back first, whatever hangs.
        """
        attempt = asyncio.create_task(self._traced(held))
        self.attempts.add(attempt)
        attempt.add_done_callback(self.attempts.discard)
        try:
            await asyncio.wait([attempt])
        except asyncio.CancelledError:
            give_up(attempt)
            await shielded(self._leave(held.claim, attempt))
            raise
        return attempt.result()

    async def _traced(self, held: Held) -> Attempted:
        run = held.claim.run
        assert run.trace_id is not None  # `accept` stores both with every run
        assert run.span_id is not None
        parent = parent_context(run.trace_id, run.span_id)
        with (
            self._tracer.start_as_current_span(f"attempt {run.attempt}", context=parent) as span,
            bound_run(run_id=run.run_id, agency_id=run.agency_id, attempt=run.attempt, trace_id=run.trace_id),
        ):
            span.set_attributes({"run_id": run.run_id, "agency_id": run.agency_id, "attempt": run.attempt})
            log.info("attempt started", state=run.state.value, worker=held.claim.worker)
            attempted = await self._under_lease(held)
            if attempted.error is not None:
                span.set_status(Status(StatusCode.ERROR, attempted.error.kind))
            log.info("attempt ended", state=attempted.run.state.value, rows_written=attempted.run.rows_written)
            return attempted

    async def _under_lease(self, held: Held) -> Attempted:
        claim = held.claim
        isolated = self._isolated if claim.suspect else None
        try:
            if isolated is not None:
                attempted = await self._attempt_apart(held, isolated)
            else:
                attempted = await self._leases.work(held, self._attempt(claim))
        except Superseded as error:
            log.warning("the run was taken over or cancelled", fence=claim.fence)
            attempted = Attempted(await self._current(claim), error)
        # A prepared run's uploads belong to its plan. One that succeeded has none left but those of attempts before.
        run = attempted.run
        if run.state is not RunState.PREPARED and (run.state is not RunState.SUCCEEDED or run.attempt > 1):
            await self._finally(self._clean_up(run.run_id))
        return attempted

    async def _attempt(self, claim: Claim) -> Attempted:
        """The protocol, in order. Which error came when decides what it means."""
        trace_id, span_id = trace_ids(get_current_span())
        await self._answered(lambda: self._runs.attempts.start(claim, trace_id=trace_id, span_id=span_id))
        prepared = claim.run.state is RunState.PREPARED
        totals = RunTotals(self._context(claim), self._clock, self._on_progress)
        try:
            if not prepared:
                await self._check_tries(claim)
                if claim.run.dry_run:
                    return Attempted(await self._dry_run(claim, totals))
                await self._export(claim, totals)
                prepared = True
            return await self._publish(claim)
        except Superseded:
            raise
        except BaseException as error:  # plugins and users' values are user code
            if asked_to_stop() or is_for_us(error):
                raise  # whatever it is, it comes of stopping, and says nothing about the run
            known = known_error(error)
            return await self._gave_way(claim, known) if prepared else await self._ended(claim, known, totals)

    async def _attempt_apart(self, held: Held, isolated: Isolated) -> Attempted:
        """The same in a process of its own: what that does to the run, the history tells."""
        claim = held.claim
        totals = RunTotals(self._context(claim), self._clock, self._on_progress)
        log.warning("the run was lost with its worker before; it gets a process of its own")
        try:
            if claim.run.state is RunState.RUNNING:
                await self._check_tries(claim)
            attempt = isolated(claim)
            try:
                await self._leases.work(held, attempt.start())
                exit_code = await self._end_of(attempt, claim)
            finally:
                await attempt.stop()
        except Superseded:
            raise
        except Exception as error:
            return await self._ended(claim, known_error(error), totals)
        run = await self._answered(lambda: self._current(claim))
        if run.state is not RunState.RUNNING or run.fence != claim.fence:
            return Attempted(run)
        return await self._ended(claim, ProcessEnded(exit_code), totals)

    async def _end_of(self, attempt: IsolatedAttempt, claim: Claim) -> int:
        """The exit code of the process. One that hangs on although it has lost the run is ended."""
        ending = asyncio.ensure_future(attempt.ended())
        try:
            while not (await asyncio.wait([ending], timeout=_LOOK_SECONDS))[0]:
                if not await self._is_held(claim):
                    await asyncio.wait([ending], timeout=_GRACE_SECONDS)  # it sees that itself, unless it hangs
                    await attempt.stop()
            return await ending
        finally:
            ending.cancel()

    async def _is_held(self, claim: Claim) -> bool:
        try:
            run = await self._current(claim)
        except HistoryUnavailable:
            return True  # for all that is known
        ends_at = run.lease_expires_at
        return run.fence == claim.fence and ends_at is not None and ends_at > self._clock.now()

    async def _check_tries(self, claim: Claim) -> None:
        """A run whose workers die of it never gets to report an error: it has to end as well."""
        tries = await self._answered(lambda: self._runs.history.tries(claim.run.run_id))
        if tries > self._retry.max_attempts:
            raise AttemptsExhausted(
                f"Gave up after {tries - 1} attempts. The last one was lost with its worker: look at that worker's "
                "log and memory, then replay the run."
            )

    # -- until the decision ----------------------------------------------------------------------

    def _context(self, claim: Claim) -> RunContext:
        run = claim.run
        assert run.trace_id is not None  # `accept` stores one with every run
        return RunContext(
            run_id=run.run_id,
            attempt=run.attempt,
            trace_id=run.trace_id,
            request=run.request,
            config_id=run.config_id,
        )

    def _processor(self, claim: Claim, totals: RunTotals, destinations: Destinations) -> AgencyProcessor:
        async def on_upload(upload: UploadRef) -> None:
            await self._runs.attempts.record_upload(claim, upload)

        return AgencyProcessor(
            run=totals.run,
            source=self._source,
            services=self._services,
            outlet=Outlet(
                run=totals.run,
                destinations=destinations,
                on_upload=on_upload,
                mask=self._mask,
                max_row_bytes=self._max_row_bytes,
            ),
            last_success=self._runs.history.last_success,
            on_progress=totals,
            tracer=self._tracer,
        )

    async def _export(self, claim: Claim, totals: RunTotals) -> None:
        """Stream, verify, and store the plan: from here on the run is decided."""
        context = totals.run
        export = await self._processed(claim, self._processor(claim, totals, self._destinations))
        self._after("stream")
        primary = self._destinations.primary
        if await self._destinations.manifests.exists(manifest_key(context)):
            raise ConflictingObjects(
                f"{primary.url}/{manifest_key(context)}",
                why="a manifest of this run id was published before",
            )
        await self._destinations.mark_installation(await self._runs.history.installation_id())
        self._after("verify")
        plan, outcome = decide(context, export, destination_url=primary.url, now=self._clock.now())
        await self._answered(lambda: self._runs.attempts.prepare(claim, plan, outcome))
        self._after("prepare")

    async def _processed(self, claim: Claim, processor: AgencyProcessor) -> Export:
        """Stream the agency's rows, until the request's deadline at most. Raises DeadlineExceeded."""
        request = claim.run.request
        config = self._config.for_request(request)

        async def process() -> Export:
            return await contained(processor.process_agency(claim.run.agency_id, config))

        # In a task of its own: before Python 3.13, one in which a TaskGroup has failed looks ever after as if it were
        # asked to stop, and steps may use any.
        work = asyncio.create_task(process())
        if request.deadline is None:
            return await work
        try:
            async with asyncio.timeout(self._left(request.deadline)) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(request.deadline) from None

    def _left(self, deadline: datetime) -> float:
        return max(0.0, (deadline - self._clock.now()).total_seconds())

    async def _dry_run(self, claim: Claim, totals: RunTotals) -> Run:
        nowhere = Destinations([NullDestination()])
        export = await self._processed(claim, self._processor(claim, totals, nowhere))
        outcome = outcome_of(totals.run, export, destination_url=nowhere.primary.url, manifest_url=None)
        return await self._runs.attempts.succeed(claim, outcome)

    async def _ended(self, claim: Claim, error: PipelineError, totals: RunTotals) -> Attempted:
        """An attempt failed before the decision: try again later, or fail the run."""
        run_id = claim.run.run_id
        if error.retryable:
            trouble = Trouble.of(
                await self._answered(lambda: self._runs.history.attempts(run_id)), now=self._clock.now()
            )
            counts = self._retry.counts(error, trouble)
            if not counts or await self._answered(lambda: self._runs.history.tries(run_id)) < self._retry.max_attempts:
                return await self._tried_again(claim, error, trouble, counts=counts)
        final = final_error(error, claim.run.attempt)
        log.info("run failed", kind=final.kind, error=str(final))
        failed = self._answered(
            lambda: self._runs.attempts.fail(claim, failure_of(final, self._mask), outcome=totals.outcome)
        )
        return Attempted(await failed, final)

    async def _tried_again(self, claim: Claim, error: PipelineError, trouble: Trouble, *, counts: bool) -> Attempted:
        delay = self._retry.delay_after(error, trouble.failures, self._jitter())
        if (deadline := claim.run.request.deadline) is not None:
            delay = min(delay, timedelta(seconds=self._left(deadline)))  # to say then that it has passed
        log.warning("attempt failed; the run is tried again", error=str(error), delay=delay.total_seconds())
        retry = self._answered(
            lambda: self._runs.attempts.retry(claim, failure_of(error, self._mask), delay=delay, counts=counts)
        )
        return Attempted(await retry, error)

    # -- from the decision on --------------------------------------------------------------------

    async def _publish(self, claim: Claim) -> Attempted:
        with self._tracer.start_as_current_span("publish"):
            run = await self._publisher.publish(claim, await self._runs.attempts.plan(claim))
        return Attempted(run)

    async def _gave_way(self, claim: Claim, error: PipelineError) -> Attempted:
        """Publishing broke off. The run is decided, so nothing fails it: somebody goes on later."""
        log.warning("publishing broke off; the stored plan is rolled forward later", error=str(error))
        # Such runs are claimed before all others: one that can't be published as things are must not keep workers busy.
        delay = self._retry.delay_after(error, 1, self._jitter()) if error.retryable else _MENDED_BY_HAND
        return Attempted(await self._answered(lambda: self._runs.attempts.release(claim, delay=delay)), error)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(ask, clock=self._clock)

    # -- leaving ---------------------------------------------------------------------------------

    async def _leave(self, claim: Claim, attempt: "asyncio.Task[Attempted]") -> None:
        """
        Hand the run back, and only then wait for the attempt to unwind and clean up after it, in what time is left.

        Another worker may be at the run meanwhile. That is harmless: what the attempt still writes names a state or a
        fence that has gone, and what it aborts are its own uploads.
        """
        run = claim.run
        ends_at = self._clock.monotonic() + self._leave_seconds

        def left() -> float:
            return max(0.0, ends_at - self._clock.monotonic())

        with bound_run(run_id=run.run_id, agency_id=run.agency_id, attempt=run.attempt, trace_id=str(run.trace_id)):
            handed_back = await self._handed_back(claim)
            await asyncio.wait([attempt], timeout=left())
            if not attempt.done():
                log.warning("the attempt doesn't end: something hangs; `gc` removes what it leaves behind")
            elif handed_back:
                await self._finally(self._clean_up(run.run_id), seconds=left())

    async def _handed_back(self, claim: Claim) -> bool:
        try:
            await self._answer_to_hand_back(claim)
        except Superseded:
            return False  # it had ended, or somebody else has it
        except (PipelineError, TimeoutError) as error:
            log.warning("could not be handed back; the run goes on when its lease has ended", error=str(error))
            return False
        log.info("handed back")
        return True

    async def _answer_to_hand_back(self, claim: Claim) -> None:
        """Raises Superseded, or TimeoutError when there is no answer on one connection or another."""
        asking: set[asyncio.Task[Run]] = set()
        try:
            for _ in range(_HAND_BACK_TRIES):
                asking.add(asyncio.create_task(self._answered(lambda: self._runs.attempts.hand_back(claim))))
                seconds = self._leave_seconds / _HAND_BACK_TRIES
                done, _ = await asyncio.wait(asking, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for answered in done:
                    answered.result()
                    return
            raise TimeoutError("no answer from the history")
        finally:
            for task in asking:
                give_up(task)

    async def _clean_up(self, run_id: str) -> None:
        """Remove what nobody will complete. What is left over, or elsewhere, `gc` finds by the same questions."""
        clean_up = CleanUp(leftovers=self._runs.leftovers, destinations=self._destinations)
        await clean_up.after_run(run_id)
        for problem in clean_up.problems:
            log.warning("something of a run could not be removed; `gc` will", error=str(problem))

    async def _finally(self, work: Coroutine[Any, Any, None], *, seconds: float = _CLEAN_UP_SECONDS) -> None:
        """Do a last piece of work, within limits, even if this task is cancelled meanwhile."""

        async def limited() -> None:
            try:
                await in_time(contained(work), seconds=seconds)  # a plugin's destination is user code
            except (PipelineError, NoException, TimeoutError) as error:
                log.warning("cleaning up after a run has failed; `gc` will", error=str(error) or "no answer in time")

        await shielded(limited())

    async def _current(self, claim: Claim) -> Run:
        return await self._runs.history.get(claim.run.run_id) or claim.run


def known_error(error: BaseException) -> PipelineError:
    """An error as one of the service's. One that isn't is a bug, a cancellation that nobody asked for included."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, NoException) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, Exception | asyncio.CancelledError):  # the service itself never ends a process like that
        what = described(error)
        return StepFailed(f"A plugin, or a value that a step made, raised {what}. Mend it, then replay the run.")
    log.error("unexpected error", exc_info=error)
    return InternalError(error)
