"""`history`: the run history, newest first, or one run in full."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import current_settings
from pipeline_processing.cli.options import MOMENT, moment
from pipeline_processing.terminal import render

if TYPE_CHECKING:
    from pipeline_processing.model import Attempt, DatasetCounts, Run, RunState
    from pipeline_processing.runs.deliveries import Delivery
    from pipeline_processing.runs.run_filter import RunFilter

DEFAULT_LIMIT = 50


def state_of(text: str) -> RunState:
    """Parse a run state. Raises BadParameter, which lists the valid ones."""
    from pipeline_processing.model import RunState

    try:
        return RunState(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} isn't a state; the states are {', '.join(RunState)}.") from None


def history(
    agency_id: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, metavar="N", help="Runs of this agency only.")
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="This run in full, with its datasets and attempts; takes no other filter."),
    ] = None,
    state: Annotated[
        Any,  # RunState, which isn't imported for `--help`
        typer.Option(
            metavar="S",
            parser=state_of,
            help="Runs in this state only: queued, running, prepared, succeeded, failed or cancelled.",
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(metavar="T", parser=moment, help=f"Runs accepted since: {MOMENT}")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=2**31 - 1, metavar="N", help=f"Show at most N runs; {DEFAULT_LIMIT} by default."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per run and line, with the history's column names.")
    ] = False,
) -> None:
    """
    Show the run history, newest first, or one run in full. Times are UTC.

    Exits with 65 if there is no run of that id.
    """
    from pipeline_processing.runs.run_filter import RunFilter
    from pipeline_processing.terminal.event_loop import run_async

    if run_id is not None:
        if (agency_id, state, since, limit) != (None, None, None, None):
            raise typer.BadParameter(
                "shows one run: leave out --agency-id, --state, --since and --limit.", param_hint="'--run-id'"
            )
        _print_run(*run_async(_one_run(run_id)), as_json=as_json)
        return
    wanted = RunFilter(agency_id=agency_id, states=(state,) if state else (), since=since)
    runs = run_async(_runs(wanted, limit=limit or DEFAULT_LIMIT))
    if as_json:
        for run in runs:
            render.print_object(render.run_object(run))
    else:
        render.print_table(render.RUN_COLUMNS, map(render.run_line, runs))


async def _runs(wanted: RunFilter, *, limit: int) -> list[Run]:
    from pipeline_processing.app.one_run import history as run_store

    async with run_store(current_settings()) as runs:
        return await runs.history.newest(wanted, limit=limit)


async def _one_run(run_id: str) -> tuple[Run, list[DatasetCounts], list[Attempt], Sequence[Delivery]]:
    from pipeline_processing.app.one_run import history as run_store
    from pipeline_processing.errors import RunUnknown

    async with run_store(current_settings()) as runs:
        run = await runs.history.get(run_id)
        if run is None:
            raise RunUnknown(run_id)
        datasets, attempts = await runs.history.datasets(run_id), await runs.history.attempts(run_id)
        return run, datasets, attempts, await runs.deliveries.of_run(run_id)


def _print_run(
    run: Run,
    datasets: list[DatasetCounts],
    attempts: list[Attempt],
    deliveries: Sequence[Delivery],
    *,
    as_json: bool,
) -> None:
    if as_json:
        counts = [dataset.model_dump(mode="json") for dataset in datasets]
        tries = [attempt.model_dump(mode="json", exclude={"run_id"}) for attempt in attempts]
        webhooks = [delivery.model_dump(mode="json", exclude={"run_id"}) for delivery in deliveries]
        render.print_object(render.run_object(run) | {"datasets": counts, "attempts": tries, "webhooks": webhooks})
        return
    typer.echo(render.run_details(run))
    if datasets:
        typer.echo()
        render.print_table(render.DATASET_COLUMNS, map(render.dataset_line, datasets))
    if attempts:
        typer.echo()
        render.print_table(render.ATTEMPT_COLUMNS, map(render.attempt_line, attempts))
    if deliveries:
        typer.echo()
        render.print_table(render.DELIVERY_COLUMNS, map(render.delivery_line, deliveries))
