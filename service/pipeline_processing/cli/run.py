"""`run`: one run in this process."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.agencies import agencies_given, for_config
from pipeline_processing.cli.context import current_mask, log_to_stderr, metered, settings_to_run, traced
from pipeline_processing.cli.options import (
    ConfigOption,
    DatasetOption,
    FormatOption,
    JobArgument,
    LabelOption,
    OutputOption,
    ParamOption,
    RunIdOption,
    SinceOption,
    UntilOption,
    new_run_id,
    pairs_of,
    requests_of,
)
from pipeline_processing.signals import Terminated
from pipeline_processing.terminal.exit_codes import SUCCESS
from pipeline_processing.terminal.notes import note
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.model import JobRequest
    from pipeline_processing.runs.completions import RunCompletion
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.metrics import Metrics
    from pipeline_processing.telemetry.tracing import Telemetry

_CANCEL_SECONDS = 5.0


def run(
    job: JobArgument,
    agency_id: Annotated[str, typer.Option("--agency-id", metavar="N", help="The agency whose data to export.")],
    run_id: RunIdOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and transform, but write nothing: no object, no history, no event.")
    ] = False,
    show: Annotated[
        int | None,
        typer.Option("--show", min=1, max=1000, metavar="N", help="With --dry-run: then show the first N rows."),
    ] = None,
    config: ConfigOption = None,
    dataset: DatasetOption = None,
    format_: FormatOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    param: ParamOption = None,
    label: LabelOption = None,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Export one agency's data now, in this process, and wait for it.

    With the id of a finished run, only prints its result again. As json, prints the completion event's value.
    """
    from pipeline_processing.agency_data_job.checking import require_sound
    from pipeline_processing.cli.preview import show_previews
    from pipeline_processing.terminal.event_loop import run_async

    if show is not None and (not dry_run or output is Output.JSON):
        raise typer.BadParameter(
            "needs --dry-run, and prints no JSON: `pipeline-processing preview` does", param_hint="--show"
        )
    fields = {
        "job": job,
        "run_id": run_id,
        "dry_run": dry_run,
        "datasets": dataset,
        "format": format_,
        "since": since,
        "until": until,
        "params": pairs_of(param or [], option="--param"),
        "labels": pairs_of(label or [], option="--label"),
    }
    requests = requests_of(agencies_given([agency_id], config=config), fields)
    settings, job_config = settings_to_run(config=config, dry=dry_run)
    (request,) = for_config(requests, job_config)
    # Refuse invalid requests before they use up the run id.
    needed = job_config.narrowed(request)
    if dry_run:  # needs no destination, nor its secrets
        needed = needed.model_copy(update={"destinations": None})
    require_sound(needed, secrets=settings.secrets, path=settings.job_config_file)
    job_config.for_request(request)
    run_id = request.run_id or new_run_id()
    log_to_stderr()
    note(f"{run_id}: started")
    try:
        with traced() as telemetry, metered() as metering:
            completion = run_async(_completed(settings, job_config, request, run_id, telemetry, metering.metrics))
    except (KeyboardInterrupt, Terminated):
        if not dry_run:
            typer.echo(_interrupted(settings, run_id, named=request.run_id is not None), err=True)
        raise
    code = _print_completion(completion, output=output)
    if show is not None and code == SUCCESS:
        typer.echo()
        run_async(show_previews(settings, job_config, request, rows=show, output=output))
    return code


async def _completed(
    settings: Settings,
    config: AgencyJobConfig,
    request: JobRequest,
    run_id: str,
    telemetry: Telemetry,
    metrics: Metrics,
) -> RunCompletion:
    from pipeline_processing.app import one_run as app
    from pipeline_processing.runs.billing import Ledger
    from pipeline_processing.runs.completions import RunCompletion
    from pipeline_processing.runs.executor import Reporting
    from pipeline_processing.telemetry.logs import bound_run
    from pipeline_processing.telemetry.tracing import trace_ids
    from pipeline_processing.terminal.event_loop import collect_garbage_rarely
    from pipeline_processing.terminal.progress import shown_progress

    with telemetry.tracer.start_as_current_span("run") as span, shown_progress() as on_progress:
        span.set_attributes({"run_id": run_id, "agency_id": request.agency_id})
        trace_id, span_id = trace_ids(span)
        with bound_run(run_id=run_id, agency_id=request.agency_id, trace_id=trace_id):
            reporting = Reporting(
                tracer=telemetry.tracer,
                mask=current_mask(),
                on_progress=on_progress,
                metrics=metrics,
                ledger=Ledger(longest_carry=math.inf),  # the process is here for this run only
            )
            if request.dry_run:
                from pipeline_processing.app.dry_run import dry_run

                opened = dry_run(settings, config.for_request(request), reporting=reporting)
            else:
                opened = app.run_now(settings, config, reporting=reporting)
            async with opened as runner:
                collect_garbage_rarely()
                finished = await runner.run(request, run_id=run_id, trace_id=trace_id, span_id=span_id)
            return RunCompletion.of(finished)


def _interrupted(settings: Settings, run_id: str, *, named: bool) -> str:
    """Cancel an interrupted run unless the user named it to resume it later; return the message to print."""
    from pipeline_processing.errors import PipelineError
    from pipeline_processing.terminal.event_loop import run_async

    if not named:
        # If it can't be cancelled, it can be resumed like a named run.
        with suppress(PipelineError, TimeoutError, KeyboardInterrupt, Terminated):
            if run_async(_cancelled(settings, run_id)) == "cancelled":
                return f"{run_id} was interrupted and cancelled."
    return (
        f"{run_id} was interrupted. The same command with --run-id {run_id} resumes it, and so does any worker "
        f"with the same job config; `pipeline-processing cancel {run_id}` ends it."
    )


async def _cancelled(settings: Settings, run_id: str) -> str:
    """Try to cancel the run, and return its state. Raises TimeoutError."""
    import asyncio

    from pipeline_processing.app.history import run_store

    async with asyncio.timeout(_CANCEL_SECONDS), run_store(settings) as runs:
        return str((await runs.queue.cancel(run_id)).state)


def _print_completion(completion: RunCompletion, *, output: Output) -> int:
    from pipeline_processing.errors import RUN_CANCELLED_EXIT_CODE
    from pipeline_processing.terminal.render import bill, duration, number
    from pipeline_processing.terminal.tables import facts_block, printable

    if output is Output.JSON:
        typer.echo(completion.model_dump_json())
    else:
        counts = ("read", "written", "filtered", "rejected")
        facts = {
            "run id": completion.run_id,
            "agency": str(completion.agency_id),
            "state": completion.state + (" (dry run: nothing was written)" if completion.dry_run else ""),
            "took": f"{duration(completion.duration_ms)}, attempt {completion.attempt}",
            "rows": ", ".join(f"{number(getattr(completion, f'rows_{count}'))} {count}" for count in counts),
            "bytes": number(completion.bytes_written),
            "used": bill(completion.bill),
            "manifest": completion.manifest,
            "trace id": completion.trace_id,
        }
        typer.echo(facts_block({name: value for name, value in facts.items() if value is not None}))
    if completion.error is not None:
        # Mask it again: another worker, which doesn't know this one's secrets, may have written it.
        typer.echo(f"Error: {printable(current_mask().text(completion.error.message))}", err=True)
        return completion.error.exit_code
    return RUN_CANCELLED_EXIT_CODE if completion.state == "cancelled" else SUCCESS
