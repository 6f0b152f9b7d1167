"""`submit`: sends requests to Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.agencies import agencies_given, for_config
from pipeline_processing.cli.context import current_settings, job_config_of, log_to_stderr, traced
from pipeline_processing.cli.options import (
    DatasetOption,
    FormatOption,
    JobArgument,
    LabelOption,
    OutputOption,
    ParamOption,
    RunIdOption,
    SinceOption,
    UntilOption,
    check_for_config,
    check_job,
    check_size,
    coming,
    content_of,
    new_run_id,
    pairs_of,
    requests_in,
    requests_of,
)
from pipeline_processing.signals import Terminated
from pipeline_processing.terminal.exit_codes import SUCCESS
from pipeline_processing.terminal.tables import Output, print_object

if TYPE_CHECKING:
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.messaging.port import Topics
    from pipeline_processing.model import JobRequest
    from pipeline_processing.requests.following import Follower, Outcome
    from pipeline_processing.requests.submission import Sent
    from pipeline_processing.settings.settings import KafkaSettings, Settings
    from pipeline_processing.telemetry.tracing import Telemetry
    from pipeline_processing.terminal.following import FollowedRuns
    from pipeline_processing.terminal.progress import Shown

_SILENCE_SECONDS = 5.0
_MAX_LISTED = 10
"""The most runs that a message lists one by one."""


def submit(
    job: JobArgument,
    agency_id: Annotated[
        list[str] | None,
        typer.Option("--agency-id", metavar="N…", help="The agencies whose data to export; may also be repeated."),
    ] = None,
    more_agency_ids: Annotated[list[str] | None, typer.Argument(metavar="N", hidden=True)] = None,
    run_id: RunIdOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and transform, but upload nothing.")] = False,
    dataset: DatasetOption = None,
    format_: FormatOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    param: ParamOption = None,
    label: LabelOption = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="P", help="Higher priorities run first; 0 by default.")
    ] = None,
    deadline: Annotated[
        datetime | None,
        typer.Option(
            "--deadline",
            metavar="T",
            parser=coming,
            help="The run fails if it isn't decided by then. 2h is in two hours; else like --since.",
        ),
    ] = None,
    not_before: Annotated[
        datetime | None,
        typer.Option(
            "--not-before",
            metavar="T",
            parser=coming,
            help="The earliest time at which the run starts; like --deadline.",
        ),
    ] = None,
    requested_by: Annotated[
        str | None, typer.Option("--requested-by", metavar="WHO", help="Who requests the run.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="PATH",
            help="JSON requests, one per line, instead of the options; - reads stdin.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show progress until every run has ended; exit with the worst run's code.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Send requests to the workers, and print their run ids, one per line.

    Checks all requests first, also against PIPELINE_JOB_CONFIG_FILE if it is set. Sends none if one isn't valid. As
    json, prints an object with run_id and agency_id per request.
    """
    from pipeline_processing.terminal.event_loop import run_async

    if more_agency_ids and not agency_id:
        raise typer.BadParameter(f"unexpected {more_agency_ids[0]}: give agencies with --agency-id")
    agency_ids = agencies_given([*(agency_id or []), *(more_agency_ids or [])])
    fields = {
        "run_id": run_id,
        "dry_run": dry_run or None,
        "datasets": dataset or None,
        "format": format_,
        "since": since,
        "until": until,
        "params": pairs_of(param or [], option="--param") or None,
        "labels": pairs_of(label or [], option="--label") or None,
        "priority": priority,
        "deadline": deadline,
        "not_before": not_before,
        "requested_by": requested_by,
    }
    if file is not None:
        if agency_ids or any(value is not None for value in fields.values()):
            raise typer.BadParameter("its lines hold whole requests: leave out the options", param_hint="--file")
        check_job(job)
        requests = requests_in(content_of(file, option="--file"), name="stdin" if str(file) == "-" else str(file))
    else:
        _check_agencies(agency_ids, run_id)
        requests = requests_of(agency_ids, {"job": job, **fields})
        for request in requests:
            check_size(request)
    requests = [each if each.run_id else each.model_copy(update={"run_id": new_run_id()}) for each in requests]
    settings = current_settings()
    job_config = job_config_of(settings)
    if file is None:
        requests = for_config(requests, job_config)
    check_for_config(requests, job_config)
    if not requests:
        typer.echo("There are no requests.", err=True)
        return SUCCESS
    log_to_stderr()
    submission = _Submission(requests, output=output)
    with traced() as telemetry, submission.reported_if_interrupted():
        run_async(_submitted(settings, submission, telemetry, follow=follow))
    return submission.exit_code


def _check_agencies(agency_ids: Sequence[AgencyId], run_id: str | None) -> None:
    if not agency_ids:
        raise typer.BadParameter("give an agency, or --file", param_hint="--agency-id")
    if run_id is not None and len(agency_ids) > 1:
        raise typer.BadParameter("is for one run: give only one --agency-id", param_hint="--run-id")
    twice = [str(each) for each, times in Counter(agency_ids).items() if times > 1]
    if twice:
        raise typer.BadParameter(f"{', '.join(twice)} is given twice", param_hint="--agency-id")


