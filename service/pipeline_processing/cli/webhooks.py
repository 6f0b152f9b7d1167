"""`webhooks`: send completion events to webhooks again."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.context import current_settings
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.render import counted
from pipeline_processing.terminal.tables import Output, print_object

app = typer.Typer(help="Send completion events to webhooks again.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `redeliver` a subcommand: typer would merge an only command into its group."""


@app.command()
def redeliver(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            help="The event of this run, even if it was delivered.",
            autocompletion=completion.run_ids,
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All events that couldn't be delivered and were given up.")
    ] = False,
    webhook: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only to this webhook; to all of them by default.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Have completion events sent to webhooks again, with the same ids and content. `serve` sends them.

    Exits with 65 if there is no run of that id.
    """
    from pipeline_processing.terminal.event_loop import run_async

    if (run_id is None) != failed:
        raise typer.BadParameter("name a run, or give --failed.", param_hint="'RUN_ID'")
    count = run_async(_redelivered(run_id, webhook))
    if output is Output.JSON:
        print_object({"events": count})
    else:
        typer.echo(f"{counted(count, 'event')} will be sent again by `serve`")


async def _redelivered(run_id: str | None, webhook: str | None) -> int:
    from pipeline_processing.app.history import run_store
    from pipeline_processing.errors import RunUnknown

    async with run_store(current_settings()) as runs:
        if run_id is not None and await runs.history.get(run_id) is None:
            raise RunUnknown(run_id)
        return await runs.deliveries.redeliver(run_id=run_id, webhook=webhook)
