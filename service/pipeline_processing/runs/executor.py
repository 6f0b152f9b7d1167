"""
Execute one attempt of a run: claim → stream → verify → prepare → publish → finish.

`prepare` stores the plan, which decides the run. An error before that ends the attempt: the run is queued again if
another attempt may help, and fails otherwise. After it, the run only rolls forward: a worker that can't publish
releases the run, and the next worker to claim it continues with the stored plan.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from opentelemetry.trace import Status, StatusCode, Tracer, get_current_span

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor, Export
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.tasks import give_up, shielded
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import ConflictingObjects, DeadlineExceeded, HistoryUnavailable, Superseded
from pipeline_processing.log import get_logger
from pipeline_processing.model import Bill, Run, RunState
from pipeline_processing.ports import Services, Source
from pipeline_processing.runs.billing import Account, Ledger
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.failures import Attempted, Failures, RetryPolicy, known_error
from pipeline_processing.runs.hand_back import HandBack
from pipeline_processing.runs.isolated import Isolated, Isolation
from pipeline_processing.runs.lease import Lease, Leases
from pipeline_processing.runs.publication import Publisher, decide, manifest_key, outcome_of
from pipeline_processing.runs.store import Claim, RunStore
from pipeline_processing.runs.totals import RunTotals
from pipeline_processing.telemetry.logs import bound_run
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics
from pipeline_processing.telemetry.spans import child_span
from pipeline_processing.telemetry.tracing import parent_context, trace_ids
from pipeline_processing.usage import use
from pipeline_processing.user_code import asked_to_stop, contained, is_for_us

log = get_logger(__name__)

ASK_AGAIN_SECONDS = 0.2
"""Pause between two tries of a call to the run table. It is short because the lease may be."""


@dataclass(frozen=True, slots=True)
class DataPath:
    """The source, services and destinations of one job config."""

    config: AgencyJobConfig
    config_id: str
    source: Source
    services: Services
    destinations: Destinations
    nowhere: Destinations
    """The destination of dry runs."""
    max_row_bytes: int
    """Limit of one encoded row."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """How runs are reported: spans, masked messages, progress after every batch, metrics, and bills."""

    tracer: Tracer
    mask: Mask
    on_progress: Callable[[RunProgress], None]
    metrics: Metrics = field(default_factory=Metrics)
    ledger: Ledger = field(default_factory=Ledger)
    """What the runs of this process use."""


class Executor:
    """
    Claims runs and works on them, one call per attempt.

    Each call of the run table by an attempt is repeated until it is answered or the lease ends; `history` logs outages.
    Attempts of suspect runs are made by `isolated`, or in this process if it is None. Handing back a run and cleaning
    up after it may take `leave_seconds`.
    """

    def __init__(
        self,
        *,
        runs: RunStore,
        leases: Leases,
        path: DataPath,
        history: Server,
        retry: RetryPolicy,
        reporting: Reporting,
        leave_seconds: float,
        isolated: Isolated | None = None,
    ) -> None:
        self.path = path
        self.leases = leases
        self.attempts: set[asyncio.Task[Attempted]] = set()
        """Unfinished attempts, including those that were given up because they hang."""
        self._is_marked = False
        """Whether the destinations are marked as this installation's, which lasts."""
        clock = history.clock
        self._attempts = history.repeating(runs.attempts, pause=ASK_AGAIN_SECONDS)
        self._reads = history.repeating(runs.history, pause=ASK_AGAIN_SECONDS)
        self._history = runs.history
        self._clock = clock
        self._reporting = reporting
        self._failures = Failures(
            attempts=self._attempts,
            history=self._reads,
            retry=retry,
            clock=clock,
            mask=reporting.mask,
        )
        self._publisher = Publisher(attempts=self._attempts, destinations=path.destinations, mask=reporting.mask)
        self._hand_back = HandBack(
            attempts=self._attempts,
            leftovers=runs.leftovers,
            destinations=path.destinations,
            clock=clock,
            seconds=leave_seconds,
        )
        self._isolation = isolated and Isolation(
            isolated, leases=leases, history=runs.history, failures=self._failures, clock=clock
        )

    async def claim(self, *, run_id: str | None = None) -> Lease | None:
        """Claim the next run that is due, or the run `run_id`."""
        return await self.leases.claim(run_id=run_id)

    async def execute(self, lease: Lease) -> Attempted:
        """
        Work on a claimed run until the attempt ends. Return the run in its new state.

        Raises HistoryUnavailable if the outcome can't be written; the run is claimed again when its lease has ended.
        If cancelled, hands the run back first, even if the attempt hangs.
        """
        run = lease.claim.run
        is_decided = run.state is RunState.PREPARED
        is_apart = lease.claim.suspect and self._isolation is not None
        with (
            bound_run(run_id=run.run_id, agency_id=run.agency_id, attempt=run.attempt, trace_id=str(run.trace_id)),
            self._reporting.ledger.attempt(billed=is_decided, apart=is_apart) as account,
        ):
            attempt = asyncio.create_task(self._traced(lease, account))
            self.attempts.add(attempt)
            attempt.add_done_callback(self.attempts.discard)
            try:
                await asyncio.wait([attempt])
            except asyncio.CancelledError:
                give_up(attempt)
                bill = None if is_decided or is_apart else self._bill(lease.claim, account)
                if await shielded(self._hand_back.leave(lease.claim, attempt, bill=bill)):
                    self._reporting.metrics.attempt_ended(run, "handed_back")
                raise
            finally:
                # Below 0 if a part wasn't even sent once.
                self._reporting.metrics.part_retries.add(max(0, account.usage.part_retries))
        try:
            attempted = attempt.result()
        except HistoryUnavailable:  # so the lease has ended
            self._reporting.metrics.attempt_ended(run, "lost")
            raise
        self._reporting.metrics.attempt_ended(attempted.run, attempted.outcome)
        return attempted

    async def _traced(self, lease: Lease, account: Account) -> Attempted:
        use(account.usage)
        run = lease.claim.run
        assert run.trace_id is not None  # `accept` stores both with every run
        assert run.span_id is not None
        parent = parent_context(run.trace_id, run.span_id)
        with self._reporting.tracer.start_as_current_span(f"attempt {run.attempt}", context=parent) as span:
            span.set_attributes(
                {
                    "run_id": run.run_id,
                    "agency_id": run.agency_id,
                    "attempt": run.attempt,
                    "worker": lease.claim.worker,
                }
            )
            log.info("attempt started", state=run.state.value, worker=lease.claim.worker)
            attempted = await self._under_lease(lease, account)
            span.set_attribute("state", attempted.run.state.value)
            if error := attempted.error or attempted.run.error:
                span.set_attribute("error.type", error.kind)
                span.set_status(Status(StatusCode.ERROR, error.kind))
            log.info("attempt ended", state=attempted.run.state.value, rows_written=attempted.run.rows_written)
            return attempted

    async def _under_lease(self, lease: Lease, account: Account) -> Attempted:
        claim = lease.claim
        try:
            if claim.suspect and self._isolation is not None:
                attempted = await self._isolation.attempt(lease)
            else:
                attempted = await self.leases.work(lease, self._attempt(claim, account))
        except Superseded as error:
            attempted = await self._superseded(claim, error)
        # A prepared run's uploads belong to its plan. A run that succeeded leaves only uploads of earlier attempts.
        run = attempted.run
        if run.state is not RunState.PREPARED and (run.state is not RunState.SUCCEEDED or run.attempt > 1):
            await self._hand_back.clean_up(run.run_id)
        return attempted

    async def _superseded(self, claim: Claim, error: Superseded) -> Attempted:
        """
        Return the run after the claim was lost. If nothing has claimed or cancelled the run, this attempt ended it, and
        only the reply to its last write was lost.
        """
        run = await self._history.get(claim.run.run_id) or claim.run
        is_free = run.lease_expires_at is None and run.state is not RunState.CANCELLED
        if is_free and run.fence == claim.fence:
            return Attempted(run)
        log.warning("the run was taken over or cancelled", fence=claim.fence)
        return Attempted(run, error)

    # -- the protocol ----------------------------------------------------------------------------

    async def _attempt(self, claim: Claim, account: Account) -> Attempted:
        """Run the protocol, in order. How an error is handled depends on whether the run is decided."""
        trace_id, span_id = trace_ids(get_current_span())
        await self._attempts.start(claim, trace_id=trace_id, span_id=span_id)
        decided = claim.run.state is RunState.PREPARED
        totals = RunTotals(self._context(claim), self._clock, self._reporting.on_progress)
        try:
            if not decided:
                await self._failures.check_tries(claim)
                export = await self._stream(claim, totals)
                if claim.run.dry_run:
                    return Attempted(await self._succeed_dry(claim, totals.run, export, account))
                await self._verify(totals.run)
                await self._prepare(claim, totals.run, export, account)
                decided = True
            return Attempted(await self._publish(claim))
        except Superseded:
            raise
        except BaseException as error:  # plugins and users' values are user code
            if asked_to_stop() or is_for_us(error):
                raise  # caused by stopping, so it says nothing about the run
            known = known_error(error)
            if decided:
                return await self._failures.release(claim, known)
            outcome = replace(totals.outcome, bill=self._bill(claim, account))
            return await self._failures.end_attempt(claim, known, outcome)

    def _bill(self, claim: Claim, account: Account, planned: int = 0) -> Bill:
        """Return what the run has used so far. Nothing more is charged to it."""
        return self._reporting.ledger.bill(account, earlier=claim.run.bill, planned_requests=planned)

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

    async def _stream(self, claim: Claim, totals: RunTotals) -> Export:
        """Export the agency's rows. Raises DeadlineExceeded if the request's deadline passes first."""
        request, path = claim.run.request, self.path
        processor = AgencyProcessor(
            run=totals.run,
            source=path.source,
            services=path.services,
            outlet=Outlet(
                run=totals.run,
                destinations=path.nowhere if request.dry_run else path.destinations,
                on_upload=partial(self._attempts.record_upload, claim),
                mask=self._reporting.mask,
                max_row_bytes=path.max_row_bytes,
            ),
            last_success=self._reads.last_success,
            on_progress=totals,
        )
        config = path.config.for_request(request)
        totals.datasets = [each.name for each in config.datasets]

        async def export() -> Export:
            expecting = asyncio.create_task(totals.expect(self._history.last_success))
            try:
                return await contained(processor.process_agency(request.agency_id, config))
            finally:
                give_up(expecting)

        # In a separate task: before Python 3.13, a task in which a TaskGroup has failed looks cancelled from then on,
        # and steps may use task groups.
        work = asyncio.create_task(export())
        if request.deadline is None:
            return await work
        try:
            left = (request.deadline - self._clock.now()).total_seconds()
            async with asyncio.timeout(max(0.0, left)) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(request.deadline) from None

    async def _succeed_dry(self, claim: Claim, context: RunContext, export: Export, account: Account) -> Run:
        nowhere = self.path.nowhere.primary.url
        bill = self._bill(claim, account)
        outcome = outcome_of(context, export, destination_url=nowhere, manifest_url=None, bill=bill)
        return await self._attempts.succeed(claim, outcome)

    async def _verify(self, context: RunContext) -> None:
        """Check that this run id has no manifest yet and that the destinations belong to this installation."""
        primary = self.path.destinations.primary
        key = manifest_key(context)
        if await self.path.destinations.manifests.exists(key):
            raise ConflictingObjects(f"{primary.url}/{key}", why="a manifest of this run id was published before")
        if not self._is_marked:
            await self.path.destinations.mark_installation(await self._reads.installation_id())
            self._is_marked = True

    async def _prepare(self, claim: Claim, context: RunContext, export: Export, account: Account) -> None:
        """Store the plan. From here on, the run is decided."""
        url = self.path.destinations.primary.url
        bill = partial(self._bill, claim, account)
        plan, outcome = decide(context, export, destination_url=url, now=self._clock.now(), bill=bill)
        with child_span("prepare"):
            await self._attempts.prepare(claim, plan, outcome)

    async def _publish(self, claim: Claim) -> Run:
        """Complete the stored plan's artifacts, publish its manifest and finish the run."""
        with child_span("publish"):
            return await self._publisher.publish(claim, await self._attempts.plan(claim))