# -- sending and following -----------------------------------------------------------------------


class _Submission:
    """The requests of one command, and which of them were sent and have ended."""

    def __init__(self, requests: Sequence[JobRequest], *, output: Output) -> None:
        self.requests = requests
        self._output = output
        self.sending = False
        self.sent: list[Sent] = []
        self.outcomes: dict[str, Outcome] = {}

    def add(self, sent: Sequence[Sent]) -> None:
        """Print the ids of requests that were sent."""
        self.sent += sent
        for each in sent:
            if self._output is Output.JSON:
                print_object({"run_id": each.run_id, "agency_id": each.request.agency_id})
            else:
                typer.echo(each.run_id)

    @property
    def exit_code(self) -> int:
        """Return the exit code of the worst run that was followed."""
        from pipeline_processing.requests.following import exit_code_of

        return max(map(exit_code_of, self.outcomes.values()), default=SUCCESS)

    @contextmanager
    def reported_if_interrupted(self) -> Iterator[None]:
        """If an error or a signal ends the block, print what was sent and which runs continue."""
        from pipeline_processing.errors import PipelineError

        try:
            yield
        except (KeyboardInterrupt, Terminated, PipelineError):
            for line in self._unsent() if self.sending else self._unfollowed():
                typer.echo(line, err=True)
            raise

    def _unsent(self) -> Iterator[str]:
        unsure = self.requests[len(self.sent) :]
        if len(unsure) == 1:
            run_id = unsure[0].run_id
            yield f"{run_id} may have been sent. Sending it again with the same run id starts no second run:"
            yield f"    --run-id {run_id}"
            return
        yield (
            f"{len(self.sent):,} of {len(self.requests):,} requests were sent: those whose run ids were printed. Some "
            "more may have been sent. Of the others, only requests with a run_id can be sent again without the risk "
            "of a second run."
        )

    def _unfollowed(self) -> Iterator[str]:
        left = list(dict.fromkeys(each.run_id for each in self.sent if each.run_id not in self.outcomes))
        if not left:
            return
        if len(left) == 1:
            yield f"{left[0]} continues, but is no longer followed. To see how it ends:"
        else:
            yield f"{len(left):,} runs continue, but are no longer followed. To see how they end:"
        for run_id in left[:_MAX_LISTED]:
            yield f"    pipeline-processing history --run-id {run_id}"
        if len(left) > _MAX_LISTED:
            yield f"    … and so on, for {len(left) - _MAX_LISTED:,} more"
        yield "Or submit the same request again, with the same run id and --follow."


async def _submitted(settings: Settings, submission: _Submission, telemetry: Telemetry, *, follow: bool) -> None:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import kafka as app
    from pipeline_processing.requests.following import Follower
    from pipeline_processing.requests.submission import Submitter, ask_brokers

    clock, kafka = SystemClock(), settings.kafka
    async with AsyncExitStack() as stack:
        topics = await ask_brokers(lambda: stack.enter_async_context(app.topics(settings)), clock=clock)
        await ask_brokers(topics.ensure, clock=clock)
        events = await ask_brokers(lambda: stack.enter_async_context(app.events(settings)), clock=clock)
        follower = Follower(topics=topics, names=kafka, clock=clock)
        if follow:
            await follower.begin()
        submitter = Submitter(events=events, topic=kafka.requests_topic, clock=clock, tracer=telemetry.tracer)
        submission.sending = True
        async for sent in submitter.send(submission.requests):
            submission.add(sent)
        submission.sending = False
        if follow:
            await _follow(follower, topics, settings, submission)


async def _follow(follower: Follower, topics: Topics, settings: Settings, submission: _Submission) -> None:
    import asyncio

    from pipeline_processing.aio.tasks import give_up
    from pipeline_processing.terminal.following import FollowedRuns
    from pipeline_processing.terminal.notes import note
    from pipeline_processing.terminal.progress import shown_progress

    # Start the display after sending, whose output to stdout it would capture.
    with shown_progress() as shown:
        runs = FollowedRuns(len({each.run_id for each in submission.sent}), shown=shown)
        submission.outcomes = runs.outcomes
        listening = asyncio.create_task(_note_silence(topics, settings.kafka, runs, shown))
        try:
            await follower.follow(submission.sent, on_progress=runs.progressed, on_outcome=runs.ended)
        finally:
            give_up(listening)
    for line in runs.summary():
        note(line)


async def _note_silence(topics: Topics, kafka: KafkaSettings, runs: FollowedRuns, shown: Shown) -> None:
    """Say so if no worker is listening, as long as nothing is heard of any run."""
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.errors import PipelineError

    clock = SystemClock()
    while runs.silent:
        await clock.sleep(_SILENCE_SECONDS)
        try:
            nobody = runs.silent and not await topics.members(kafka.requests_topic)
        except PipelineError:
            continue  # `follow` reports outages, and not every producer may look at the group
        shown.note(
            f"No worker is listening to {kafka.requests_topic} (group {kafka.group_id}). Start one with "
            "`pipeline-processing serve`; the requests wait for it."
            if nobody
            else ""
        )
    shown.note("")
