"""
When a run that failed is tried again, and whether the try counts.

Most transient errors get `max_attempts` tries, seconds apart. Some are sure to pass, and only time is wanted: a server
that is away or full, throttling, a standby that is catching up. Tries that fail for these don't count until the trouble
has lasted for `patience`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline_processing.errors import AttemptsExhausted, PipelineError, TransientError
from pipeline_processing.model import Attempt

PATIENCE = timedelta(minutes=15)
LONGEST_WAIT = timedelta(hours=24)
"""A server that asks to be left alone for longer is asked again after this."""
_UNREACHABLE = 69
_ACCESS_DENIED = 77


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    Attempts that failed one right after the other, the last of them just now.

    `lasts` is the time since the first of them failed; the last attempt had worked for `worked` until it failed.
    """

    failures: int = 1
    lasts: timedelta = timedelta()
    worked: timedelta = timedelta()

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, now: datetime) -> "Trouble":
        """What a run's attempts tell, oldest first, when the last of them has just failed."""
        if not attempts:
            return cls()  # a failover of the history has lost them, and what is written next finds the run gone
        failing, *before = reversed(attempts)
        failures, began = 1, now
        for attempt in before:
            if attempt.outcome != "retrying" or attempt.finished_at is None:
                break
            failures, began = failures + 1, attempt.finished_at
            if attempt.finished_at - attempt.started_at >= PATIENCE:
                break  # what it had met before was over
        return cls(failures, lasts=now - began, worked=now - failing.started_at)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often a run is tried, and how long after a failure.

    `patience` is for errors that are sure to pass, `patience_for_servers` for those among them that say that a server
    can't be reached at all.
    """

    max_attempts: int = 5
    first_delay: float = 1.0
    longest_delay: float = 60.0
    patience: timedelta = PATIENCE
    patience_for_servers: timedelta = PATIENCE

    def counts(self, error: PipelineError, trouble: Trouble) -> bool:
        """
        Whether the try that ended in this error is one of `max_attempts`.

        One that had worked for longer than the patience counts whatever ended it: else a run that always breaks off
        late would be tried for ever.
        """
        if not (isinstance(error, TransientError) and error.passes):
            return True
        patience = self.patience_for_servers if error.exit_code == _UNREACHABLE else self.patience
        return trouble.lasts >= patience or trouble.worked >= patience

    def delay(self, failures: int, jitter: float) -> timedelta:
        """The pause after so many failures: doubled each time, then shortened by up to half by `jitter` in 0…1."""
        doublings = min(failures - 1, 100)  # enough for any limit, and still a float
        pause = min(self.longest_delay, self.first_delay * 2.0**doublings)
        return timedelta(seconds=pause * (1 - jitter / 2))

    def delay_after(self, error: PipelineError, failures: int, jitter: float) -> timedelta:
        """The same, or what the server asks for if that is longer."""
        delay = self.delay(failures, jitter)
        if isinstance(error, TransientError) and error.retry_after is not None:
            seconds = min(error.retry_after, LONGEST_WAIT.total_seconds())
            delay = max(delay, timedelta(seconds=seconds))
        return delay


def final_error(error: PipelineError, attempts: int) -> PipelineError:
    """What the error of a last try makes the run's. One that says more than "try again later" keeps its kind."""
    if not error.retryable or error.exit_code in (_UNREACHABLE, _ACCESS_DENIED):
        return error
    return AttemptsExhausted(f"Gave up after {attempts} attempts. The last one: {error}")
