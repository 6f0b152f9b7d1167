"""`migrate`: creates or upgrades the history's schema."""

from __future__ import annotations

import typer

from pipeline_processing.cli.context import current_settings
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.tables import Output, print_object


def migrate(output: OutputOption = Output.TABLE) -> None:
    """Create or upgrade the schema of the run history. Does nothing if it is up to date."""
    from pipeline_processing.app.history import migrate as apply_migrations
    from pipeline_processing.terminal.event_loop import run_async

    applied = run_async(apply_migrations(current_settings()))
    if output is Output.JSON:
        print_object({"applied": applied})
        return
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("up to date")
