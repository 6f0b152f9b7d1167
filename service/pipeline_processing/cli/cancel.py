"""`cancel`: stops a queued or running run, or all that match a filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.agencies import WantedAgency
from pipeline_processing.cli.context import current_settings
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.cli.run_filters import (
    LabelOption,
    RequestedByOption,
    SearchOption,
    SinceOption,
    StateOption,
    UntilOption,
    run_filter,
)
from pipeline_processing.terminal import render, tables
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS
from pipeline_processing.terminal.notes import note
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.model import Run, RunState
    from pipeline_processing.runs.run_filter import RunFilter

_PAGE = 500
_CONNECTIONS = 4


def cancel(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID", help="The run to cancel now, as `history` names it.", autocompletion=completion.run_ids
        ),
    ] = None,
    agency_id: WantedAgency = None,
    state: StateOption = None,
    label: LabelOption = None,
    requested_by: RequestedByOption = None,
    search: SearchOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Cancel the runs that match, instead of only listing them.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Cancel a queued or running run permanently, or with options all queued and running runs that match.

    It publishes nothing, and its completion event says `cancelled`. A worker that works on it stops within seconds and
    removes its uploads. Without RUN_ID, only shows the plan unless --execute is given.

    Exits with 1 if the run is already decided (`prepared`) or finished, with 65 if there is no run of that id.
    """
    from pipeline_processing.model import RunState
    from pipeline_processing.runs.run_filter import EVERY_RUN
    from pipeline_processing.terminal.event_loop import run_async

    wanted = run_filter(
        agency_id=agency_id,
        state=state,
        label=label,
        requested_by=requested_by,
        search=search,
        since=since,
        until=until,
    )
    if run_id is not None:
        if wanted != EVERY_RUN:
            raise typer.BadParameter("already selects one run: leave out the filters.", param_hint="'RUN_ID'")
        return _print_one(*run_async(_cancelled(run_id)), output=output)
    if wanted == EVERY_RUN:
        raise typer.BadParameter("name a run, or say which runs.", param_hint="'RUN_ID'")
    stoppable = (RunState.QUEUED, RunState.RUNNING)
    if other := set(wanted.states) - set(stoppable):
        raise typer.BadParameter(f"{min(other)} runs can't be cancelled.", param_hint="'--state'")
    wanted = replace(wanted, states=wanted.states or stoppable)
    show = partial(tables.print_items, table=_TABLE, output=output, as_object=_object)
    outcomes = run_async(_all_cancelled(wanted, execute=execute, show=show))
    note(_summary(outcomes, execute=execute))
    return SUCCESS


# -- one run -------------------------------------------------------------------------------------


async def _cancelled(run_id: str) -> tuple[RunState, Run]:
    """Cancel the run if possible. Return its state before, and the run now. Raises RunUnknown."""
    from pipeline_processing.app.history import run_store
    from pipeline_processing.errors import RunUnknown

    async with run_store(current_settings()) as runs:
        before = await runs.history.get(run_id)
        if before is None:
            raise RunUnknown(run_id)
        return before.state, await runs.queue.cancel(run_id)


def _print_one(before: RunState, run: Run, *, output: Output) -> int:
    cancelled = run.state == "cancelled" != before
    if output is Output.JSON:
        tables.print_object(_object((run, cancelled)))
    elif cancelled:
        stops = f" Its worker, {run.worker}, stops within seconds." if run.worker else ""
        typer.echo(tables.printable(f"{run.run_id} is cancelled.{stops}"))
    if cancelled:
        return SUCCESS
    if run.state.finished:
        why = f"is {run.state} already, since {render.moment(run.finished_at)} UTC."
    else:
        why = f"is {run.state}: it is decided, and will be published."
    typer.echo(f"Error: Run {run.run_id!r} {why} Only a queued or running run can be cancelled.", err=True)
    return FAILED


# -- all that match ------------------------------------------------------------------------------


_Outcome = tuple["Run", "bool | None"]
"""The run now, and whether it was cancelled; None if that is only planned."""


async def _all_cancelled(
    wanted: RunFilter, *, execute: bool, show: Callable[[Sequence[_Outcome]], None]
) -> Counter[bool | None]:
    """Cancel the runs, or only list them, page by page. Return how many had each outcome."""
    import asyncio

    from pipeline_processing.app.history import run_store
    from pipeline_processing.runs.run_filter import RunPlace

    outcomes = Counter[bool | None]()
    async with run_store(current_settings(), connections=_CONNECTIONS) as runs:
        try:
            while page := await runs.history.newest(wanted, limit=_PAGE):
                shown: list[_Outcome] = [(run, None) for run in page]
                if execute:
                    now = await asyncio.gather(*(runs.queue.cancel(run.run_id) for run in page))
                    shown = [(run, run.state == "cancelled") for run in now]
                show(shown)
                outcomes.update(outcome for _, outcome in shown)
                wanted = replace(wanted, after=RunPlace.of(page[-1]))
        except BaseException:
            if execute:
                done = render.counted(outcomes[True], "run")
                typer.echo(f"{done} cancelled, and perhaps some more. The same command cancels the rest.", err=True)
            raise
    return outcomes


def _what_happens(outcome: _Outcome) -> str:
    run, cancelled = outcome
    if cancelled is False:
        return "nothing: it was decided meanwhile"
    at_work = ", and its worker stops within seconds" if run.worker and run.state != "queued" else ""
    return f"{'would be ' if cancelled is None else ''}cancelled{at_work}"


_TABLE: tables.Table[_Outcome] = {
    tables.Column("RUN ID"): lambda outcome: outcome[0].run_id,
    tables.Column("AGENCY", right=True, spare=1): lambda outcome: str(outcome[0].agency_id),
    tables.Column("STATE"): lambda outcome: render.run_state(outcome[0]),
    tables.Column("QUEUED (UTC)", spare=3): lambda outcome: render.moment(outcome[0].queued_at),
    tables.Column("REQUESTED BY", spare=2): lambda outcome: outcome[0].requested_by or tables.NOTHING,
    tables.Column("WHAT HAPPENS", long=True): _what_happens,
}


def _object(outcome: _Outcome) -> dict[str, Any]:
    run, cancelled = outcome
    columns = run.model_dump(mode="json", include={"run_id", "agency_id", "state", "requested_by", "queued_at"})
    return columns | {"cancelled": bool(cancelled)}


def _summary(outcomes: Counter[bool | None], *, execute: bool) -> str:
    if not outcomes:
        return "Nothing to do: no such runs are queued or running."
    if not execute:
        runs = render.counted(outcomes[None], "run")
        return f"{runs} would be cancelled. Nothing was cancelled. The same command with --execute cancels them."
    decided = f" {render.counted(outcomes[False], 'run')} had been decided meanwhile." if outcomes[False] else ""
    return f"{render.counted(outcomes[True], 'run')} cancelled.{decided}"
