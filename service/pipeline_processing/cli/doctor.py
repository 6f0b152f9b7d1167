"""`doctor`: proves that every configured server does what the service relies on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_mask, current_settings, job_config_of, log_to_stderr
from pipeline_processing.cli.options import ConfigOption, OutputOption
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_processing.doctor.checking import Finding


def doctor(
    config: ConfigOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="GROUP",
            help="Only kafka, source, history, destinations or others (queries, APIs, webhooks); may be repeated.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Prove that every configured server answers, and does what the service relies on.

    For each check that fails, says what is missing, what that costs, and the remedy. Writes only below `_doctor/` of
    each destination, which it removes again, and one message to the progress topic, which its readers pass over. Safe
    at any time, beside workers.

    Exit codes: 0 if nothing is missing, else that of the gravest finding: 78 if a server lacks something, 77 if it
    denies access, 75 if it has no room just now, 69 if it can't be reached, 65 if the job config can't be used. As
    json, one object per check and line.
    """
    from pipeline_processing.app.doctor import GROUPS, examine_all
    from pipeline_processing.terminal import tables
    from pipeline_processing.terminal.event_loop import run_async

    if unknown := set(only or ()) - set(GROUPS):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(GROUPS)}.", param_hint="'--only'")
    log_to_stderr(level="error")  # a check that fails is told by its finding
    settings = current_settings(job_config_file=config)
    findings = run_async(examine_all(settings, job_config_of(settings), only=only or (), mask=current_mask()))
    if output is Output.JSON:
        for finding in findings:
            tables.print_object(
                {name: _masked(value) if isinstance(value, str) else value for name, value in asdict(finding).items()}
            )
    else:
        _print(findings, wide=output is Output.WIDE)
    return max((finding.exit_code for finding in findings), default=0)


def _print(findings: Sequence[Finding], *, wide: bool) -> None:
    from pipeline_processing.terminal.render import counted
    from pipeline_processing.terminal.tables import Column, Table, print_table, printable

    table: Table[Finding] = {
        Column("SERVER"): lambda finding: finding.server,
        Column("CHECK"): lambda finding: finding.check,
        Column("STATE"): lambda finding: finding.state,
        Column("DETAIL", long=True): lambda finding: _masked(finding.detail),
    }
    print_table(table, findings, wide=wide)
    missing = [finding for finding in findings if finding.state == "missing"]
    for finding in [*missing, *(each for each in findings if each.state == "advice")]:
        typer.echo(f"\n{finding.server}: {finding.check}: {finding.state}")
        for heading, text in (("what", finding.detail), ("costs", finding.cost), ("remedy", finding.remedy)):
            if text:
                typer.echo(f"  {heading:<6}  {printable(_masked(text))}")
    if missing:
        typer.echo(f"Error: {counted(len(missing), 'check')} of {len(findings)} failed.", err=True)


def _masked(text: str) -> str:
    return current_mask().text(text)
