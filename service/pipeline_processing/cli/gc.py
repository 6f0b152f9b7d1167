"""`gc`: removes orphaned uploads of lost attempts, and objects of failed runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_mask, current_settings

if TYPE_CHECKING:
    from pipeline_processing.runs.clean_up import Amount
    from pipeline_processing.runs.garbage import Collected


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gc)


def gc(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="The job config, instead of PIPELINE_JOB_CONFIG_FILE: only for its `destinations`.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed, and remove nothing.")
    ] = False,
) -> int:
    """
    Remove uploads of lost attempts, and objects of failed runs.

    Goes by the history, and by what is there: an upload that no attempt will ever complete, and what a run that failed
    while it was being published had made visible. What a run may still complete is never touched, so this may be run
    at any time, beside workers. Uploads of runs that this history doesn't know are left alone, on S3 to the bucket's
    lifecycle rule; so is what other destinations hold.

    What can't be removed doesn't keep the rest. The exit code is then that of the gravest error: 69, 75 or 77. If the
    prefix belongs to another installation it is 78, and nothing is touched.
    """
    from pipeline_processing.telemetry.logs import configure_logs
    from pipeline_processing.terminal.event_loop import run_async

    on_terminal = sys.stderr.isatty()
    configure_logs(json=not on_terminal, level="warning" if on_terminal else "info", mask=current_mask())
    collected = run_async(_collected(config, dry_run=dry_run))
    for line in _lines(collected, dry_run=dry_run):
        typer.echo(line)
    for message in dict.fromkeys(str(problem) for problem in collected.problems):
        typer.echo(f"Error: {current_mask().text(message)}", err=True)
    return collected.exit_code


async def _collected(config: Path | None, *, dry_run: bool) -> Collected:
    from pipeline_processing.agency_data_job.config import load_job_config
    from pipeline_processing.app.one_run import garbage_collector

    settings = current_settings(job_config_file=config)
    job_config = load_job_config(settings.job_config_file) if settings.job_config_file else None
    async with garbage_collector(settings, job_config, mask=current_mask(), dry_run=dry_run) as collector:
        return await collector.collect()


def _lines(collected: Collected, *, dry_run: bool) -> list[str]:
    from pipeline_processing.terminal.render import printable

    removed = "would remove" if dry_run else "removed"
    left = []
    if collected.in_use:
        left.append(f"{_uploads(collected.in_use)} that runs may still complete")
    if collected.unknown:
        left.append(
            f"{_uploads(collected.unknown)} of no run in this history: on S3 the bucket's lifecycle rule removes such"
        )
    for url, amount in sorted(collected.elsewhere.items()):
        left.append(f"{_amount(amount)} at {printable(url)}: only `gc` with that destination removes such")
    return [
        f"{removed}  {_amount(collected.removed) or 'nothing'}",
        *(f"{'left':<{len(removed)}}  {each}" for each in left),
    ]


def _amount(amount: Amount) -> str:
    parts = []
    if amount.uploads:
        parts.append(_uploads(amount.uploads))
    if amount.failed_runs:
        parts.append(f"the objects of {amount.failed_runs:,} failed {'run' if amount.failed_runs == 1 else 'runs'}")
    return " and ".join(parts)


def _uploads(number: int) -> str:
    return f"{number:,} {'upload' if number == 1 else 'uploads'}"
