"""Hand back unfinished runs, and clean up after attempts."""

import asyncio

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import give_up, in_time, shielded
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import PipelineError, Superseded
from pipeline_processing.log import get_logger
from pipeline_processing.model import Bill, Run
from pipeline_processing.runs.clean_up import CleanUp
from pipeline_processing.runs.failures import Attempted
from pipeline_processing.runs.store import Claim, RunAttempts, RunLeftovers
from pipeline_processing.user_code import NoException, contained

log = get_logger(__name__)

_CLEAN_UP_SECONDS = 10.0
_CONNECTIONS = 3
"""Number of tries to hand back, each on another connection, because a connection may hang."""


class HandBack:
    """
    Hands back runs and cleans up after attempts. `leave` may take `seconds` in all. `attempts` must repeat each call
    until the server answers.
    """

    def __init__(
        self,
        *,
        attempts: RunAttempts,
        leftovers: RunLeftovers,
        destinations: Destinations,
        clock: Clock,
        seconds: float,
    ) -> None:
        self._attempts = attempts
        self._leftovers = leftovers
        self._destinations = destinations
        self._clock = clock
        self._seconds = seconds

    async def leave(self, claim: Claim, attempt: "asyncio.Task[Attempted]", *, bill: Bill | None) -> bool:
        """
        Hand the run back with its bill so far, then wait for the cancelled attempt to unwind, and clean up after it.
        Return whether the run was handed back.

        Another worker may claim the run meanwhile. That is harmless: any write of the old attempt names an outdated
        state or fence, and the attempt aborts only its own uploads.
        """
        ends_at = self._clock.monotonic() + self._seconds

        def left() -> float:
            return max(0.0, ends_at - self._clock.monotonic())

        handed_back = await self._hand_back(claim, bill)
        await asyncio.wait([attempt], timeout=left())
        if not attempt.done():
            log.warning("the attempt hangs; `gc` will remove its leftovers")
        elif handed_back:
            await self.clean_up(claim.run.run_id, seconds=left())
        return handed_back

    async def _hand_back(self, claim: Claim, bill: Bill | None) -> bool:
        asking: set[asyncio.Task[Run]] = set()
        error = "no answer from the history"
        try:
            for _ in range(_CONNECTIONS):
                asking.add(asyncio.create_task(self._attempts.hand_back(claim, bill=bill)))
                seconds = self._seconds / _CONNECTIONS
                answered, _ = await asyncio.wait(asking, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if answered:
                    answered.pop().result()
                    log.info("handed back")
                    return True
        except Superseded:
            return False  # it has ended, or another worker holds it
        except PipelineError as problem:
            error = str(problem)
        finally:
            for task in asking:
                give_up(task)
        log.warning("the run could not be handed back; it continues when its lease has ended", error=error)
        return False

    async def clean_up(self, run_id: str, *, seconds: float = _CLEAN_UP_SECONDS) -> None:
        """
        Remove the run's leftovers within a time limit, even if this task is cancelled meanwhile.

        `gc` finds what remains by the same queries.
        """

        async def limited() -> None:
            try:
                await in_time(contained(self._clean_up(run_id)), seconds=seconds)  # a plugin's destination is user code
            except (PipelineError, NoException, TimeoutError) as error:
                log.warning("clean-up after a run failed; `gc` will do it", error=str(error) or "no answer in time")

        await shielded(limited())

    async def _clean_up(self, run_id: str) -> None:
        clean_up = CleanUp(leftovers=self._leftovers, destinations=self._destinations)
        await clean_up.after_run(run_id)
        for problem in clean_up.problems:
            log.warning("a leftover of a run could not be removed; `gc` will do it", error=str(problem))
