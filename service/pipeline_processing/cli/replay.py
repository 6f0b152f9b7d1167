"""`replay`: past requests, submitted again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline_processing.cli.context import current_mask, current_settings
from pipeline_processing.cli.history import moment_of
from pipeline_processing.terminal import render

if TYPE_CHECKING:
    from pipeline_processing.messaging.port import Topics
    from pipeline_processing.messaging.topic_reading import Place
    from pipeline_processing.requests.replay import ReplayPlan, Step
    from pipeline_processing.requests.replay_sources import RequestSource
    from pipeline_processing.runs.store import RunHistory
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.tracing import Telemetry

COLUMNS = (
    render.Column("RUN ID"),
    render.Column("AGENCY", right=True),
    render.Column("STATE"),
    render.Column("REQUESTED (UTC)"),
    render.Column("WHAT HAPPENS", long=True),
)

_ROWS = 1_000
"""In one table: its columns are as wide as the longest cell, so all of them are held."""


class Choice(NamedTuple):
    """Which requests, and how. Only what a valid command line can say."""

    since: datetime | None
    until: datetime | None
    place: Place | None
    run_id: str | None
    agency_id: int | None
    failed: bool
    same_run: bool

    @property
    def reads_topic(self) -> bool:
        """Whether the requests are found in the topic, rather than in the history."""
        return self.place is not None or (self.run_id is None and self.agency_id is None and not self.failed)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Requests in the topic since: an ISO time such as 2026-01-18T10:00Z (UTC if it names no zone), or so "
            "long ago: 90s, 15m, 2h, 7d. With --agency-id or --failed: runs accepted since.",
        ),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(metavar="P:O", help="Requests in partition P of the topic, from offset O on."),
    ] = None,
    run_id: Annotated[str | None, typer.Option(metavar="ID", help="The request of this run of the history.")] = None,
    agency_id: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, metavar="N", help="The agency's runs of the history.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed runs of the history that have no replay yet; also of one agency.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Only what is before; written as for --since, and not alone.")
    ] = None,
    same_run: Annotated[
        bool,
        typer.Option(
            "--same-run",
            help="The same messages again: no new runs but of those that the history has lost; finished runs send "
            "their events again.",
        ),
    ] = False,
    execute: Annotated[
        bool, typer.Option("--execute", help="Do it; without this, only show what would be done.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The plan as one JSON object per request and line; the rest on stderr.")
    ] = False,
) -> None:
    """
    Submit past requests again: as new runs, marked as replays of the old ones, without their deadlines.

    Shows the plan, and acts only with --execute. --since and --offset read the requests topic, the other choices the
    run history. Runs that haven't finished are left out.
    """
    from pipeline_processing.telemetry.logs import configure_logs
    from pipeline_processing.telemetry.tracing import configure_telemetry
    from pipeline_processing.terminal.event_loop import run_async

    choice = chosen(
        since=since,
        offset=offset,
        run_id=run_id,
        agency_id=agency_id,
        failed=failed,
        until=until,
        same_run=same_run,
    )
    settings = current_settings()
    on_terminal = sys.stderr.isatty()
    configure_logs(json=not on_terminal, level="warning" if on_terminal else "info", mask=current_mask())
    with configure_telemetry(os.environ, mask=current_mask()) as telemetry:
        run_async(_replayed(settings, choice, telemetry, execute=execute, as_json=as_json))


async def _replayed(settings: Settings, choice: Choice, telemetry: Telemetry, *, execute: bool, as_json: bool) -> None:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import one_run as app
    from pipeline_processing.requests.replay import carry_out, planned
    from pipeline_processing.requests.submission import Submitter, ask_brokers

    clock, topic = SystemClock(), settings.kafka.requests_topic
    async with AsyncExitStack() as stack:
        runs = await stack.enter_async_context(app.history(settings))
        topics = await stack.enter_async_context(app.topics(settings))
        if choice.reads_topic or execute:
            await ask_brokers(topics.ensure, clock=clock)
        source = _source(choice, runs.history, topics, topic=topic)
        plan = await stack.enter_async_context(planned(source, runs=runs.history, same_run=choice.same_run))
        _print_plan(plan, as_json=as_json)
        say = _on_stderr if as_json else typer.echo
        for line in summary(plan):
            say(line)
        if not plan.to_send:
            return
        if not execute:
            say("Nothing was sent. The same command with --execute sends them.")
            return
        events = await stack.enter_async_context(app.events(settings))
        progress = _Progress(plan, choice)
        with progress.told_if_broken_off():
            await carry_out(
                plan,
                submitter=Submitter(events=events, topic=topic, clock=clock, tracer=telemetry.tracer),
                events=events,
                topic=topic,
                clock=clock,
                on_sent=progress.add,
            )
        say(f"{_number(progress.sent, 'request')} sent.")


def _source(choice: Choice, runs: RunHistory, topics: Topics, *, topic: str) -> RequestSource:
    from pipeline_processing.requests.replay_sources import RecordedRequests, TopicRequests

    if choice.reads_topic:
        return TopicRequests(
            topics=topics,
            topic=topic,
            since=choice.since,
            place=choice.place,
            until=choice.until,
        )
    return RecordedRequests(
        runs=runs,
        run_id=choice.run_id,
        agency_id=choice.agency_id,
        failed=choice.failed,
        since=choice.since,
        until=choice.until,
    )


class _Progress:
    """How much of a plan has been carried out."""

    def __init__(self, plan: ReplayPlan, choice: Choice) -> None:
        self._plan = plan
        # A replay that was accepted meanwhile isn't made twice only where its original isn't chosen any more.
        self._safe = choice.same_run or choice.failed
        self.sent = 0

    def add(self, sent: int) -> None:
        """So many more are stored."""
        self.sent += sent

    @contextmanager
    def told_if_broken_off(self) -> Iterator[None]:
        """Whatever ends the block early, say how far it came."""
        try:
            yield
        except BaseException:
            rest = "sends the rest" if self._safe else "sends the rest, and once more what was accepted meanwhile"
            _on_stderr(
                f"{self.sent:,} of {self._plan.to_send:,} requests were sent, in the order of the plan, and perhaps "
                f"some of the next. The same command {rest}: look at its plan first."
            )
            raise


# -- what is printed -----------------------------------------------------------------------------


def _print_plan(plan: ReplayPlan, *, as_json: bool) -> None:
    steps = chain.from_iterable(plan.pages())
    if as_json:
        for step in steps:
            render.print_object(_object(step))
        return
    while rows := list(islice(steps, _ROWS)):
        render.print_table(COLUMNS, map(line_of, rows))


def line_of(step: Step) -> tuple[str, ...]:
    """A step's cells, one for each of COLUMNS."""
    state = step.state or "unknown"
    return step.run_id, str(step.agency_id), state, render.moment(step.requested_at), step.outcome


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


