"""The child process of `app/isolated.py`: one attempt of one run. Not a command; `serve` starts it."""

import asyncio
import math
import os
import pickle
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import HistoryClock, SystemClock
from pipeline_processing.app import one_run as app
from pipeline_processing.app.data_path import data_path
from pipeline_processing.app.history import run_store
from pipeline_processing.cli.cutoff import Cutoff
from pipeline_processing.cli.uncaught import uncaught_errors_masked
from pipeline_processing.errors import PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.runs.billing import Ledger
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.executor import ASK_AGAIN_SECONDS, Executor, Reporting
from pipeline_processing.runs.store import Claim
from pipeline_processing.serving.worker import leave_seconds
from pipeline_processing.settings.settings import Settings
from pipeline_processing.signals import Terminated
from pipeline_processing.telemetry.logs import configure_logs
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import Telemetry, configure_telemetry
from pipeline_processing.terminal.event_loop import collect_garbage_rarely, run_async
from pipeline_processing.terminal.exit_codes import BUG

_ORPHAN_SECONDS = 15.0
"""Time for an attempt whose parent has died to hand its run back and clean up."""
_ME = "isolated attempt"

log = get_logger("pipeline_processing.cli.isolated_attempt")  # not __main__


def main() -> int:
    """Execute the claim read from standard input. Returns 0 if the attempt ended, whatever its outcome."""
    progress = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a step prints must not mix with progress
    # The parent, the service itself, is the only writer of this pipe.
    settings, config, claim, mask = pickle.load(sys.stdin.buffer)  # noqa: S301 - see above
    configure_logs(json=not sys.stderr.isatty(), level="info", mask=mask)
    try:
        with (
            Cutoff() as cutoff,
            uncaught_errors_masked(mask),
            configure_telemetry(os.environ, mask=mask) as telemetry,
        ):
            run_async(_work(settings, config, claim, telemetry, mask, cutoff, progress))
    except (Terminated, asyncio.CancelledError):
        log.info("stopped by a signal")
    except PipelineError as error:
        log.error("the attempt could not be made", error=str(error))
        return error.exit_code
    except Exception:
        log.exception("unexpected error")  # Python's own traceback isn't masked
        return BUG
    return 0


async def _work(
    settings: Settings,
    config: AgencyJobConfig,
    claim: Claim,
    telemetry: Telemetry,
    mask: Mask,
    cutoff: Cutoff,
    progress: BinaryIO,
) -> None:
    clock = HistoryClock(SystemClock())

    def report(made: RunProgress) -> None:
        with suppress(OSError):  # the parent has died, and `_follow_parent` ends the attempt
            progress.write(made.model_dump_json().encode() + b"\n")

    async with (
        app.watched_aside() as aside,
        run_store(settings, connections=3) as runs,
        data_path(settings, config, runs=1, mask=mask, clock=clock) as path,
        app.leases(settings, aside, queue=runs.queue, clock=clock, config_id=path.config_id, concurrency=1) as leases,
    ):
        history = Server("the history", clock=clock)
        executor = Executor(
            runs=runs,
            leases=leases,
            path=path,
            history=history,
            retry=app.retry_policy(settings),
            reporting=Reporting(
                tracer=telemetry.tracer, mask=mask, on_progress=report, ledger=Ledger(longest_carry=math.inf)
            ),
            leave_seconds=leave_seconds(settings.worker.drain_seconds),
        )
        _follow_parent(cutoff)
        # The parent renews the lease until this process does.
        clock.hear(await history.ask(runs.queue.now, by=_ME, pause=ASK_AGAIN_SECONDS))
        lease = await history.ask(lambda: leases.resume(claim), by=_ME, pause=ASK_AGAIN_SECONDS)
        progress.write(b"\n")
        collect_garbage_rarely()
        await executor.execute(lease)


def _follow_parent(cutoff: Cutoff) -> None:
    """Once the parent has died, cancel this task, and end the process soon after even if something hangs."""
    loop, working = asyncio.get_running_loop(), asyncio.current_task()
    assert working is not None
    cancel = working.cancel

    def wait_for_parent() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        cutoff.within(_ORPHAN_SECONDS)
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(cancel)

    # In a thread, because user code may block the event loop.
    threading.Thread(target=wait_for_parent, daemon=True, name="parent").start()


if __name__ == "__main__":
    sys.exit(main())
