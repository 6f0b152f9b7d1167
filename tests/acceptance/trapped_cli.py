"""
The command line with a trap: `trapped_cli.py SIGNAL@PLACE[*N] run …` sends itself the signal when it reaches the place
for the Nth time.

Places are right after a step of the run protocol: see `AFTER` and `BEFORE`. Further places are "rows", when the first
rows are encoded; "part", when more than one part of an artifact was passed to its upload; "before complete" and "before
publish", with the stored plan loaded; "before delete", when that plan has failed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline_processing.app import one_run as app
from pipeline_processing.cli.main import main
from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.tables.destination import PostgresDestination
from pipeline_processing.history.postgres.attempts import PostgresAttempts
from pipeline_processing.history.postgres.intake import PostgresIntake
from pipeline_processing.history.postgres.queue import PostgresQueue
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.runs.executor import Reporting

MORE_THAN_A_PART = 9 * 1024 * 1024

STORES = (S3Destination, FileDestination)
AFTER = {
    "accept": "accept",
    "claim": "claim",
    "prepare": "prepare",
    "complete": "complete one",
    "publish": "publish",
    "succeed": "finish",
}
"""Method of a port → the place right after it."""
BEFORE = {"exists": "stream", "prepare": "verify", "publish": "complete"}
"""Method of a port → the place right before it: nothing happens between the previous step and the call."""


class Trap:
    """Sends the signal when its place is reached for the Nth time."""

    def __init__(self, spec: str) -> None:
        name, _, place = spec.partition("@")
        self.signal = signal.Signals[name]
        self.place, _, times = place.partition("*")
        self.left = int(times or 1)

    def reached(self, *places: str | None) -> None:
        if self.place in places:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.signal)

    def around(self, port: type, method: str) -> None:
        """Wrap a method of a port, so that it reaches the places before and after it."""
        real = getattr(port, method)

        def answered(call: asyncio.Future[Any]) -> None:
            if not call.cancelled() and call.exception() is None:
                self.reached(AFTER.get(method))

        async def trapped(*arguments: Any, **options: Any) -> Any:
            # The installation's mark is published by the same method as the manifest.
            if method == "publish" and "_manifest" not in arguments[1]:
                return await real(*arguments, **options)
            self.reached(BEFORE.get(method), f"before {method}")
            # The worker may cancel the call before it hears the answer, as when it learns elsewhere that the run ended.
            call = asyncio.ensure_future(real(*arguments, **options))
            call.add_done_callback(answered)
            return await asyncio.shield(call)

        setattr(port, method, trapped)

    def run_now(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*arguments: Any, reporting: Reporting) -> Any:
            def told(progress: RunProgress) -> None:
                self.reached("rows")
                if progress.bytes_written > MORE_THAN_A_PART:
                    self.reached("part")
                reporting.on_progress(progress)

            return real(*arguments, reporting=replace(reporting, on_progress=told))

        return trapped


trap = Trap(sys.argv[1])
for destination in (*STORES, PostgresDestination):
    for method in ("complete", "delete"):
        trap.around(destination, method)
for store in (*STORES, PostgresDestination):
    for method in ("exists", "publish"):
        trap.around(store, method)
trap.around(PostgresIntake, "accept")
trap.around(PostgresQueue, "claim")
trap.around(PostgresAttempts, "prepare")
trap.around(PostgresAttempts, "succeed")
app.run_now = trap.run_now(app.run_now)
sys.exit(main(sys.argv[2:]))
