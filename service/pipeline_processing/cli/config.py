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
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.tables import Output, print_object

if TYPE_CHECKING:
    from collections.abc import Sequence

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
) -> int:
    """
    Check that `run` would start: the settings, the job config or several, the triggers if set, and with --connect the
    servers.

    Reports all faults at once. Exit codes: 78 if settings are wrong or missing, 65 if a job config or the triggers are
    wrong, and those of `run` if a server can't be used. As json, one object per check and line, and per fault.
    """
    from pipeline_processing.agency_data_job.identity import destination_entries
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.settings.loader import InvalidSettings
    from pipeline_processing.triggers.loading import load_triggers

    log_to_stderr(level="warning")  # building the steps imports user code, which may log
    checks = _Checks(as_objects=output is Output.JSON)

    paths = [*(files or ()), *(config or ())]
    settings = None
    try:
        settings = current_settings(job_config_file=paths[0] if paths else None)
        named = settings.job_config_file
    except InvalidSettings as error:
        checks.failed("settings", error.kind, error)
        named = error.job_config_file
    job_configs = {}
    for path in paths or ([named] if named else []):
        job_config, faults = _load(path, settings)
        checks.failed("job config", str(path), *faults, line=job_config is not None or len(paths) > 1)
        if job_config is not None:
            if not faults:
                checks.passed("job config", f"{path}: {', '.join(dataset.name for dataset in job_config.datasets)}")
            job_configs[path] = job_config
    if settings is not None:
        missing = {str(e): e for each in job_configs.values() or [None] for e in missing_settings(settings, each)}
        checks.failed("settings", "missing", *missing.values())
        if settings.triggers_file is not None:
            only = next(iter(job_configs.values())) if len(job_configs) == 1 else None
            try:
                loaded = load_triggers(settings.triggers_file, job_config=only, kafka=settings.kafka)
                checks.passed("triggers", f"{settings.triggers_file}: {', '.join(e.name for e in loaded.triggers)}")
            except PipelineError as error:
                checks.failed("triggers", str(settings.triggers_file), error)
    if checks.errors or settings is None:
        return checks.end()

    entries = [entry for each in job_configs.values() for entry in destination_entries(settings, each)]
    for guarantee in dict.fromkeys(f"{entry.kind}: {entry.guarantee}" for entry in entries):
        checks.passed("destination", guarantee)
    checks.passed("settings", "`pipeline-processing config show` prints them")
    if connect:
        for path, each in job_configs.items():
            _check_servers(settings, each, path, checks)
    return checks.end()


class _Checks:
    """Prints checks: as objects with their errors, or as lines, with the errors on stderr at the end."""

    def __init__(self, *, as_objects: bool) -> None:
        self.errors: list[PipelineError] = []
        self._as_objects = as_objects

    def passed(self, name: str, detail: str) -> None:
        self._print(name, detail, None)

    def failed(self, name: str, detail: str, *errors: PipelineError, line: bool = False) -> None:
        """`line` says whether to print a line, too. Without one, the errors say all."""
        self.errors += errors
        for error in errors if self._as_objects else errors[:line]:
            self._print(name, detail, error)

    def end(self) -> int:
        """Return the exit code."""
        if self._as_objects:
            return max((error.exit_code for error in self.errors), default=0)
        return print_errors(self.errors)

    def _print(self, name: str, detail: str, error: PipelineError | None) -> None:
        if self._as_objects:
            message = None if error is None else current_mask().text(str(error))
            kind = None if error is None else error.kind
            print_object(
                {"check": name, "ok": error is None, "detail": detail, "error_kind": kind, "error_message": message}
            )
        else:
            typer.echo(f"{name:<12} {'ok' if error is None else 'failed'}  {detail}")


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


def _check_servers(settings: Settings, job_config: AgencyJobConfig, path: Path, checks: _Checks) -> None:
    from pipeline_processing.app.checks import check_servers
    from pipeline_processing.options.config_file import ConfigFile
    from pipeline_processing.terminal.event_loop import run_async

    async def check_each() -> None:
        async for result in check_servers(settings, job_config, mask=current_mask()):
            if (error := result.error) is None:
                checks.passed(result.name, result.detail)
                continue
            if result.location:
                file = ConfigFile.read(path, what="job config", remedy="")
                error.args = (f"{file.line(result.location)} {error}",)
            checks.failed(result.name, result.detail, error, line=True)

    run_async(check_each())


@app.command()
def show(
    output: OutputOption = Output.TABLE,
) -> None:
    """Print every setting with its value and origin. Secrets are masked, and of URLs of databases the password."""
    from pipeline_processing.settings.loader import load_settings

    entries = load_settings(os.environ, mask=current_mask()).entries()
    if output is Output.JSON:
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
