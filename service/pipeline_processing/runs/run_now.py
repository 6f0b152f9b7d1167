"""One run in this process, from request to end: what the `run` command does, by the same protocol as a worker."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.processor import AgencyProcessor
from pipeline_processing.aio.clock import Clock
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import (
    PipelineError,
    RunHeldElsewhere,
    RunOfAnotherJobConfig,
    RunPutOff,
    Superseded,
    TransientError,
)
from pipeline_processing.model import Counts, JobRequest, Run, RunState
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.executor import Executor, known_error
from pipeline_processing.runs.failures import failure_of
from pipeline_processing.runs.retrying import RetryPolicy, Trouble, final_error
from pipeline_processing.runs.store import Incoming, RunStore
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.user_code import contained

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LOOK_AGAIN_SECONDS = 0.5
_LONGEST_WAIT = timedelta(minutes=15)
"""A run that is put off for longer is left to somebody who waits."""


class RunNow:
    """Accepts a request, works on its run until it has finished, and retries as a worker would."""

    def __init__(
        self,
        *,
        runs: RunStore,
        executor: Executor,
        destinations: Destinations,
        clock: Clock,
        retry: RetryPolicy,
        jitter: Callable[[], float],
        after: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._runs = runs
        self._executor = executor
        self._destinations = destinations
        self._clock = clock
        self._retry = retry
        self._jitter = jitter
        self._said_waiting = False
        self._after = after

    async def run(self, request: JobRequest, *, run_id: str, trace_id: str, span_id: str) -> Run:
        """
        The finished run; at once, and without any work, if it had finished before.

        Raises ConflictingRequest, RunOfAnotherJobConfig, RunHeldElsewhere, RunPutOff, or the error that keeps a decided
        run from being published.
        """
        known = await self._patiently(lambda: self._runs.history.get(run_id))
        if known is None or not known.state.finished:
            # A destination that can't be used is found before the run id is spent on it.
            installation = await self._patiently(self._runs.history.installation_id)
            await self._patiently(lambda: self._destinations.verify_installation(installation))
        incoming = Incoming(
            request=request,
            run_id=run_id,
            trace_id=trace_id,
            span_id=span_id,
            config_id=self._executor.config_id,
        )
        run = await self._patiently(lambda: self._runs.intake.accept(incoming))
        self._after("accept")
        broke_off, error = 0, None
        while not run.state.finished:
            held = await self._patiently(lambda: self._executor.claim(run_id=run_id))
            if held is None:
                run = await self._waited(run_id, error)
                continue
            attempted = await self._executor.execute(held)
            run = attempted.run
            error = attempted.error
            if run.state is RunState.PREPARED and error is not None:
                broke_off += 1
                # One that lost its lease may still be the next to claim the run; if it isn't, the claim tells.
                goes_on = error.retryable or isinstance(error, Superseded)
                if broke_off >= self._retry.max_attempts or not goes_on:
                    raise error
        return run

    async def _waited(self, run_id: str, error: PipelineError | None) -> Run:
        """
        The run a little later; `error` is that of the last attempt here.

        Raises RunHeldElsewhere when another worker holds it, RunOfAnotherJobConfig when only one with another job
        config may export it, and RunPutOff when it isn't due for long.
        """
        now = await self._patiently(self._runs.queue.now)
        run = await self._patiently(lambda: self._runs.history.get(run_id))
        assert run is not None  # it was accepted, and a finished run is never pruned within moments
        # A lease that has ended holds nothing: such a run waits for its turn, as a queued one does. And one of our own
        # that we know nothing of (the reply to the claim was lost) has only to end.
        held = run.lease_expires_at is not None and run.lease_expires_at > now
        if held and run.worker != self._executor.worker:
            raise RunHeldElsewhere(run_id, worker=run.worker)
        # A decided run is published from its plan, whatever the job config.
        to_export = run.state in (RunState.QUEUED, RunState.RUNNING)
        if to_export and run.pinned and run.config_id != self._executor.config_id:
            raise RunOfAnotherJobConfig(run_id, accepted=run.config_id, given=self._executor.config_id)
        if not run.state.finished:
            due_in = timedelta() if run.not_before is None else run.not_before - now
            if due_in > _LONGEST_WAIT and run.not_before is not None:
                raise RunPutOff(run_id, until=run.not_before, cause=None if error is None else str(error))
            if not self._said_waiting:
                self._said_waiting = True
                log.warning(
                    "waiting: the run isn't due yet, or its agency has as many runs in progress as it may",
                    due_in=max(0, round(due_in.total_seconds())),
                )
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)
        return run

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a server, again and again within limits while it can't be reached."""
        tries = 1
        while True:
            try:
                return await ask()
            except TransientError as error:
                delay = self._retry.delay_after(error, tries, self._jitter())
                if tries >= self._retry.max_attempts or delay > _LONGEST_WAIT:
                    raise
                log.warning("trying again", error=str(error), delay=delay.total_seconds())
                await self._clock.sleep(delay.total_seconds())
                tries += 1


async def run_dry(
    *,
    run: RunContext,
    processor: AgencyProcessor,
    config: AgencyJobConfig,
    clock: Clock,
    mask: Mask,
    retry: RetryPolicy,
    jitter: Callable[[], float],
) -> RunCompletion:
    """Read and transform, and write nothing anywhere; the completion that a run would have had."""
    requested_at, started = clock.now(), clock.monotonic()

    def completion(attempt: int, **result: object) -> RunCompletion:
        fields: dict[str, object] = {
            "state": "succeeded",
            "rows_read": 0,
            "rows_written": 0,
            "rows_filtered": 0,
            "rows_rejected": 0,
            "bytes_written": 0,
            "error": None,
        }
        return RunCompletion(
            run_id=run.run_id,
            job=run.request.job,
            agency_id=run.request.agency_id,
            attempt=attempt,
            dry_run=True,
            replay_of=None,
            requested_at=requested_at,
            started_at=requested_at,
            finished_at=_finished(requested_at, clock),
            duration_ms=round((clock.monotonic() - started) * 1000),
            manifest=None,
            trace_id=run.trace_id,
            **(fields | result),
        )

    attempt, counted, first_failed_at = 1, 0, None
    while True:
        began_at = clock.monotonic()
        try:
            export = await contained(processor.process_agency(run.request.agency_id, config))
        except PipelineError as error:
            failed_at = clock.monotonic()
            first_failed_at = failed_at if first_failed_at is None else first_failed_at
            lasts, worked = timedelta(seconds=failed_at - first_failed_at), timedelta(seconds=failed_at - began_at)
            counted += retry.counts(error, Trouble(attempt, lasts=lasts, worked=worked))
            delay = retry.delay_after(error, attempt, jitter())
            if not error.retryable or counted >= retry.max_attempts or delay > _LONGEST_WAIT:
                return completion(attempt, state="failed", error=failure_of(final_error(error, attempt), mask))
            log.warning("trying again", error=str(error), delay=delay.total_seconds())
            await clock.sleep(delay.total_seconds())
            attempt += 1
        except Exception as error:
            return completion(attempt, state="failed", error=failure_of(known_error(error), mask))
        else:
            counts = sum((dataset.counts for dataset in export.datasets), start=Counts())
            size = sum(artifact.size for dataset in export.datasets for artifact in dataset.artifacts)
            return completion(attempt, **counts.model_dump(), bytes_written=size)


def _finished(requested_at: datetime, clock: Clock) -> datetime:
    return max(requested_at, clock.now())
