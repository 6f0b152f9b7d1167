"""
The command line, with a trap: `trapped_cli.py SIGNAL@PLACE[*N] run …` sends itself the signal when it gets to the
place for the Nth time.

Places are the steps of the protocol that `after` is told, right after each; "rows", when the first rows are encoded;
"part", when more than one part of an artifact was handed to its upload; "before complete" and "before publish", with
the stored plan in hand; "before delete", when that plan has failed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline_processing.app import one_run as app
from pipeline_processing.cli.main import main
from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.runs.completions import RunProgress

MORE_THAN_A_PART = 9 * 1024 * 1024


class Trap:
    """Counts how often each place was reached."""

    def __init__(self, spec: str) -> None:
        name, _, place = spec.partition("@")
        self.signal = signal.Signals[name]
        self.place, _, times = place.partition("*")
        self.left = int(times or 1)

    def reached(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.signal)

    def in_front_of(self, destination: type, method: str) -> None:
        """Let a destination's method reach `before …` first."""
        real = getattr(destination, method)

        async def trapped(*arguments: Any, **options: Any) -> None:
            # The installation's mark is published in the same way.
            if method != "publish" or "_manifest" in arguments[1]:
                self.reached(f"before {method}")
            await real(*arguments, **options)

        setattr(destination, method, trapped)

    def run_now(self, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        on_progress = options.pop("on_progress")

        def told(progress: RunProgress) -> None:
            self.reached("rows")
            if progress.bytes_written > MORE_THAN_A_PART:
                self.reached("part")
            on_progress(progress)

        return real(*arguments, on_progress=told, after=self.reached, **options)


trap = Trap(sys.argv[1])
for destination in (S3Destination, FileDestination):
    for method in ("complete", "publish", "delete"):
        trap.in_front_of(destination, method)
app.run_now = partial(trap.run_now, app.run_now)
sys.exit(main(sys.argv[2:]))
