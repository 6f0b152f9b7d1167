"""`serve`: the long-running consumer."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.tracing import Telemetry

_GRACE_SECONDS = 1.5
"""What closing may take beyond the drain time."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Runs at once, instead of PIPELINE_WORKER__CONCURRENCY."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do all that is there now, retries included, and end; also if runs fail.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="The job config, instead of PIPELINE_JOB_CONFIG_FILE."),
    ] = None,
) -> None:
    """
    Take requests from Kafka, work on their runs, send completion events; until SIGTERM or Ctrl-C.

    Stopping finishes the runs in progress, or hands them back when PIPELINE_WORKER__DRAIN_SECONDS are over; a second
    signal hands them back at once.
    """
    from pipeline_processing.agency_data_job.checking import require_sound
    from pipeline_processing.agency_data_job.config import load_job_config
    from pipeline_processing.cli.context import current_mask, current_settings, missing_settings
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.errors import SettingsError
    from pipeline_processing.telemetry.logs import configure_logs
    from pipeline_processing.telemetry.tracing import configure_telemetry
    from pipeline_processing.terminal.event_loop import run_async

    settings = current_settings(job_config_file=config, concurrency=concurrency)
    job_config = load_job_config(settings.job_config_file) if settings.job_config_file else None
    missing = missing_settings(settings, job_config)
    if missing or job_config is None:
        raise SettingsError("\n".join(map(str, missing)))
    require_sound(job_config, secrets=settings.secrets)
    configure_logs(json=not sys.stderr.isatty(), level="info", mask=current_mask())
    with Cutoff() as cutoff, configure_telemetry(os.environ, mask=current_mask()) as telemetry:
        run_async(_served(settings, job_config, telemetry, cutoff, once=once))


async def _served(
    settings: Settings, config: AgencyJobConfig, telemetry: Telemetry, cutoff: Cutoff, *, once: bool
) -> None:
    import asyncio

    from pipeline_processing.app.service import service
    from pipeline_processing.cli.context import current_mask

    stop, hurry = asyncio.Event(), asyncio.Event()
    with _told_by_signals(stop, hurry, cutoff, drain_seconds=settings.worker.drain_seconds):
        async with service(settings, config, tracer=telemetry.tracer, mask=current_mask()) as parts:
            await parts.run(stop, hurry, once=once)


@contextmanager
def _told_by_signals(
    stop: asyncio.Event, hurry: asyncio.Event, cutoff: Cutoff, *, drain_seconds: float
) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`, the next one `hurry`; each leaves a limited time."""
    import asyncio

    from pipeline_processing.serving.worker import hand_back_seconds

    def told() -> None:
        if not stop.is_set():
            stop.set()
            cutoff.within(drain_seconds + _GRACE_SECONDS)
        else:
            hurry.set()
            cutoff.within(hand_back_seconds(drain_seconds) + _GRACE_SECONDS)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
