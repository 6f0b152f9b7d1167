"""`gc`: removes orphaned uploads of lost attempts, and objects of failed runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_mask, current_settings, job_config_of, log_to_stderr, print_errors
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.tables import Output, print_object

if TYPE_CHECKING:
    from pipeline_processing.runs.clean_up import Amount
    from pipeline_processing.runs.garbage import Collected


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
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Remove uploads of lost attempts, and objects of failed runs.

    Compares the history with the destination. Removes uploads that no attempt will ever complete, and objects of runs
    that failed during publishing. Never touches what a run may still complete, so it may run at any time, beside
    workers. Keeps uploads of runs that this history doesn't know (on S3, the bucket's lifecycle rule removes them), and
    leftovers at other destinations.

    Continues after an error, and exits with the code of the gravest: 69, 75 or 77. If the prefix belongs to another
    installation, exits with 78 and touches nothing.
    """
    from pipeline_processing.terminal.event_loop import run_async

    log_to_stderr()
    collected = run_async(_collected(config, dry_run=dry_run))
    if output is Output.JSON:
        print_object(
            {
                "removed": asdict(collected.removed),
                "in_use": collected.in_use,
                "unknown": collected.unknown,
                "elsewhere": {url: asdict(amount) for url, amount in sorted(collected.elsewhere.items())},
                "dry_run": dry_run,
            }
        )
    else:
        for line in _lines(collected, dry_run=dry_run):
            typer.echo(line)
    return print_errors(collected.problems)


async def _collected(config: Path | None, *, dry_run: bool) -> Collected:
    from pipeline_processing.app.one_run import garbage_collector

    settings = current_settings(job_config_file=config)
    job_config = job_config_of(settings)
    async with garbage_collector(settings, job_config, mask=current_mask(), dry_run=dry_run) as collector:
        return await collector.collect()


def _lines(collected: Collected, *, dry_run: bool) -> list[str]:
    from pipeline_processing.terminal.render import counted
    from pipeline_processing.terminal.tables import printable

    removed = "would remove" if dry_run else "removed"
    left = []
    if collected.in_use:
        left.append(f"{counted(collected.in_use, 'upload')} that runs may still complete")
    if collected.unknown:
        left.append(
            f"{counted(collected.unknown, 'upload')} of no run in this history: on S3 the bucket's lifecycle rule "
            "removes them"
        )
    for url, amount in sorted(collected.elsewhere.items()):
        left.append(f"{_amount(amount)} at {printable(url)}: only `gc` with that destination removes them")
    return [
        f"{removed}  {_amount(collected.removed) or 'nothing'}",
        *(f"{'left':<{len(removed)}}  {each}" for each in left),
    ]


def _amount(amount: Amount) -> str:
    from pipeline_processing.terminal.render import counted

    parts = []
    if amount.uploads:
        parts.append(counted(amount.uploads, "upload"))
    if amount.failed_runs:
        parts.append(f"the objects of {counted(amount.failed_runs, 'failed run')}")
    return " and ".join(parts)
