"""`follow`: shows runs until they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.context import current_mask, current_settings, log_to_stderr
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.model import Run
    from pipeline_processing.runs.completions import RunCompletion

_MOST_TOLD = 3
"""Waiting runs of which the reason is shown."""


def follow(
    run_ids: Annotated[
        list[str],
        typer.Argument(metavar="RUN_ID…", help="Runs, as `history` names them.", autocompletion=completion.run_ids),
    ],
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Show the progress of runs until all have ended, and why a run waits. With -o json, print their completions then.

    Exits with the worst run's code, with 65 if a run is still unknown after some seconds. Ctrl-C leaves the runs alone.
    """
    from pipeline_processing.requests.following import exit_code_of
    from pipeline_processing.terminal.event_loop import run_async

    log_to_stderr(level="error")  # what doesn't answer is shown beside the runs
    outcomes = run_async(_followed(run_ids))
    if output is Output.JSON:
        for outcome in outcomes:
            typer.echo(outcome.model_dump_json())
    return max(map(exit_code_of, outcomes))


async def _followed(run_ids: Sequence[str]) -> list[RunCompletion]:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import history, kafka
    from pipeline_processing.requests.watching import LiveProgress
    from pipeline_processing.requests.watching import follow as follow_runs
    from pipeline_processing.runs.completions import RunCompletion
    from pipeline_processing.terminal.following import FollowedRuns
    from pipeline_processing.terminal.notes import note
    from pipeline_processing.terminal.progress import shown_progress
    from pipeline_processing.terminal.queue import why

    settings, clock, mask = current_settings(), SystemClock(), current_mask()
    async with history.run_store_and_queue(settings) as (runs, queue), kafka.topics(settings) as topics:
        with shown_progress() as shown:
            ended: list[RunCompletion] = []
            followed = FollowedRuns(len(set(run_ids)), shown=shown)

            async def looked(left: Sequence[Run], problem: str | None) -> None:
                if left:
                    followed.at_work(run.run_id for run in left if run.state != "queued")
                notes = [] if problem is None else [mask.text(problem)]
                queued = [run.run_id for run in left if run.state == "queued"][:_MOST_TOLD]
                if queued and problem is None:
                    waiting = await queue.reasons(queued)
                    places = settings.worker.max_runs_per_agency
                    notes += [f"{each.run.run_id} waits {why(each, places=places)}" for each in waiting]
                shown.note("\n".join(notes))

            def finished(run: Run) -> None:
                ended.append(RunCompletion.of(run))
                followed.ended(run.run_id, ended[-1])

            await follow_runs(
                runs.history,
                run_ids,
                progress=LiveProgress(topics=topics, topic=settings.kafka.progress_topic, clock=clock),
                clock=clock,
                on_progress=followed.progressed,
                on_finished=finished,
                on_look=looked,
            )
    for line in followed.summary():
        note(line)
    return ended
