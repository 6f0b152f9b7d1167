"""`queue`: what waits to be run, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.agencies import WantedAgency
from pipeline_processing.cli.context import current_settings
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.render import time_text
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting
    from pipeline_processing.settings.settings import Settings

_STATES = ("due", "later", "running", "prepared")


def queue(
    agency_id: WantedAgency = None,
    limit: Annotated[
        int, typer.Option(min=1, max=2**31 - 1, metavar="N", help="Show at most N agencies and N runs.")
    ] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Show which runs wait: counts by state and agency, and for each run its place in the queue and why it waits.

    A place is about right: agencies take turns, and runs of a higher priority may still come. Runs without one aren't
    due yet, or need a worker with their own job config.
    """
    from pipeline_processing.terminal import queue as drawn
    from pipeline_processing.terminal.event_loop import run_async
    from pipeline_processing.terminal.notes import note
    from pipeline_processing.terminal.tables import print_object, print_table

    settings = current_settings()
    now, agencies, waiting = run_async(_read(settings, agency_id=agency_id, limit=limit))
    places = settings.worker.max_runs_per_agency
    counts = {state: sum(getattr(each, state) for each in agencies) for state in _STATES}
    if output is Output.JSON:
        print_object(
            {
                "at": time_text(now),
                "states": counts,
                "agencies": [
                    asdict(each) | {"waiting_since": time_text(each.waiting_since)} for each in agencies[:limit]
                ],
                "waiting": [drawn.waiting_object(each, places=places) for each in waiting],
            }
        )
        return
    typer.echo(", ".join(f"{number:,} {state}" for state, number in counts.items() if number) or "Nothing waits.")
    if agencies:
        typer.echo()
        print_table(drawn.agency_table(now), agencies[:limit])
    if waiting:
        typer.echo()
        print_table(drawn.waiting_table(places=places), waiting, wide=output is Output.WIDE)
    if len(agencies) > limit or counts["due"] + counts["later"] > limit:
        note("There are more: raise --limit, or choose an agency.")


async def _read(
    settings: Settings, *, agency_id: AgencyId | None, limit: int
) -> tuple[datetime, list[AgencyQueue], list[Waiting]]:
    from pipeline_processing.app.history import run_store_and_queue

    async with run_store_and_queue(settings) as (runs, reads):
        now = await runs.queue.now()
        agencies = await reads.agencies(agency_id=agency_id)
        return now, agencies, await reads.waiting(limit=limit, agency_id=agency_id)
