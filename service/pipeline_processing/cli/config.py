"""`config check` and `config show`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import (
    current_mask,
    current_settings,
    log_to_stderr,
    missing_settings,
    print_errors,
)
from pipeline_processing.cli.options import ConfigOption, JsonOption, OutputOption, output_of
from pipeline_processing.terminal.render import Output, print_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.settings.loader import SettingEntry
    from pipeline_processing.settings.settings import Settings

app = typer.Typer(help="Check or show the settings and the job config.")

NOT_SET = "(not set)"


@app.command()
def check(
    config: ConfigOption = None,
    connect: Annotated[bool, typer.Option("--connect", help="Also connect to every configured server.")] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> int:
    """
    Check that `run` would start: the settings, the job config, the triggers if set, and with --connect the servers.

    Reports all faults at once. Exit codes: 78 if settings are wrong or missing, 65 if the job config or the
    triggers are wrong, and those of `run` if a server can't be used. As json, one object per check and line; errors
    are told on stderr.
    """
    from pipeline_processing.agency_data_job.checking import faults_without_servers
    from pipeline_processing.agency_data_job.identity import destination_entries
    from pipeline_processing.agency_data_job.loading import load_job_config
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.settings.loader import InvalidSettings
    from pipeline_processing.triggers.loading import load_triggers

    log_to_stderr(level="warning")  # building the steps imports user code, which may log
    say = _object if output_of(output, as_json=as_json) is Output.JSON else _line

    settings, job_config, sound = None, None, True
    errors: list[PipelineError] = []
    try:
        settings = current_settings(job_config_file=config)
        job_config_file = settings.job_config_file
    except InvalidSettings as error:
        errors.append(error)
        job_config_file = error.job_config_file
    if job_config_file is not None:
        try:
            job_config = load_job_config(job_config_file)
            secrets = settings.secrets if settings else None
            faults = list(faults_without_servers(job_config, secrets=secrets, path=job_config_file))
            sound = not faults
            errors += faults
        except PipelineError as error:
            errors.append(error)
    if settings is not None:
        errors += missing_settings(settings, job_config)
        if settings.triggers_file is not None:
            try:
                loaded = load_triggers(settings.triggers_file, job_config=job_config, kafka=settings.kafka)
                say("triggers", True, f"{settings.triggers_file}: {', '.join(e.name for e in loaded.triggers)}")
            except PipelineError as error:
                errors.append(error)

    if job_config is not None:
        datasets = ", ".join(dataset.name for dataset in job_config.datasets)
        say("job config", sound, f"{job_config_file}: {datasets}")
    if errors or settings is None or job_config is None:
        return print_errors(errors)
    for entry in destination_entries(settings, job_config):
        say("destination", True, f"{entry.kind}: {entry.guarantee}")
    say("settings", True, "`pipeline-processing config show` prints them")
    return _check_servers(settings, job_config, say) if connect else 0


def _line(name: str, ok: bool, detail: str) -> None:
    typer.echo(f"{name:<12} {'ok' if ok else 'failed'}  {detail}")


def _object(name: str, ok: bool, detail: str) -> None:
    print_object({"check": name, "ok": ok, "detail": detail})


def _check_servers(settings: Settings, job_config: AgencyJobConfig, say: Callable[[str, bool, str], None]) -> int:
    from pipeline_processing.app.checks import check_servers
    from pipeline_processing.terminal.event_loop import run_async

    async def check_each() -> list[PipelineError]:
        errors = []
        async for result in check_servers(settings, job_config, mask=current_mask()):
            say(result.name, result.ok, result.detail)
            if result.error is not None:
                errors.append(result.error)
        return errors

    return print_errors(run_async(check_each()))


@app.command()
def show(
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Print every setting with its value and origin. Secrets are masked, and of URLs of databases the password."""
    from pipeline_processing.settings.loader import load_settings

    entries = load_settings(os.environ, mask=current_mask()).entries()
    if output_of(output, as_json=as_json) is Output.JSON:
        import json

        document = {entry.variable: {"value": entry.value, "origin": entry.origin} for entry in entries}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print_table(entries)
    else:
        widths = [max(len(entry.variable) for entry in entries), max(len(entry.value or NOT_SET) for entry in entries)]
        for entry in entries:
            typer.echo(f"{entry.variable:<{widths[0]}}  {entry.value or NOT_SET:<{widths[1]}}  {entry.origin}")


@app.command()
def expressions() -> None:
    """List what the expressions of `filter` and `derive` may have."""
    from pipeline_processing.expressions.expression import SUPPORTED

    for what, content in SUPPORTED.items():
        typer.echo(f"{what:<11} {content}")


def _print_table(entries: Sequence[SettingEntry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "value", "from", box=None, header_style="bold")
    for entry in entries:
        # Dim the defaults, so that changed settings stand out.
        style = "dim" if entry.origin.startswith("default") else ""
        table.add_row(*(Text(cell, style=style) for cell in (entry.variable, entry.value or NOT_SET, entry.origin)))
    Console().print(table)
