"""`replay`: resubmits past requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.agencies import wanted_agency
from pipeline_processing.cli.context import current_settings, log_to_stderr, traced
from pipeline_processing.cli.options import MOMENT, moment
from pipeline_processing.terminal.render import counted, print_object, print_table

if TYPE_CHECKING:
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.requests.replay import ReplayPlan, Step
    from pipeline_processing.requests.replay_sources import Selection
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
            help=f"Requests in the topic since: {MOMENT} With --agency-id or --failed: runs accepted since.",
        ),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(metavar="P:O", help="Requests in partition P of the topic, from offset O on."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The request of this run.", autocompletion=completion.run_ids)
    ] = None,
    agency_id: Annotated[
        str | None, typer.Option("--agency-id", parser=wanted_agency, metavar="N", help="The agency's runs.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed runs that have no replay yet, optionally with --agency-id.")
    ] = False,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the plan as one JSON object per line; the rest goes to stderr.")
    ] = False,
) -> None:
    """
    Resubmit past requests as new runs, marked as replays of the old ones, without their deadlines.

    Only shows the plan unless --execute is given. --since alone and --offset read the requests topic, the other
    options the run history. Leaves out unfinished runs.
    """
    from pipeline_processing.terminal.event_loop import run_async

    selection = _selection(since, until, offset=offset, run_id=run_id, agency_id=agency_id, failed=failed)
    settings = current_settings()
    log_to_stderr()
    with traced() as telemetry:
        run_async(_replayed(settings, selection, telemetry, same_run=same_run, execute=execute, as_json=as_json))


def _selection(
    since: datetime | None,
    until: datetime | None,
    *,
    offset: str | None,
    run_id: str | None,
    agency_id: AgencyId | None,
    failed: bool,
) -> Selection:
    """Raises BadParameter for options that are invalid or can't be combined."""
    from pipeline_processing.messaging.topic_reading import place_of
    from pipeline_processing.requests.replay_sources import Selection

    given = {
        "--offset": offset is not None,
        "--run-id": run_id is not None,
        "--agency-id": agency_id is not None,
        "--failed": failed,
    }
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1 and names != ["--agency-id", "--failed"]:
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
    return Selection(since=since, until=until, place=place, run_id=run_id, agency_id=agency_id, failed=failed)


async def _replayed(
    settings: Settings, selection: Selection, telemetry: Telemetry, *, same_run: bool, execute: bool, as_json: bool
) -> None:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import history, kafka
    from pipeline_processing.requests.replay import carry_out, planned
    from pipeline_processing.requests.submission import Submitter, ask_brokers
    from pipeline_processing.terminal.replay_plan import plan_summary

    clock, topic = SystemClock(), settings.kafka.requests_topic
    async with AsyncExitStack() as stack:
        runs = (await stack.enter_async_context(history.run_store(settings))).history
        topics = await stack.enter_async_context(kafka.topics(settings))
        if selection.reads_topic or execute:
            await ask_brokers(topics.ensure, clock=clock)
        plan = await stack.enter_async_context(
            planned(selection, runs=runs, topics=topics, topic=topic, same_run=same_run)
        )
        _print_plan(plan, as_json=as_json)
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


def _print_plan(plan: ReplayPlan, *, as_json: bool) -> None:
    from pipeline_processing.terminal.replay_plan import PLAN_COLUMNS, step_line

    steps = chain.from_iterable(plan.pages())
    if as_json:
        for step in steps:
            print_object(_object(step))
        return
    while rows := list(islice(steps, _ROWS)):
        print_table(PLAN_COLUMNS, map(step_line, rows))


def _object(step: Step) -> dict[str, Any]:
    return {
        "run_id": step.run_id,
        "agency_id": step.agency_id,
        "state": step.state,
        "requested_at": None if step.requested_at is None else step.requested_at.isoformat(),
        "sends": step.sends,
        "new_run_id": step.new_run_id,
        "outcome": step.outcome,
    }
