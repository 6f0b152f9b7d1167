"""`board`: the live status page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_processing.cli.context import current_mask, current_settings, log_to_stderr

if TYPE_CHECKING:
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.settings.settings import Settings

_STOP_SECONDS = 4.5
"""Longest time to stop, before the time to close everything."""


def board() -> None:
    """
    Serve the live status page of the run history, until SIGTERM or Ctrl-C.

    It only reads. PIPELINE_BOARD__HOST and PIPELINE_BOARD__PORT set its address, by default http://127.0.0.1:6066. Any
    address that other machines can reach needs PIPELINE_BOARD__TOKEN.
    """
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.terminal.event_loop import run_async

    settings = current_settings()
    settings.require_history_dsn()
    log_to_stderr(level="info")
    with Cutoff() as cutoff:
        run_async(_served(settings, cutoff))


async def _served(settings: Settings, cutoff: Cutoff) -> None:
    import asyncio

    from pipeline_processing.app.board import board as opened
    from pipeline_processing.cli.cutoff import stopped_by_signals
    from pipeline_processing.terminal.event_loop import collect_garbage_rarely

    stop = asyncio.Event()
    with stopped_by_signals([stop], cutoff, limits=[_STOP_SECONDS]):
        async with opened(settings, mask=current_mask()) as board:
            collect_garbage_rarely()
            await board.run(stop)
