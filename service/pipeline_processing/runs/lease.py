"""Working under a lease: it is renewed while the work lasts, and the work stops before the lease can end."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Never, TypeVar

import structlog

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import Superseded, TransientError
from pipeline_processing.runs.store import Claim, RunQueue

T = TypeVar("T")

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
"""How long a run that was cancelled may go on."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim, and when this worker's own clock says that it ends at the earliest."""

    claim: Claim
    ends_at: float


class _Lease:
    """A claim's lease, as both event loops see it."""

    def __init__(self, held: Held) -> None:
        self.claim = held.claim
        self.ends_at = held.ends_at


StartAside = Callable[[Coroutine[Any, Any, Never]], asyncio.Future[Never]]


class Leases:
    """
    Takes claims and works under them.

    Leases are renewed beside the work: `start_aside` starts a coroutine where the work can't block it, and
    `renewed_in` is the history to be used there. They are no longer renewed once the work `hangs`. `on_time` is told
    the history's time of day with every claim.

    Time is counted from *before* a claim or renewal was sent, on the monotonic clock, so that this worker always
    believes the lease to end earlier than the database does.
    """

    def __init__(
        self,
        *,
        queue: RunQueue,
        clock: Clock,
        length: timedelta,
        renewed_in: RunQueue | None = None,
        start_aside: StartAside = asyncio.ensure_future,
        hangs: Callable[[], bool] = lambda: False,
        on_time: Callable[[datetime], None] = lambda moment: None,
    ) -> None:
        self._on_time = on_time
        self._queue = queue
        self._renewed_in = queue if renewed_in is None else renewed_in
        self._start_aside = start_aside
        self._hangs = hangs
        self._clock = clock
        self._length = length

    async def claim(
        self, *, worker: str, max_runs_per_agency: int, config_id: str, run_id: str | None = None
    ) -> Held | None:
        """Claim one run, or that run; see `RunQueue.claim`."""
        asked_at = self._clock.monotonic()
        claim = await self._queue.claim(
            worker=worker,
            lease=self._length,
            max_runs_per_agency=max_runs_per_agency,
            config_id=config_id,
            run_id=run_id,
        )
        if claim is not None and claim.run.lease_expires_at is not None:
            self._on_time(claim.run.lease_expires_at - self._length)
        return None if claim is None else Held(claim, ends_at=asked_at + self._length.total_seconds())

    async def resume(self, claim: Claim) -> Held:
        """Go on with a claim that another process of this worker made. Raises Superseded if it holds no longer."""
        asked_at = self._clock.monotonic()
        await self._queue.renew(claim, lease=self._length)
        return Held(claim, ends_at=asked_at + self._length.total_seconds())

    async def work(self, held: Held, work: Coroutine[Any, Any, T]) -> T:
        """
        Do the work while renewing the lease. Raises Superseded, after cancelling the work, when the lease is lost:
        taken over, cancelled, or not renewed in time.
        """
        lease = _Lease(held)
        working = asyncio.ensure_future(work)
        renewing = self._start_aside(self._renew(lease))
        try:
            while not (working.done() or renewing.done()):
                if (left := lease.ends_at - self._clock.monotonic()) <= 0:
                    # The other event loop has said nothing: it runs late, or not at all.
                    raise Superseded(held.claim.run.run_id, fence=held.claim.fence)
                await asyncio.wait((working, renewing), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            renewing.result()  # raises: renewing only ends by an error
            raise AssertionError("renewing has no end")
        finally:
            working.cancel()
            renewing.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renew(self, lease: _Lease) -> Never:
        seconds = self._length.total_seconds()
        while True:
            # A third of the lease after it was last asked for, however late the answer came.
            await self._watch(lease.claim, until=lease.ends_at - seconds * 2 / 3)
            if self._hangs():
                log.error("the event loop has been blocked for too long; giving the run up")
                raise Superseded(lease.claim.run.run_id, fence=lease.claim.fence)
            # The last tenth is for stopping: a part reaches S3 for a moment after its task is cancelled.
            lease.ends_at = await self._renewed(lease.claim, give_up_at=lease.ends_at - seconds / 10)

    async def _watch(self, claim: Claim, *, until: float) -> None:
        """Wait, and look now and then whether the run was cancelled meanwhile. Raises Superseded."""
        while (left := until - self._clock.monotonic()) > _LOOK_SECONDS:
            await self._clock.sleep(_LOOK_SECONDS)
            try:
                async with asyncio.timeout(left - _LOOK_SECONDS):
                    await self._renewed_in.check(claim)
            except (TransientError, TimeoutError):
                pass  # renewing tells whether that matters
        await self._clock.sleep(max(0.0, left))

    async def _renewed(self, claim: Claim, *, give_up_at: float) -> float:
        """Renew the lease, trying again until `give_up_at`; when it ends then. Raises Superseded."""
        seconds = self._length.total_seconds()
        while True:
            sent_at = self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.0, give_up_at - sent_at)):
                    await self._renewed_in.renew(claim, lease=self._length)
                return sent_at + seconds
            except (TransientError, TimeoutError) as error:
                left = give_up_at - self._clock.monotonic()
                if left <= 0 or isinstance(error, TimeoutError):
                    log.error("the lease could not be renewed in time; giving the run up", error=str(error))
                    raise Superseded(claim.run.run_id, fence=claim.fence) from error
                log.warning("the lease could not be renewed; trying again", error=str(error))
                await self._clock.sleep(min(seconds / 10, left))
