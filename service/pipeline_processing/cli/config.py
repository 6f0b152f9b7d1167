"""`config check` and `config show`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import (
    current_mask,
    current_settings,
    log_to_stderr,
    missing_settings,
    print_errors,
)
from pipeline_processing.cli.options import JsonOption, OutputOption, output_of
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
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", exists=True, help="Job configs, instead of PIPELINE_JOB_CONFIG_FILE."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option("--config", metavar="PATH", help="Another one; may be repeated.")
    ] = None,
    connect: Annotated[bool, typer.Option("--connect", help="Also connect to every configured server.")] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> int:
    """
    Check that `run` would start: the settings, the job config or several, the triggers if set, and with --connect the
    servers.

    Reports all faults at once. Exit codes: 78 if settings are wrong or missing, 65 if a job config or the triggers are
    wrong, and those of `run` if a server can't be used. As json, one object per check and line; errors are told on
    stderr.
    """
    from pipeline_processing.agency_data_job.identity import destination_entries
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.settings.loader import InvalidSettings
    from pipeline_processing.triggers.loading import load_triggers

    log_to_stderr(level="warning")  # building the steps imports user code, which may log
    say = _object if output_of(output, as_json=as_json) is Output.JSON else _line

    paths = [*(files or ()), *(config or ())]
    settings = None
    errors: list[PipelineError] = []
    try:
        settings = current_settings(job_config_file=paths[0] if paths else None)
        named = settings.job_config_file
    except InvalidSettings as error:
        errors.append(error)
        named = error.job_config_file
    job_configs = {}
    for path in paths or ([named] if named else []):
        job_config, faults = _load(path, settings)
        errors += faults
        if job_config is not None:
            say("job config", not faults, f"{path}: {', '.join(dataset.name for dataset in job_config.datasets)}")
            job_configs[path] = job_config
        elif len(paths) > 1:
            say("job config", False, str(path))
    if settings is not None:
        for each in job_configs.values() or [None]:
            errors += missing_settings(settings, each)
        if settings.triggers_file is not None:
            only = next(iter(job_configs.values())) if len(job_configs) == 1 else None
            try:
                loaded = load_triggers(settings.triggers_file, job_config=only, kafka=settings.kafka)
                say("triggers", True, f"{settings.triggers_file}: {', '.join(e.name for e in loaded.triggers)}")
            except PipelineError as error:
                errors.append(error)
    if errors or settings is None:
        return print_errors(errors)

    entries = [entry for each in job_configs.values() for entry in destination_entries(settings, each)]
    for guarantee in dict.fromkeys(f"{entry.kind}: {entry.guarantee}" for entry in entries):
        say("destination", True, guarantee)
    say("settings", True, "`pipeline-processing config show` prints them")
    if connect:
        for path, each in job_configs.items():
            errors += _check_servers(settings, each, path, say)
    return print_errors(errors)


def _load(path: Path, settings: Settings | None) -> tuple[AgencyJobConfig | None, list[PipelineError]]:
    """Return a job config, unless it isn't valid, and its faults."""
    from pipeline_processing.agency_data_job.checking import faults_without_servers
    from pipeline_processing.agency_data_job.loading import load_job_config
    from pipeline_processing.errors import PipelineError

    try:
        job_config = load_job_config(path)
    except PipelineError as error:
        return None, [error]
    try:
        secrets = settings.secrets if settings else None
        return job_config, list(faults_without_servers(job_config, secrets=secrets, path=path))
    except PipelineError as error:
        return job_config, [error]


def _line(name: str, ok: bool, detail: str) -> None:
    typer.echo(f"{name:<12} {'ok' if ok else 'failed'}  {detail}")


def _object(name: str, ok: bool, detail: str) -> None:
    print_object({"check": name, "ok": ok, "detail": detail})


def _check_servers(
    settings: Settings, job_config: AgencyJobConfig, path: Path, say: Callable[[str, bool, str], None]
) -> list[PipelineError]:
    from pipeline_processing.app.checks import check_servers
    from pipeline_processing.options.config_file import ConfigFile
    from pipeline_processing.terminal.event_loop import run_async

    async def check_each() -> list[PipelineError]:
        errors = []
        async for result in check_servers(settings, job_config, mask=current_mask()):
            say(result.name, result.ok, result.detail)
            if result.error is not None:
                if result.location:
                    file = ConfigFile.read(path, what="job config", remedy="")
                    result.error.args = (f"{file.line(result.location)} {result.error}",)
                errors.append(result.error)
        return errors

    return run_async(check_each())


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
