"""Execute one request in this process, by the same protocol as a worker: the `run` command."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from pipeline_processing.aio.asking import ask
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import PipelineError, RunHeldElsewhere, RunOfAnotherJobConfig, RunPutOff, Superseded
from pipeline_processing.log import get_logger
from pipeline_processing.model import JobRequest, Run, RunState
from pipeline_processing.runs.executor import Executor
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.runs.store import Incoming, RunStore

log = get_logger(__name__)

T = TypeVar("T")

_LOOK_AGAIN_SECONDS = 0.5
LONGEST_WAIT = timedelta(minutes=15)
"""The command gives up if the run isn't due within this time."""


class RunNow:
    """Accepts a request and works on its run until it has finished, with retries."""

    def __init__(self, *, runs: RunStore, executor: Executor, clock: Clock, retry: RetryPolicy) -> None:
        self._runs = runs
        self._executor = executor
        self._clock = clock
        self._retry = retry
        self._said_waiting = False

    async def run(self, request: JobRequest, *, run_id: str, trace_id: str, span_id: str) -> Run:
        """
        Return the finished run, at once if it had finished before.

        Raises ConflictingRequest, RunOfAnotherJobConfig, RunHeldElsewhere, RunPutOff, or the error that prevents a
        decided run from being published.
        """
        known = await self._ask(lambda: self._runs.history.get(run_id))
        if known is None or not known.state.finished:
            # Fail on an unusable destination before the run id is used up.
            installation = await self._ask(self._runs.history.installation_id)
            await self._ask(lambda: self._executor.path.destinations.verify_installation(installation))
        incoming = Incoming(
            request=request,
            run_id=run_id,
            trace_id=trace_id,
            span_id=span_id,
            config_id=self._executor.path.config_id,
        )
        run = await self._ask(lambda: self._runs.intake.accept(incoming))
        unpublished, error = 0, None
        while not run.state.finished:
            lease = await self._ask(lambda: self._executor.claim(run_id=run_id))
            if lease is None:
                run = await self._waited(run_id, error)
                continue
            attempted = await self._executor.execute(lease)
            run = attempted.run
            error = attempted.error
            if run.state is RunState.PREPARED and error is not None:
                unpublished += 1
                # If the lease was lost, try to claim the run again; `_waited` raises if another worker holds it.
                may_retry = error.retryable or isinstance(error, Superseded)
                if unpublished >= self._retry.max_attempts or not may_retry:
                    raise error
        return run

    async def _waited(self, run_id: str, error: PipelineError | None) -> Run:
        """
        Wait a moment for a run that can't be claimed, and return its current state.

        `error` is that of the last attempt in this process. Raises RunHeldElsewhere if another worker holds the run,
        RunOfAnotherJobConfig if it is pinned to another job config, RunPutOff if it isn't due within LONGEST_WAIT.
        """
        now = await self._ask(self._runs.queue.now)
        run = await self._ask(lambda: self._runs.history.get(run_id))
        assert run is not None  # it was accepted, and pruned runs are known, too
        # A run whose lease has ended waits for its turn like a queued one. If the reply to our claim was lost, we hold
        # a lease that we don't know of, and have to wait until it ends.
        held = run.lease_expires_at is not None and run.lease_expires_at > now
        if held and run.worker != self._executor.leases.worker:
            raise RunHeldElsewhere(run_id, worker=run.worker)
        # A decided run is published from its plan, which any job config can do.
        to_export = run.state in (RunState.QUEUED, RunState.RUNNING)
        if to_export and run.pinned and run.config_id != self._executor.path.config_id:
            raise RunOfAnotherJobConfig(run_id, accepted=run.config_id, given=self._executor.path.config_id)
        if not run.state.finished:
            due_in = timedelta() if run.not_before is None else run.not_before - now
            if due_in > LONGEST_WAIT and run.not_before is not None:
                raise RunPutOff(run_id, until=run.not_before, cause=None if error is None else str(error))
            if not self._said_waiting:
                self._said_waiting = True
                log.warning(
                    "waiting: the run isn't due yet, or its agency has the maximum number of runs in progress",
                    due_in=max(0, round(due_in.total_seconds())),
                )
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)
        return run

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call a server, with as many tries as a run has, for LONGEST_WAIT at most."""
        return await ask(
            call,
            clock=self._clock,
            backoff=self._retry.backoff,
            tries=self._retry.max_attempts,
            within=LONGEST_WAIT.total_seconds(),
            on_failure=lambda error, pause: log.warning("trying again", error=str(error), delay=pause),
        )
