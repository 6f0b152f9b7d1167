"""
Decide whether a failed attempt is followed by another one or fails the run.

Most transient errors get `max_attempts` attempts, seconds apart. Some are sure to pass with time: a server that is
down or full, throttling, a standby that lags. Attempts that fail with those don't count until the trouble has lasted
for `patience`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opentelemetry.trace import get_current_span

from pipeline_processing.aio.asking import Backoff
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import (
    AttemptsExhausted,
    InternalError,
    PipelineError,
    StepFailed,
    Superseded,
    TransientError,
)
from pipeline_processing.log import get_logger
from pipeline_processing.model import Attempt, Bill, Run, RunFailure, RunState
from pipeline_processing.runs.store import Claim, Outcome, RunAttempts, RunHistory
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.user_code import NoException, described

log = get_logger(__name__)

PATIENCE = timedelta(minutes=15)
_BACKOFF = Backoff(first=1.0, longest=60.0)
_REPAIR_DELAY = timedelta(seconds=30)
"""Delay until a decided run is claimed again if publishing it needs a person to change something first."""
_UNREACHABLE = 69
_ACCESS_DENIED = 77
_OUTCOMES = {RunState.QUEUED: "retrying", RunState.PREPARED: "released"}
"""What an attempt did that left the run in this state."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """The run after an attempt, and the error that ended the attempt, if any."""

    run: Run
    error: PipelineError | None = None

    @property
    def outcome(self) -> str:
        """How the attempt ended: `succeeded`, `failed`, `cancelled`, `retrying`, `released`, or `lost`."""
        if isinstance(self.error, Superseded) and self.run.state is not RunState.CANCELLED:
            return "lost"
        return _OUTCOMES.get(self.run.state, self.run.state.value)


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    An unbroken series of failed attempts, the last of which has just failed.

    `lasts` is the time since the first failure; `worked` is how long the last attempt ran before it failed.
    """

    failures: int = 1
    lasts: timedelta = timedelta()
    worked: timedelta = timedelta()

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, now: datetime) -> "Trouble":
        """Build it from a run's attempts, oldest first. The last one has just failed."""
        if not attempts:
            return cls()  # lost in a failover of the history; the next write will find the run gone
        failing, *before = reversed(attempts)
        failures, began = 1, now
        for attempt in before:
            if attempt.outcome != "retrying" or attempt.finished_at is None:
                break
            failures, began = failures + 1, attempt.finished_at
            if attempt.finished_at - attempt.started_at >= PATIENCE:
                break  # it ran for long, so any earlier trouble was over
        return cls(failures, lasts=now - began, worked=now - failing.started_at)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often a run is tried, and how long to wait between attempts.

    `patience` applies to errors that are sure to pass, `patience_for_servers` to those that report an unreachable
    server. A run fails at once if its next attempt would be more than `longest_delay` away.
    """

    max_attempts: int = 5
    backoff: Backoff = _BACKOFF
    patience: timedelta = PATIENCE
    patience_for_servers: timedelta = PATIENCE
    longest_delay: timedelta = timedelta.max

    def counts(self, error: PipelineError, trouble: Trouble) -> bool:
        """
        Return whether the attempt that failed with this error counts towards `max_attempts`.

        An attempt that ran for longer than the patience always counts. Otherwise a run that always fails late would be
        retried forever.
        """
        if not (isinstance(error, TransientError) and error.passes):
            return True
        patience = self.patience_for_servers if error.exit_code == _UNREACHABLE else self.patience
        return trouble.lasts >= patience or trouble.worked >= patience

    def delay(self, error: PipelineError, failures: int) -> timedelta:
        """Return the time until the next attempt, after this many failures in a row."""
        return timedelta(seconds=self.backoff.after(error, failures))


class Failures:
    """
    Decides how to handle an attempt's error, and writes the decision to the run table. `attempts` and `history` must
    repeat each call until the server answers.
    """

    def __init__(
        self, *, attempts: RunAttempts, history: RunHistory, retry: RetryPolicy, clock: Clock, mask: Mask
    ) -> None:
        self._attempts = attempts
        self._history = history
        self._retry = retry
        self._clock = clock
        self._mask = mask

    async def current(self, claim: Claim) -> Run:
        """Return the current state of the run."""
        return await self._history.get(claim.run.run_id) or claim.run

    async def check_tries(self, claim: Claim) -> None:
        """Raise AttemptsExhausted if the run was tried too often, which happens to runs that kill their workers."""
        if claim.run.attempt <= self._retry.max_attempts:
            return  # no more tries than attempts
        tries = await self._history.tries(claim.run.run_id)
        if tries > self._retry.max_attempts:
            raise AttemptsExhausted(
                f"Gave up after {tries - 1} attempts. The last one was lost with its worker: look at that worker's "
                "log and memory, then replay the run."
            )

    async def end_attempt(self, claim: Claim, error: PipelineError, outcome: Outcome) -> Attempted:
        """End an attempt that failed before the run was decided: queue the run again, or fail it."""
        if error.retryable:
            run_id = claim.run.run_id
            trouble = Trouble.of(await self._history.attempts(run_id), now=self._clock.now())
            counts, delay = self._retry.counts(error, trouble), self._retry.delay(error, trouble.failures)
            left = not counts or await self._history.tries(run_id) < self._retry.max_attempts
            if left and delay <= self._retry.longest_delay:
                return await self._retry_later(claim, error, delay, counts=counts, bill=outcome.bill)
        final = final_error(error, claim.run.attempt)
        log.info("run failed", kind=final.kind, error=str(final))
        return Attempted(await self._attempts.fail(claim, failure_of(final, self._mask), outcome=outcome), final)

    async def _retry_later(
        self, claim: Claim, error: PipelineError, delay: timedelta, *, counts: bool, bill: Bill | None
    ) -> Attempted:
        if (deadline := claim.run.request.deadline) is not None:
            # Retry at the deadline at the latest, so that the run fails as soon as it passes.
            delay = min(delay, max(timedelta(), deadline - self._clock.now()))
        seconds = delay.total_seconds()
        log.warning("attempt failed; the run will be retried", error=str(error), delay=seconds)
        get_current_span().add_event("retry", {"error.type": error.kind, "delay_ms": round(seconds * 1000)})
        failure = failure_of(error, self._mask)
        run = await self._attempts.retry(claim, failure, delay=delay, counts=counts, bill=bill)
        return Attempted(run, error)

    async def release(self, claim: Claim, error: PipelineError) -> Attempted:
        """Release a decided run that couldn't be published. It doesn't fail: the next claim continues its plan."""
        log.warning("publishing failed; a later claim will roll the stored plan forward", error=str(error))
        # Decided runs are claimed first, so one that can't be published now must not keep workers busy.
        delay = self._retry.delay(error, 1) if error.retryable else _REPAIR_DELAY
        return Attempted(await self._attempts.release(claim, delay=delay), error)


def failure_of(error: PipelineError, mask: Mask) -> RunFailure:
    """Convert an error for the history and events. Its message is masked, as it may quote any exception."""
    return RunFailure(
        kind=error.kind, message=mask.text(str(error)), retryable=error.retryable, exit_code=error.exit_code
    )


def final_error(error: PipelineError, attempts: int) -> PipelineError:
    """Return the run's error, given the last attempt's. Errors that say more than "try again later" keep their kind."""
    if not error.retryable or error.exit_code in (_UNREACHABLE, _ACCESS_DENIED):
        return error
    return AttemptsExhausted(f"Gave up after {attempts} attempts. The last one: {error}")


def known_error(error: BaseException) -> PipelineError:
    """Convert an error to a PipelineError. Unknown errors and unrequested cancellations are bugs: InternalError."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, NoException) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, Exception | asyncio.CancelledError):  # only user code raises such errors
        what = described(error)
        return StepFailed(f"A plugin, or a value that a step made, raised {what}. Correct it, then replay the run.")
    log.error("unexpected error", exc_info=error)
    return InternalError(error)
