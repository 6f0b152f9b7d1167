"""`triggers`: upstream events and times become runs. `triggers check` validates the file, and tries an example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import (
    current_mask,
    current_settings,
    job_config_of,
    log_to_stderr,
    metered,
    print_errors,
    traced,
)
from pipeline_processing.cli.options import ConfigOption, OutputOption, content_of
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from pipeline_processing.agency_keys import AgencyKey
    from pipeline_processing.app.checks import CheckResult
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.messaging.port import Record
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.triggers.config import Triggers
    from pipeline_processing.triggers.describing import Trial
    from pipeline_processing.triggers.matching import Terms
    from pipeline_processing.triggers.process import TriggersProcess

_FAILED_SECONDS = 10.0
"""How long the process may take to end after an error."""

app = typer.Typer()


@app.callback(invoke_without_command=True)
def triggers(context: typer.Context) -> None:
    """
    Ask for runs when upstream events happen, or by the clock, until SIGTERM or Ctrl-C.

    PIPELINE_TRIGGERS_FILE says when. Start as many processes as you like, all with the same file.
    """
    if context.invoked_subcommand is not None:
        return
    # Faust takes a second to import, which would block the event loop.
    from pipeline_processing.app.triggers import triggers_process
    from pipeline_processing.cli.cutoff import Cutoff
    from pipeline_processing.terminal.event_loop import run_async
    from pipeline_processing.triggers.loading import load_triggers
    from pipeline_processing.triggers.matching import Terms

    settings = current_settings()
    path = settings.require_triggers_file()
    job_config = job_config_of(settings)
    loaded = load_triggers(path, job_config=job_config, kafka=settings.kafka)
    terms = Terms.of(job_config)
    log_to_stderr(level="info")
    with Cutoff() as cutoff, traced() as telemetry, metered(scraped=True) as metering:
        process = triggers_process(
            settings,
            loaded,
            terms=terms,
            tracer=telemetry.tracer,
            mask=current_mask(),
            metering=metering,
        )
        run_async(_run(process, cutoff, drain_seconds=settings.worker.drain_seconds))


async def _run(process: AbstractAsyncContextManager[TriggersProcess], cutoff: Cutoff, *, drain_seconds: float) -> None:
    import asyncio

    from pipeline_processing.cli.cutoff import stopped_by_signals
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.terminal.event_loop import collect_garbage_rarely

    stop = asyncio.Event()
    with stopped_by_signals([stop], cutoff, limits=[drain_seconds]):
        async with process as opened:
            collect_garbage_rarely()
            try:
                await opened.run(stop)
            except* PipelineError as group:
                # Faust's threads and tasks may not end.
                cutoff.within(_FAILED_SECONDS, after=_first(group))
                raise


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The triggers file, instead of PIPELINE_TRIGGERS_FILE.")
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            "--event",
            metavar="EXAMPLE",
            help="A JSON file with an event, or - for stdin: a CloudEvent in structured mode; a Kafka message as "
            '{"topic": …, "key": …, "headers": {…}, "value": …}; or a plain body.',
        ),
    ] = None,
    config: ConfigOption = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also look up the topics, and run the queries of schedules.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Check the triggers file, also against the job config if one is set, and describe each trigger.

    Reports all faults at once, with their lines. With --event, shows which triggers the event matches, and what they
    would ask for. Exit codes: 65 if the file or the job config is wrong, or the event would be a dead letter; 78 if
    settings are wrong, or no file is named; with --connect those of the servers.
    """
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.triggers.describing import example_records
    from pipeline_processing.triggers.loading import load_triggers
    from pipeline_processing.triggers.matching import Terms

    settings = current_settings(job_config_file=config)
    path = file or settings.require_triggers_file()
    job_config = job_config_of(settings)
    triggers = load_triggers(path, job_config=job_config, kafka=settings.kafka)
    now = SystemClock().now()
    records = None if event is None else example_records(_content(event), triggers.events, now=now)
    terms = Terms.of(job_config)
    trials = None if records is None else _trials(records, triggers, now, terms)
    results = _connected(settings, triggers, terms.agency_key) if connect else []
    if output is Output.JSON:
        document = _document(path, triggers, trials, now)
        if connect:
            document["servers"] = [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in results]
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(path, triggers, trials, now)
        for each in results:
            typer.echo(f"{each.name:<8}  {'ok' if each.ok else 'failed'}  {each.detail}")
    return print_errors(each.error for each in (*(trials or ()), *results) if each.error is not None)


