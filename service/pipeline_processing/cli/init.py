"""`init`: writes a job config for the tables of a database."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline_processing.cli.context import current_settings, log_to_stderr
from pipeline_processing.terminal.notes import note
from pipeline_processing.terminal.render import counted

_SCHEMA = "job-config.schema.json"


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, which must not exist yet.")] = Path(
        "job.yaml"
    ),
    agency_column: Annotated[
        str | None,
        typer.Option(
            "--agency-column",
            metavar="NAME",
            help="The column that says whose row it is; by default agency_id, tenant_id or another usual name.",
        ),
    ] = None,
) -> None:
    """
    Look at the database at PIPELINE_SOURCE__DSN, and write a commented job config that exports each agency's tables.

    Also writes job-config.schema.json beside it, with which editors complete and check the config. Overwrites nothing.
    """
    from pipeline_processing.app.drafting import draft_of_database
    from pipeline_processing.published.schemas import schema_files
    from pipeline_processing.terminal.event_loop import run_async

    log_to_stderr(level="warning")
    if file.exists():
        raise typer.BadParameter(f"{file} exists. Name another file, or delete it.", param_hint="FILE")
    settings = current_settings()
    drafted = run_async(draft_of_database(settings, agency_column=agency_column))
    schema = file.with_name(_SCHEMA)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(drafted.text)
        if not schema.exists():
            schema.write_text(schema_files()[_SCHEMA], encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"can't write {error.filename}: {error.strerror}.", param_hint="FILE") from None
    typer.echo(file)
    note(f"It exports {counted(len(drafted.datasets), 'table')}, and leaves {len(drafted.left_out)} out. Next:")
    note(f"  export PIPELINE_JOB_CONFIG_FILE={shlex.quote(str(file))}")
    note("  pipeline-processing preview agency_data_job --agency-id ID")
    if settings.destination is None:
        note("  mkdir -p exports; export PIPELINE_DESTINATION=file://$PWD/exports")
    note("  pipeline-processing migrate")
    note("  pipeline-processing config check --connect")
    note("  pipeline-processing run agency_data_job --agency-id ID")
