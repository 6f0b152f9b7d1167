"""
Run the attempts of suspect runs in child processes.

A suspect run was lost with its worker before, and may have crashed it. In a child process it can't harm other runs.
The run table shows what the child did.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import HistoryUnavailable, ProcessEnded, Superseded
from pipeline_processing.log import get_logger
from pipeline_processing.model import RunState
from pipeline_processing.runs.failures import Attempted, Failures, known_error
from pipeline_processing.runs.lease import Lease, Leases
from pipeline_processing.runs.store import Claim, Outcome, RunHistory

log = get_logger(__name__)

_CHECK_SECONDS = 1.0
_GRACE_SECONDS = 5.0
"""Time for a process that has lost its run to notice and end."""


class IsolatedAttempt(Protocol):
    """One attempt in a child process."""

    async def start(self) -> None:
        """Start the process. Return once it renews the lease itself, or has ended."""

    async def ended(self) -> int:
        """Wait for the process to end. Return its exit code, or the negated number of the signal that ended it."""

    async def stop(self) -> None:
        """Terminate the process if it is running. It hands the run back."""


Isolated = Callable[[Claim], IsolatedAttempt]


class Isolation:
    """Makes attempts in the processes that `start` creates. The ports of `failures` must repeat each call."""

    def __init__(
        self, start: Isolated, *, leases: Leases, history: RunHistory, failures: Failures, clock: Clock
    ) -> None:
        self._start = start
        self._leases = leases
        self._history = history
        self._failures = failures
        self._clock = clock

    async def attempt(self, lease: Lease) -> Attempted:
        """Make an attempt, and end it if its process ended without doing so. Raises Superseded if the lease is lost."""
        claim = lease.claim
        log.warning("the run was lost with its worker before; it gets its own process")
        try:
            if claim.run.state is RunState.RUNNING:
                await self._failures.check_tries(claim)
            process = self._start(claim)
            try:
                await self._leases.work(lease, process.start())
                exit_code = await self._wait(process, claim)
            finally:
                await process.stop()
        except Superseded:
            raise
        except Exception as error:
            return await self._failures.end_attempt(claim, known_error(error), Outcome())
        run = await self._failures.current(claim)
        if run.state is not RunState.RUNNING or run.fence != claim.fence:
            return Attempted(run)
        return await self._failures.end_attempt(claim, ProcessEnded(exit_code), Outcome())

    async def _wait(self, process: IsolatedAttempt, claim: Claim) -> int:
        """Return the exit code of the process. Stop it if it has lost the run but keeps running."""
        ending = asyncio.ensure_future(process.ended())
        try:
            while not (await asyncio.wait([ending], timeout=_CHECK_SECONDS))[0]:
                if not await self._is_held(claim):
                    await asyncio.wait([ending], timeout=_GRACE_SECONDS)
                    await process.stop()
            return await ending
        finally:
            ending.cancel()

    async def _is_held(self, claim: Claim) -> bool:
        try:
            run = await self._history.get(claim.run.run_id) or claim.run
        except HistoryUnavailable:
            return True  # assume so until the history answers
        ends_at = run.lease_expires_at
        return run.fence == claim.fence and ends_at is not None and ends_at > self._clock.now()
