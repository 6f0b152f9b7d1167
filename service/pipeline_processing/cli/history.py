"""`history`: the run history, newest first, or one run in full; `history export` and `history prune`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.agencies import WantedAgency
from pipeline_processing.cli.context import current_mask, current_settings, log_to_stderr
from pipeline_processing.cli.options import MOMENT, OutputOption, moment
from pipeline_processing.cli.run_filters import (
    ErrorKindOption,
    LabelOption,
    RequestedByOption,
    SearchOption,
    SinceOption,
    StateOption,
    UntilOption,
    run_filter,
)
from pipeline_processing.terminal import render, tables
from pipeline_processing.terminal.notes import note, note_length
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.model import Attempt, DatasetCounts, Run
    from pipeline_processing.runs.deliveries import Delivery
    from pipeline_processing.runs.run_filter import RunFilter
    from pipeline_processing.runs.store import RunStore
    from pipeline_processing.settings.settings import Settings

app = typer.Typer()

DEFAULT_LIMIT = 50
_PAGE = 200
"""Runs that `export` looks up at once."""
_CONNECTIONS = 4
_NAME = tables.Column("NAME", spare=2)


@app.callback(invoke_without_command=True)
def history(
    context: typer.Context,
    agency_id: WantedAgency = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="This run in full, with its datasets and attempts; takes no other filter.",
            autocompletion=completion.run_ids,
        ),
    ] = None,
    state: StateOption = None,
    error_kind: ErrorKindOption = None,
    label: LabelOption = None,
    requested_by: RequestedByOption = None,
    search: SearchOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=2**31 - 1, metavar="N", help=f"Show at most N runs; {DEFAULT_LIMIT} by default."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Show the runs while they change, until Ctrl-C: a table on a terminal, elsewhere a line per change.",
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Show the run history, newest first, or one run in full. Times are UTC.

    As json, one object per run and line, with the history's column names. Exits with 65 if there is no run of that id.
    """
    from pipeline_processing.runs.run_filter import EVERY_RUN
    from pipeline_processing.terminal.event_loop import run_async

    wanted = run_filter(
        agency_id=agency_id,
        state=state,
        error_kind=error_kind,
        label=label,
        requested_by=requested_by,
        search=search,
        since=since,
        until=until,
    )
    if context.invoked_subcommand is not None:
        if wanted != EVERY_RUN or (run_id, limit, watch, output) != (None, None, False, Output.TABLE):
            raise typer.BadParameter(
                f"write options behind it: history {context.invoked_subcommand} …",
                param_hint=f"'{context.invoked_subcommand}'",
            )
    elif run_id is not None:
        if wanted != EVERY_RUN or limit is not None or watch:
            raise typer.BadParameter(
                "shows one run: leave out all options but -o. To watch it, write --watch --search ID.",
                param_hint="'--run-id'",
            )
        full, names = run_async(_one_run(run_id, named=output is not Output.JSON))
        _print_run(full, names=names, output=output)
    elif watch:
        run_async(_watch(wanted, limit=limit, as_json=output is Output.JSON))
    else:
        limit = limit or DEFAULT_LIMIT
        runs, names = run_async(_runs(wanted, limit=limit + 1, named=output is not Output.JSON))
        _print_runs(runs, limit=limit, names=names, output=output)


def _print_runs(runs: Sequence[Run], *, limit: int, names: _Names, output: Output) -> None:
    """Print the first `limit` runs, and whether there are more."""
    table = render.RUN_TABLE
    if names:
        columns = list(table.items())
        columns.insert(2, (_NAME, lambda run: names.get(run.agency_id, tables.NOTHING)))
        table = dict(columns)
    tables.print_items(runs[:limit], table, output=output, as_object=render.run_object)
    note_length(min(len(runs), limit), "run", more=len(runs) > limit)


async def _runs(wanted: RunFilter, *, limit: int, named: bool) -> tuple[list[Run], _Names]:
    from pipeline_processing.app.history import run_store

    settings = current_settings()
    async with run_store(settings) as runs:
        found = await runs.history.newest(wanted, limit=limit)
    return found, await _names(settings, found) if named else {}


async def _names(settings: Settings, runs: Sequence[Run]) -> _Names:
    """Return the names of the runs' agencies, if there is a query for them. If it fails, only say so."""
    if settings.source.agency_names is None:
        return {}
    from pipeline_processing.app.agency_names import agency_names
    from pipeline_processing.errors import PipelineError

    try:
        return await agency_names(settings, [run.agency_id for run in runs])
    except PipelineError as error:
        note(f"No names of agencies (PIPELINE_SOURCE__AGENCY_NAMES): {current_mask().text(str(error))}")
        return {}


