"""`serve`: the long-running consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_mask, log_to_stderr, metered, settings_to_run, traced
from pipeline_processing.cli.options import ConfigOption

if TYPE_CHECKING:
    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.metering import Metering
    from pipeline_processing.telemetry.tracing import Telemetry

_SETTLED_SECONDS = 3.0
"""After the start: connections are open, and the group is joined."""


def serve(
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Runs at once, instead of PIPELINE_WORKER__CONCURRENCY."),
    ] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="Process everything pending, retries included, and exit, even if runs fail."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """
    Consume requests from Kafka, execute their runs, and send completion events, until SIGTERM or Ctrl-C.

    After a signal, runs in progress may finish within PIPELINE_WORKER__DRAIN_SECONDS; then they are handed back. A
    second signal hands them back at once.
    """
    from pipeline_processing.agency_data_job.checking import require_sound
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.terminal.event_loop import run_async

    settings, job_config = settings_to_run(config=config, concurrency=concurrency)
    require_sound(job_config, secrets=settings.secrets, path=settings.job_config_file)
    log_to_stderr(level="info")
    with Cutoff() as cutoff, traced() as telemetry, metered(scraped=True) as metering:
        run_async(_served(settings, job_config, telemetry, metering, cutoff, once=once))


async def _served(
    settings: Settings,
    config: AgencyJobConfig,
    telemetry: Telemetry,
    metering: Metering,
    cutoff: Cutoff,
    *,
    once: bool,
) -> None:
    import asyncio

    from pipeline_processing.app.service import service
    from pipeline_processing.cli.cutoff import stopped_by_signals
    from pipeline_processing.serving.worker import hand_back_seconds
    from pipeline_processing.terminal.event_loop import collect_garbage_rarely, give_back_memory

    stop, hurry = asyncio.Event(), asyncio.Event()
    drain_seconds = settings.worker.drain_seconds
    limits = (drain_seconds, hand_back_seconds(drain_seconds))
    with stopped_by_signals((stop, hurry), cutoff, limits=limits):
        parts = service(settings, config, tracer=telemetry.tracer, mask=current_mask(), metering=metering)
        async with parts as opened:
            collect_garbage_rarely()
            asyncio.get_running_loop().call_later(_SETTLED_SECONDS, give_back_memory)
            await opened.run(stop, hurry, once=once)
