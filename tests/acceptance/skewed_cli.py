"""The command line with a wrong clock: `skewed_cli.py SECONDS COMMAND …` runs the clock fast by SECONDS."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.cli.main import main


def now(self: SystemClock) -> datetime:
    return datetime.now(UTC) + FAST


FAST = timedelta(seconds=float(sys.argv[1]))
SystemClock.now = now  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
