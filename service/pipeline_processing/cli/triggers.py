"""`triggers`: upstream events and times become job requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipeline_processing.cli.context import current_mask, current_settings, job_config_of, log_to_stderr, traced

if TYPE_CHECKING:
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.tracing import Telemetry
    from pipeline_processing.triggers.config import Triggers

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def triggers(context: typer.Context) -> None:
    """
    Make job requests of upstream events and of times, as PIPELINE_TRIGGERS_FILE says, until SIGTERM or Ctrl-C.

    Start as many as you like, all with the same file.
    """
    if context.invoked_subcommand is not None:
        return
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.terminal.event_loop import run_async
    from pipeline_processing.triggers.loading import load_triggers

    settings = current_settings()
    file = settings.require_triggers_file()
    loaded = load_triggers(file, job_config=job_config_of(settings), kafka=settings.kafka)
    log_to_stderr(level="info")
    with Cutoff() as cutoff, traced() as telemetry:
        run_async(_run(settings, loaded, telemetry, cutoff))


async def _run(settings: Settings, loaded: Triggers, telemetry: Telemetry, cutoff: Cutoff) -> None:
    import asyncio

    from pipeline_processing.app.triggers import triggers_process
    from pipeline_processing.cli.cutoff import stopped_by_signals

    stop = asyncio.Event()
    with stopped_by_signals([stop], cutoff, limits=[settings.worker.drain_seconds]):
        async with triggers_process(settings, loaded, tracer=telemetry.tracer, mask=current_mask()) as process:
            await process.run(stop)
