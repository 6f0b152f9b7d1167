"""
One attempt in a process of its own, for a run that was lost with its worker and may have been the cause: part of the
composition root. Whatever such a run does to its process, the other runs go on.

The parent sends what is to be done to the child's standard input, and keeps that open: its end tells the child that
the parent is gone. The child sends progress, a line of JSON each, to its standard output.
"""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import structlog
from pydantic import ValidationError

from pipeline_processing import app
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.app_data import data_path
from pipeline_processing.cli.event_loop import run_async
from pipeline_processing.clock import SystemClock
from pipeline_processing.errors import PipelineError
from pipeline_processing.logs import configure_logs
from pipeline_processing.model import RunProgress
from pipeline_processing.ports import Claim
from pipeline_processing.settings import Settings
from pipeline_processing.signals import Terminated
from pipeline_processing.telemetry import Telemetry, configure_telemetry

log = structlog.get_logger("pipeline_processing.app_isolated")  # also as __main__

_SMALLEST_BUDGET_MIB = 32
_STOP_SECONDS = 10.0


# -- the parent ----------------------------------------------------------------------------------


class IsolatedAttempts:
    """Makes attempts in child processes, each with a run's share of the memory budget."""

    def __init__(
        self, settings: Settings, config: AgencyJobConfig, *, on_progress: Callable[[RunProgress], None]
    ) -> None:
        share = settings.worker.memory_budget_mib // settings.worker.concurrency
        worker = {"concurrency": 1, "memory_budget_mib": max(share, _SMALLEST_BUDGET_MIB)}
        self._settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=worker)})
        self._config = config
        self._on_progress = on_progress

    def __call__(self, claim: Claim) -> "IsolatedAttempt":
        work = pickle.dumps((self._settings, self._config, claim))
        return IsolatedAttempt(work, on_progress=self._on_progress)


class IsolatedAttempt:
    """See `executor.IsolatedAttempt`. `work` is what the child's standard input brings."""

    def __init__(self, work: bytes, *, on_progress: Callable[[RunProgress], None]) -> None:
        self._work = work
        self._on_progress = on_progress
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """See `executor.IsolatedAttempt`."""
        self._child = child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which stops its runs in order
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(self._work)
        await child.stdout.readline()  # empty, if it has ended

    async def ended(self) -> int:
        """See `executor.IsolatedAttempt`."""
        assert self._child is not None
        assert self._child.stdout is not None
        async for line in self._child.stdout:
            with suppress(ValidationError):  # of a line in whose middle the child was ended
                self._on_progress(RunProgress.model_validate_json(line))
        return await self._child.wait()

    async def stop(self) -> None:
        """See `executor.IsolatedAttempt`. A child that takes too long is killed."""
        if self._child is None or self._child.returncode is not None:
            return
        self._child.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._child.wait()
        except TimeoutError:
            log.warning("the process of a run did not end; it is killed, and the run goes on when its lease has ended")
        finally:
            if self._child.returncode is None:
                self._child.kill()


# -- the child -----------------------------------------------------------------------------------


def main() -> int:
    """Work on the claim that standard input brings; 0 if the attempt ended, however it did."""
    progress = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a step prints is no progress
    # From a process of our own, through a pipe that nobody else can write to.
    settings, config, claim = pickle.load(sys.stdin.buffer)  # noqa: S301 - see above
    configure_logs(json=not sys.stderr.isatty(), level="info")
    try:
        with configure_telemetry(os.environ) as telemetry:
            run_async(_work(settings, config, claim, telemetry, progress))
    except (Terminated, asyncio.CancelledError):
        log.info("told to stop")
    except PipelineError as error:
        log.error("the attempt could not be made", error=str(error))
        return error.exit_code
    return 0


async def _work(
    settings: Settings, config: AgencyJobConfig, claim: Claim, telemetry: Telemetry, progress: BinaryIO
) -> None:
    clock, loop, lifeline = SystemClock(), asyncio.get_running_loop(), sys.stdin.fileno()
    working = asyncio.current_task()
    assert working is not None

    def orphaned() -> None:
        loop.remove_reader(lifeline)
        working.cancel()

    def tell(made: RunProgress) -> None:
        progress.write(made.model_dump_json().encode() + b"\n")

    async with (
        app.watched_aside() as aside,
        app.history(settings, connections=3) as runs,
        app.leases(settings, aside, runs=runs, clock=clock, concurrency=1) as leases,
        data_path(settings, config, runs=1) as path,
    ):
        executor = app.executor(
            settings,
            config,
            runs=runs,
            leases=leases,
            path=path,
            clock=clock,
            tracer=telemetry.tracer,
            on_progress=tell,
        )
        held = await leases.resume(claim)
        progress.write(b"\n")  # from here on this process renews the lease
        loop.add_reader(lifeline, orphaned)
        try:
            await executor.execute(held)
        finally:
            loop.remove_reader(lifeline)


if __name__ == "__main__":
    sys.exit(main())
