"""
Child processes for the attempts of suspect runs; see `runs/isolated.py`.

The parent, this worker, writes the claim to the child's standard input and keeps it open: end of file tells the child
that the parent is gone. The child, `cli/isolated_attempt.py`, writes progress as JSON lines to its standard output.
"""

import asyncio
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import TransientError
from pipeline_processing.log import get_logger
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.store import Claim
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask

log = get_logger(__name__)

_STOP_SECONDS = 10.0
_CHILD = "pipeline_processing.cli.isolated_attempt"


class IsolatedAttempt:
    """See `runs.isolated.IsolatedAttempt`. The child gets this process's settings, job config and mask."""

    def __init__(
        self,
        claim: Claim,
        *,
        settings: Settings,
        config: AgencyJobConfig,
        mask: Mask,
        on_progress: Callable[[RunProgress], None],
    ) -> None:
        self._work = pickle.dumps((settings, config, claim, mask))
        self._on_progress = on_progress
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        try:
            self._child = child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C must reach only the parent, which stops its runs in order
            )
        except OSError as error:
            raise TransientError(f"Can't start a process for this run: {error}. The run will be retried.") from error
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(self._work)
        await child.stdout.readline()  # the first line comes once it renews the lease; empty if it has ended

    async def ended(self) -> int:
        assert self._child is not None
        reading = asyncio.ensure_future(self._read_progress())
        try:
            # Wait for the process, not for the end of its output, which a grandchild may keep open.
            return await self._child.wait()
        finally:
            reading.cancel()

    async def _read_progress(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        async for line in self._child.stdout:
            with suppress(ValidationError):  # the child was killed while it wrote the line
                self._on_progress(RunProgress.model_validate_json(line))

    async def stop(self) -> None:
        """See `runs.isolated.IsolatedAttempt`. A child that takes too long is killed."""
        if self._child is None or self._child.returncode is not None:
            return
        self._child.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._child.wait()
        except TimeoutError:
            log.warning("the process of a run did not end and is killed; the run continues when its lease has ended")
        finally:
            if self._child.returncode is None:
                self._child.kill()