async def _watch(wanted: RunFilter, *, limit: int | None, as_json: bool) -> None:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import history, kafka
    from pipeline_processing.requests.watching import LiveProgress, Watch, watch
    from pipeline_processing.terminal.watch import rows_that_fit, shown_runs

    settings, clock = current_settings(), SystemClock()
    log_to_stderr(level="error")  # what doesn't answer is shown beside the runs
    fitting = None if as_json else rows_that_fit()
    async with history.run_store(settings) as runs, kafka.topics(settings) as topics:
        progress = LiveProgress(topics=topics, topic=settings.kafka.progress_topic, clock=clock)
        with shown_runs(current_mask(), as_json=as_json) as show:
            await watch(
                Watch(runs.history, wanted, limit=limit or fitting or DEFAULT_LIMIT, follow=fitting is None),
                progress=None if as_json else progress,
                clock=clock,
                show=show,
            )


_Names = dict["AgencyId", str]


class _Full(NamedTuple):
    run: Run
    datasets: list[DatasetCounts]
    attempts: list[Attempt]
    deliveries: Sequence[Delivery]


async def _one_run(run_id: str, *, named: bool) -> tuple[_Full, _Names]:
    from pipeline_processing.app.history import run_store
    from pipeline_processing.errors import RunUnknown

    settings = current_settings()
    async with run_store(settings) as runs:
        run = await runs.history.get(run_id)
        if run is None:
            raise RunUnknown(run_id)
        full = await _in_full(runs, run)
    return full, await _names(settings, [run]) if named else {}


async def _in_full(runs: RunStore, run: Run) -> _Full:
    datasets, attempts = await runs.history.datasets(run.run_id), await runs.history.attempts(run.run_id)
    return _Full(run, datasets, attempts, await runs.deliveries.of_run(run.run_id))


def _print_run(full: _Full, *, names: _Names, output: Output) -> None:
    if output is Output.JSON:
        tables.print_object(_full_object(full))
        return
    typer.echo(render.run_details(full.run, agency=names.get(full.run.agency_id)))
    lists: list[tuple[tables.Table[Any], Sequence[Any]]] = [
        (render.DATASET_TABLE, full.datasets),
        (render.ATTEMPT_TABLE, full.attempts),
        (render.DELIVERY_TABLE, full.deliveries),
    ]
    for table, items in lists:
        if items:
            typer.echo()
            tables.print_table(table, items, wide=output is Output.WIDE)


def _full_object(full: _Full) -> dict[str, Any]:
    return render.run_object(full.run) | {
        "datasets": [dataset.model_dump(mode="json") for dataset in full.datasets],
        "attempts": [attempt.model_dump(mode="json", exclude={"run_id"}) for attempt in full.attempts],
        "webhooks": [delivery.model_dump(mode="json", exclude={"run_id"}) for delivery in full.deliveries],
    }


# -- old runs ------------------------------------------------------------------------------------


@app.command()
def export(
    agency_id: WantedAgency = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """
    Print all runs in full, newest first: one JSON object per line, as `history --run-id ID --json` prints it.

    To archive what `prune --before T` removes, write `export --until T` to a file first, with the same fixed
    time as T: `90d` is a later one in each command.
    """
    from pipeline_processing.runs.run_filter import RunFilter
    from pipeline_processing.terminal.event_loop import run_async

    async def print_all() -> None:
        async for full in _all_in_full(RunFilter(agency_id=agency_id, since=since, until=until)):
            tables.print_object(_full_object(full))

    run_async(print_all())


async def _all_in_full(wanted: RunFilter) -> AsyncIterator[_Full]:
    import asyncio
    from dataclasses import replace

    from pipeline_processing.app.history import run_store
    from pipeline_processing.runs.run_filter import RunPlace

    async with run_store(current_settings(), connections=_CONNECTIONS) as runs:
        while page := await runs.history.newest(wanted, limit=_PAGE):
            for full in await asyncio.gather(*(_in_full(runs, run) for run in page)):
                yield full
            wanted = replace(wanted, after=RunPlace.of(page[-1]))


@app.command()
def prune(
    before: Annotated[
        datetime, typer.Option(metavar="T", parser=moment, help=f"Remove runs that finished before: {MOMENT}")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Remove old runs from the history. Each leaves a tombstone: its id can't be used again, and a message that asks for
    it gets its event again.

    Keeps runs whose event isn't sent or delivered yet, runs with leftovers that `gc` hasn't removed, and each dataset's
    last success, where incremental exports go on. Safe beside workers, and to repeat.
    """
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app.history import run_store
    from pipeline_processing.runs import pruning
    from pipeline_processing.terminal.event_loop import run_async

    async def pruned() -> pruning.Pruned:
        async with run_store(current_settings()) as runs:
            return await pruning.prune(runs.pruning, before, clock=SystemClock(), dry_run=dry_run)

    done = run_async(pruned())
    if output is Output.JSON:
        tables.print_object({"pruned": done.runs, "kept": {reason.value: done.kept[reason] for reason in pruning.Kept}})
        return
    typer.echo(f"{'would remove' if dry_run else 'removed'}  {render.counted(done.runs, 'run')}")
    for reason in pruning.Kept:
        if done.kept[reason]:
            typer.echo(f"kept  {render.counted(done.kept[reason], 'run')}: {reason.told}")