def _connected(settings: Settings, loaded: Triggers, agency_key: AgencyKey) -> list[CheckResult]:
    from pipeline_processing.app.checks import check_triggers
    from pipeline_processing.terminal.event_loop import run_async

    async def check_each() -> list[CheckResult]:
        return [each async for each in check_triggers(settings, loaded, agency_key=agency_key)]

    return run_async(check_each())


def _first(group: BaseExceptionGroup[PipelineError]) -> PipelineError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _content(event: str) -> str:
    try:
        return content_of(event, option="--event").decode()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{event} isn't UTF-8", param_hint="--event") from None


def _trials(records: Sequence[Record], triggers: Triggers, now: datetime, terms: Terms) -> list[Trial]:
    """Try each trigger with the event on its own topic, if the event may stand for it."""
    from pipeline_processing.triggers.describing import tried

    by_topic = {record.topic: record for record in records}
    return [
        tried(by_topic.get(each.topic, records[0]), each, now=now, terms=terms, topics=len(by_topic))
        for each in triggers.events
        if records
    ]


def _print(path: Path, triggers: Triggers, trials: list[Trial] | None, now: datetime) -> None:
    from pipeline_processing.terminal.render import counted
    from pipeline_processing.terminal.tables import printable
    from pipeline_processing.triggers.describing import described, when_asked

    count = len(triggers.triggers)
    typer.echo(f"triggers  ok  {path}: {counted(count, 'trigger')}")
    for trigger in triggers.triggers:
        typer.echo(f"\n{trigger.name}")
        for heading, phrase in described(trigger, now=now):
            typer.echo(f"  {heading:<8}  {printable(phrase)}")
    if trials is None:
        return
    typer.echo("\nThe example event")
    for trial in trials:
        if trial.request is not None:
            typer.echo(f"  {trial.trigger.name}: matches, and asks {when_asked(trial.trigger.debounce)}:")
            typer.echo(f"    {printable(json.dumps(_asked(trial), ensure_ascii=False))}")
        elif trial.error is not None:
            typer.echo(f"  {trial.trigger.name}: matches, but would be a dead letter")
        else:
            typer.echo(f"  {trial.trigger.name}: doesn't match: {printable(str(trial.why_not))}")
    if not trials:
        typer.echo("  no trigger has a topic")


def _document(path: Path, triggers: Triggers, trials: list[Trial] | None, now: datetime) -> dict[str, Any]:
    from pipeline_processing.triggers.describing import as_json, when_asked

    document: dict[str, Any] = {"file": str(path), "triggers": [as_json(each, now=now) for each in triggers.triggers]}
    if trials is not None:
        document["event"] = [
            {
                "trigger": trial.trigger.name,
                "matches": trial.why_not is None,
                "why_not": trial.why_not,
                "error": None if trial.error is None else {"kind": trial.error.kind, "message": str(trial.error)},
                "asks": None if trial.request is None else when_asked(trial.trigger.debounce),
                "request": None if trial.request is None else _asked(trial),
            }
            for trial in trials
        ]
    return document


def _asked(trial: Trial) -> dict[str, Any]:
    from pipeline_processing.triggers.job_requests import run_id_of_window

    assert trial.request is not None
    run_id = {"run_id": run_id_of_window(trial.trigger.name, trial.request.agency_id, None)}
    return run_id | trial.request.model_dump(mode="json", exclude_defaults=True)
