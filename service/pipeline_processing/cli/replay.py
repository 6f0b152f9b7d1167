"""`replay`: resubmits past requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.agencies import WantedAgency
from pipeline_processing.cli.context import current_settings, log_to_stderr, traced
from pipeline_processing.cli.options import MOMENT, OutputOption, moment
from pipeline_processing.cli.run_filters import (
    ErrorKindOption,
    LabelOption,
    RequestedByOption,
    SearchOption,
    StateOption,
    run_filter,
)
from pipeline_processing.terminal.render import counted, time_text
from pipeline_processing.terminal.tables import Output, print_items

if TYPE_CHECKING:
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.requests.replay import ReplayPlan, Step
    from pipeline_processing.requests.replay_sources import Selection
    from pipeline_processing.runs.run_filter import RunFilter
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.tracing import Telemetry

_ROWS = 1_000
"""Rows per table. A table is held in memory, because the longest cell sets a column's width."""


def replay(
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="T",
            parser=moment,
            help=f"Requests in the topic since: {MOMENT} With --failed or a filter: runs accepted since.",
        ),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(metavar="P:O", help="Requests in partition P of the topic, from offset O on."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The request of this run.", autocompletion=completion.run_ids)
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed runs that have no replay yet, optionally with the filters below.")
    ] = False,
    agency_id: WantedAgency = None,
    state: StateOption = None,
    error_kind: ErrorKindOption = None,
    label: LabelOption = None,
    requested_by: RequestedByOption = None,
    search: SearchOption = None,
    until: Annotated[
        datetime | None,
        typer.Option(metavar="T", parser=moment, help="Only those before; written as for --since, and not alone."),
    ] = None,
    same_run: Annotated[
        bool,
        typer.Option(
            "--same-run",
            help="Resend the same messages: only runs that the history has lost start again; finished runs resend "
            "their events.",
        ),
    ] = False,
    execute: Annotated[bool, typer.Option("--execute", help="Carry out the plan instead of only showing it.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Resubmit past requests as new runs, marked as replays of the old ones, without their deadlines.

    Only shows the plan unless --execute is given. --since alone and --offset read the requests topic, the other
    options the run history. Leaves out unfinished runs. As json, prints one object per request and line, and the rest
    on stderr.
    """
    from pipeline_processing.terminal.event_loop import run_async

    wanted = run_filter(state=state, error_kind=error_kind, label=label, requested_by=requested_by, search=search)
    selection = _selection(
        since, until, offset=offset, run_id=run_id, agency_id=agency_id, failed=failed, wanted=wanted
    )
    settings = current_settings()
    log_to_stderr()
    with traced() as telemetry:
        run_async(_replayed(settings, selection, telemetry, same_run=same_run, execute=execute, output=output))


def _selection(
    since: datetime | None,
    until: datetime | None,
    *,
    offset: str | None,
    run_id: str | None,
    agency_id: AgencyId | None,
    failed: bool,
    wanted: RunFilter,
) -> Selection:
    """Raises BadParameter for options that are invalid or can't be combined."""
    from pipeline_processing.messaging.topic_reading import place_of
    from pipeline_processing.requests.replay_sources import Selection

    given = {
        "--offset": offset is not None,
        "--run-id": run_id is not None,
        "--failed": failed,
        "--agency-id": agency_id is not None,
        "--state": bool(wanted.states),
        "--error-kind": bool(wanted.error_kinds),
        "--label": bool(wanted.labels),
        "--requested-by": wanted.requested_by is not None,
        "--search": wanted.text is not None,
    }
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1 and (names[0] in ("--offset", "--run-id") or (failed and wanted.states)):
        raise typer.BadParameter("only one of these.", param_hint=names)
    if not names and since is None:
        raise typer.BadParameter("one of these is needed.", param_hint=["--since", *given])
    if since is not None and (offset is not None or run_id is not None):
        raise typer.BadParameter("already selects the requests: leave out --since.", param_hint=names)
    if until is not None and run_id is not None:
        raise typer.BadParameter("already selects one run: leave out --until.", param_hint=names)
    if since is not None and until is not None and until <= since:
        raise typer.BadParameter("isn't after --since.", param_hint="'--until'")
    try:
        place = None if offset is None else place_of(offset)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'--offset'") from None
    return Selection(
        since=since, until=until, place=place, run_id=run_id, agency_id=agency_id, failed=failed, wanted=wanted
    )


async def _replayed(
    settings: Settings, selection: Selection, telemetry: Telemetry, *, same_run: bool, execute: bool, output: Output
) -> None:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import history, kafka
    from pipeline_processing.requests.replay import carry_out, planned
    from pipeline_processing.requests.submission import Submitter, ask_brokers
    from pipeline_processing.terminal.replay_plan import plan_summary

    clock, topic = SystemClock(), settings.kafka.requests_topic
    as_json = output is Output.JSON
    async with AsyncExitStack() as stack:
        runs = (await stack.enter_async_context(history.run_store(settings))).history
        topics = await stack.enter_async_context(kafka.topics(settings))
        if selection.reads_topic or execute:
            await ask_brokers(topics.ensure, clock=clock)
        plan = await stack.enter_async_context(
            planned(selection, runs=runs, topics=topics, topic=topic, same_run=same_run)
        )
        _print_plan(plan, output=output)
        for line in plan_summary(plan):
            typer.echo(line, err=as_json)
        if not plan.to_send:
            return
        if not execute:
            typer.echo("Nothing was sent. The same command with --execute sends them.", err=as_json)
            return
        events = await stack.enter_async_context(kafka.events(settings))
        submitter = Submitter(events=events, topic=topic, clock=clock, tracer=telemetry.tracer)
        sent = _Sent()
        # Failed runs whose replay was accepted meanwhile aren't selected again, and --same-run starts no run twice.
        with sent.reported_if_interrupted(of=plan.to_send, repeatable=same_run or selection.failed):
            await carry_out(plan, submitter=submitter, events=events, clock=clock, on_sent=sent.add)
        typer.echo(f"{counted(sent.count, 'request')} sent.", err=as_json)


class _Sent:
    """Counts the sent requests of a plan."""

    count = 0

    def add(self, count: int) -> None:
        self.count += count

    @contextmanager
    def reported_if_interrupted(self, *, of: int, repeatable: bool) -> Iterator[None]:
        """If the block ends early, print how many requests were sent and what repeating the command would do."""
        try:
            yield
        except BaseException:
            rest = "sends the rest" if repeatable else "sends the rest, and what was accepted meanwhile a second time"
            typer.echo(
                f"{self.count:,} of {of:,} requests were sent, in the plan's order, and perhaps some more. "
                f"The same command {rest}: look at its plan first.",
                err=True,
            )
            raise


def _print_plan(plan: ReplayPlan, *, output: Output) -> None:
    from pipeline_processing.terminal.replay_plan import PLAN_TABLE

    steps = chain.from_iterable(plan.pages())
    while rows := list(islice(steps, _ROWS)):
        print_items(rows, PLAN_TABLE, output=output, as_object=_object)


def _object(step: Step) -> dict[str, Any]:
    return {
        "run_id": step.run_id,
        "agency_id": step.agency_id,
        "state": step.state,
        "requested_at": time_text(step.requested_at),
        "sends": step.sends,
        "new_run_id": step.new_run_id,
        "outcome": step.outcome,
    }