def summary(plan: ReplayPlan) -> Iterator[str]:
    """What the lines of the plan come to, and what has no line."""
    if plan.to_send:
        yield f"{_number(plan.to_send, 'request')} to send, {plan.left_out:,} left out."
    elif plan.left_out:
        yield f"Nothing to do: {_number(plan.left_out, 'request')} left out."
    else:
        yield "Nothing to do: no such requests."
    if plan.repeated:
        yield f"{_number(plan.repeated, 'message')} asking for one of these runs once more: the first counts."
    if plan.unreadable:
        yield (
            f"{_number(plan.unreadable, 'message')} that can't be read as requests: "
            "`pipeline-processing dead-letters` lists and resends those."
        )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _on_stderr(message: str) -> None:
    typer.echo(message, err=True)


# -- options -------------------------------------------------------------------------------------


def chosen(
    *,
    since: str | None,
    offset: str | None,
    run_id: str | None,
    agency_id: int | None,
    failed: bool,
    until: str | None,
    same_run: bool,
) -> Choice:
    """Raises BadParameter for what can't be combined, or read."""
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.messaging.topic_reading import place_of

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
        raise typer.BadParameter("says already which requests: leave out --since.", param_hint=names)
    if until is not None and run_id is not None:
        raise typer.BadParameter("is one run, whenever it was: leave out --until.", param_hint=names)
    now = SystemClock().now()
    after = None if since is None else moment_of(since, now=now)
    before = None if until is None else _until(until, now=now)
    if after is not None and before is not None and before <= after:
        raise typer.BadParameter("isn't after --since.", param_hint="'--until'")
    try:
        place = None if offset is None else place_of(offset)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'--offset'") from None
    return Choice(after, before, place, run_id, agency_id, failed, same_run)


def _until(text: str, *, now: datetime) -> datetime:
    try:
        return moment_of(text, now=now)
    except typer.BadParameter as error:
        error.param_hint = "'--until'"
        raise
