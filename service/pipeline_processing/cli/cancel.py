"""`cancel`: stops a queued or running run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.context import current_settings
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS

if TYPE_CHECKING:
    from pipeline_processing.model import Run, RunState


def cancel(
    run_id: Annotated[
        str,
        typer.Argument(metavar="RUN_ID", help="The run, as `history` names it.", autocompletion=completion.run_ids),
    ],
) -> int:
    """
    Cancel a queued or running run permanently.

    It publishes nothing, and its completion event says `cancelled`. A worker that works on it stops within seconds and
    removes its uploads.

    Exits with 1 if the run is already decided (`prepared`) or finished, with 65 if there is no run of that id.
    """
    from pipeline_processing.model import RunState
    from pipeline_processing.terminal.event_loop import run_async
    from pipeline_processing.terminal.render import moment, printable

    before, run = run_async(_cancelled(run_id))
    if run.state is RunState.CANCELLED and before is not RunState.CANCELLED:
        stops = f" Its worker, {run.worker}, stops within seconds." if run.worker else ""
        typer.echo(printable(f"{run.run_id} is cancelled.{stops}"))
        return SUCCESS
    if run.state.finished:
        why = f"is {run.state} already, since {moment(run.finished_at)} UTC."
    else:
        why = f"is {run.state}: it is decided, and will be published."
    typer.echo(f"Error: Run {run_id!r} {why} Only a queued or running run can be cancelled.", err=True)
    return FAILED


async def _cancelled(run_id: str) -> tuple[RunState, Run]:
    """Cancel the run if possible. Return its state before, and the run now. Raises RunUnknown."""
    from pipeline_processing.app.history import run_store
    from pipeline_processing.errors import RunUnknown

    async with run_store(current_settings()) as runs:
        before = await runs.history.get(run_id)
        if before is None:
            raise RunUnknown(run_id)
        return before.state, await runs.queue.cancel(run_id)
