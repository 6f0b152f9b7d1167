"""`migrate`: creates the history's schema, or brings it up to date."""

from __future__ import annotations

import typer

from pipeline_processing.cli.context import current_settings


def migrate() -> None:
    """Create or upgrade the schema of the run history. Harmless if there is nothing to do."""
    from pipeline_processing.app.one_run import migrate as apply_migrations
    from pipeline_processing.terminal.event_loop import run_async

    applied = run_async(apply_migrations(current_settings()))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("up to date")
