"""`history`: the run history, newest first, or one run in full."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_settings
from pipeline_processing.terminal import render

if TYPE_CHECKING:
    from pipeline_processing.model import Attempt, DatasetCounts, Run, RunState

DEFAULT_LIMIT = 50


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(history)


def history(
    agency_id: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, metavar="N", help="Runs of this agency only.")
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="This run in full, with its datasets and attempts; takes no other filter."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Runs in this state only: queued, running, prepared, succeeded, failed or cancelled.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Runs accepted since: an ISO time such as 2026-01-18T10:00Z (UTC if it names no zone), "
            "or so long ago: 90s, 15m, 2h, 7d.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=2**31 - 1, metavar="N", help=f"At most so many runs; {DEFAULT_LIMIT} by default."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per run and line, with the history's column names.")
    ] = False,
) -> None:
    """
    Show the run history, newest first, or one run in full. Times are UTC.

    Exits with 65 if there is no run of that id.
    """
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.terminal.event_loop import run_async

    if run_id is not None:
        if (agency_id, state, since, limit) != (None, None, None, None):
            raise typer.BadParameter(
                "shows one run: leave out --agency-id, --state, --since and --limit.", param_hint="'--run-id'"
            )
        run, datasets, attempts = run_async(_one_run(run_id))
        _print_run(run, datasets, attempts, as_json=as_json)
        return

    wanted_state = None if state is None else state_of(state)
    after = None if since is None else moment_of(since, now=SystemClock().now())
    runs = run_async(_runs(agency_id, wanted_state, after, limit or DEFAULT_LIMIT))
    if as_json:
        for run in runs:
            render.print_object(render.run_object(run))
    else:
        render.print_table(render.RUN_COLUMNS, map(render.run_line, runs))


async def _runs(agency_id: int | None, state: RunState | None, since: datetime | None, limit: int) -> list[Run]:
    from pipeline_processing.app.one_run import history as run_store

    async with run_store(current_settings()) as runs:
        return await runs.history.newest(agency_id=agency_id, state=state, since=since, limit=limit)


async def _one_run(run_id: str) -> tuple[Run, list[DatasetCounts], list[Attempt]]:
    from pipeline_processing.app.one_run import history as run_store
    from pipeline_processing.errors import RunUnknown

    async with run_store(current_settings()) as runs:
        run = await runs.history.get(run_id)
        if run is None:
            raise RunUnknown(run_id)
        return run, await runs.history.datasets(run_id), await runs.history.attempts(run_id)


def _print_run(run: Run, datasets: list[DatasetCounts], attempts: list[Attempt], *, as_json: bool) -> None:
    if as_json:
        counts = [dataset.model_dump(mode="json") for dataset in datasets]
        tries = [attempt.model_dump(mode="json", exclude={"run_id"}) for attempt in attempts]
        render.print_object(render.run_object(run) | {"datasets": counts, "attempts": tries})
        return
    typer.echo(render.run_details(run))
    if datasets:
        typer.echo()
        render.print_table(render.DATASET_COLUMNS, map(render.dataset_line, datasets))
    if attempts:
        typer.echo()
        render.print_table(render.ATTEMPT_COLUMNS, map(render.attempt_line, attempts))


# -- options -------------------------------------------------------------------------------------


def state_of(text: str) -> RunState:
    """Raises BadParameter, which names the states there are."""
    from pipeline_processing.model import RunState

    try:
        return RunState(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} isn't a state; the states are {', '.join(RunState)}.", param_hint="'--state'"
        ) from None


def moment_of(text: str, *, now: datetime) -> datetime:
    """
    `2h` → two hours before `now`; an ISO time → that time, in UTC where it names no zone.

    Raises BadParameter.
    """
    from pipeline_processing.options.durations import parse_duration

    try:
        ago: timedelta = parse_duration(text)
        return now - ago
    except (ValueError, OverflowError):
        pass  # then it is a time, or wrong
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither a time nor a duration: write 2026-01-18, 2026-01-18T10:00Z, 90s, 15m, 2h or 7d.",
            param_hint="'--since'",
        ) from None
