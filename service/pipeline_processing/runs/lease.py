"""Work under a lease: renew it while the work runs, and stop the work before the lease can end."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Never, TypeVar

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import HistoryClock
from pipeline_processing.errors import PipelineError, Superseded, TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.runs.store import Claim, RunQueue
from pipeline_processing.telemetry.metrics import Metrics

T = TypeVar("T")

log = get_logger(__name__)

_CHECK_SECONDS = 1.0
"""Interval of the checks for a cancelled run."""

StartAside = Callable[[Coroutine[Any, Any, Never]], asyncio.Future[Never]]


@dataclass(slots=True)
class Lease:
    """A claim and its earliest end, in seconds of this worker's monotonic clock. Each renewal moves `ends_at`."""

    claim: Claim
    ends_at: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """
    How leases are renewed while work runs: `start` starts a coroutine where the work can't block it, and `queue` is
    used from there. Once the work `hangs`, leases are no longer renewed.
    """

    queue: RunQueue
    start: StartAside = asyncio.ensure_future
    hangs: Callable[[], bool] = lambda: False
    metrics: Metrics = field(default_factory=Metrics)


class Leases:
    """
    Claims runs for a worker, and works under the claims. Each claim sets the clock to the database's time.

    A lease is measured on the monotonic clock from *before* the claim or renewal is sent, so that it always ends
    earlier for this worker than in the database.
    """

    def __init__(
        self,
        *,
        queue: RunQueue,
        clock: HistoryClock,
        worker: str,
        config_id: str,
        length: timedelta,
        max_runs_per_agency: int,
        renewal: Renewal | None = None,
    ) -> None:
        self.worker = worker
        self._queue = queue
        self._clock = clock
        self._config_id = config_id
        self._length = length
        self._max_runs_per_agency = max_runs_per_agency
        self._renewal = renewal or Renewal(queue)

    async def claim(self, *, run_id: str | None = None) -> Lease | None:
        """Claim the next run, or the run `run_id`; see `RunQueue.claim`."""
        asked_at = self._clock.monotonic()
        claim = await self._queue.claim(
            worker=self.worker,
            lease=self._length,
            max_runs_per_agency=self._max_runs_per_agency,
            config_id=self._config_id,
            run_id=run_id,
        )
        if claim is None:
            return None
        if claim.run.lease_expires_at is not None:
            self._clock.hear(claim.run.lease_expires_at - self._length)
        return Lease(claim, ends_at=asked_at + self._length.total_seconds())

    async def resume(self, claim: Claim) -> Lease:
        """Continue a claim made by another process of this worker. Raises Superseded if the claim is lost."""
        asked_at = self._clock.monotonic()
        await self._queue.renew(claim, lease=self._length)
        return Lease(claim, ends_at=asked_at + self._length.total_seconds())

    async def work(self, lease: Lease, work: Coroutine[Any, Any, T]) -> T:
        """
        Run `work` while renewing the lease. Cancels the work and raises Superseded if the run is taken over or
        cancelled, or if the lease isn't renewed in time.
        """
        working = asyncio.ensure_future(work)
        renewing = self._renewal.start(self._renew(lease))
        try:
            while not (working.done() or renewing.done()):
                if (left := lease.ends_at - self._clock.monotonic()) <= 0:
                    # The event loop that renews the lease is late or blocked.
                    raise Superseded(lease.claim.run.run_id, fence=lease.claim.fence)
                await asyncio.wait((working, renewing), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            renewing.result()  # raises: renewal only ends with an error
            raise AssertionError("renewal never ends")
        finally:
            working.cancel()
            renewing.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renew(self, lease: Lease) -> Never:
        seconds = self._length.total_seconds()
        while True:
            # A third of the lease after the last request was sent, no matter how late the answer came.
            await self._watch(lease.claim, until=lease.ends_at - seconds * 2 / 3)
            if self._renewal.hangs():
                log.error("the event loop has been blocked for too long; giving the run up")
                raise Superseded(lease.claim.run.run_id, fence=lease.claim.fence)
            # Keep the last tenth for stopping: a part may still reach S3 just after its task is cancelled.
            lease.ends_at = await self._renewed(lease.claim, give_up_at=lease.ends_at - seconds / 10)

    async def _watch(self, claim: Claim, *, until: float) -> None:
        """Wait until `until`. Raises Superseded if the run is taken over or cancelled meanwhile."""
        while (left := until - self._clock.monotonic()) > _CHECK_SECONDS:
            await self._clock.sleep(_CHECK_SECONDS)
            try:
                async with asyncio.timeout(left - _CHECK_SECONDS):
                    await self._renewal.queue.check(claim)
            except (TransientError, TimeoutError):
                pass  # if the outage lasts, the next renewal fails as well
        await self._clock.sleep(max(0.0, left))

    async def _renewed(self, claim: Claim, *, give_up_at: float) -> float:
        """Renew the lease, with retries. Return its new end. Raises Superseded if it isn't renewed by `give_up_at`."""
        error: PipelineError | None = None

        async def renew() -> float:
            sent_at = self._clock.monotonic()
            await self._renewal.queue.renew(claim, lease=self._length)
            self._renewal.metrics.renewals.add(1, "ok")
            return sent_at + self._length.total_seconds()

        def failed(failure: PipelineError, _: float) -> None:
            nonlocal error
            error = failure
            self._renewal.metrics.renewals.add(1, "failed")
            log.warning("the lease could not be renewed; trying again", error=str(failure))

        try:
            async with asyncio.timeout(max(0.0, give_up_at - self._clock.monotonic())):
                pause = Backoff.constant(self._length.total_seconds() / 10)
                return await ask(renew, clock=self._clock, backoff=pause, on_failure=failed)
        except TimeoutError:
            log.error("the lease could not be renewed in time; giving the run up", error=str(error or "no answer"))
            raise Superseded(claim.run.run_id, fence=claim.fence) from error
