"""`workers`: who is alive, what they do, and how far behind they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_processing.cli.context import current_mask, current_settings, log_to_stderr
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline_processing.requests.workers import Worker
    from pipeline_processing.settings.settings import Settings

_MOST_RUNS = 10_000


def workers(output: OutputOption = Output.TABLE) -> None:
    """
    Show the workers: who is alive, which runs they hold, and the requests that they have yet to accept.

    A worker that is alive is a member of the consumer group, or holds a run. Without Kafka, only those are shown that
    hold runs.
    """
    from pipeline_processing.terminal import queue as drawn
    from pipeline_processing.terminal.event_loop import run_async
    from pipeline_processing.terminal.notes import note
    from pipeline_processing.terminal.render import counted
    from pipeline_processing.terminal.tables import print_items

    settings = current_settings()
    log_to_stderr(level="error")
    found, now, unread, problem = run_async(_found(settings))
    if problem is not None:
        note(f"Only workers that hold a run are shown. {current_mask().text(problem)}")
    if found or output is Output.JSON:
        table = drawn.worker_table(now, all_runs=output is Output.WIDE)
        print_items(found, table, output=output, as_object=drawn.worker_object)
    elif problem is None:
        note(f"No worker is alive in the group {settings.kafka.group_id}. Start one with `pipeline-processing serve`.")
    if unread and output is not Output.JSON:
        note(f"{counted(unread, 'request')} in {settings.kafka.requests_topic} yet to be accepted.")


async def _found(settings: Settings) -> tuple[list[Worker], datetime, int, str | None]:
    """Return the workers, the time of the database, the group's lag, and why Kafka didn't answer."""
    from pipeline_processing.app import history, kafka
    from pipeline_processing.errors import PipelineError, TopicMissing
    from pipeline_processing.messaging.port import Member
    from pipeline_processing.model import RunState
    from pipeline_processing.requests.workers import lag_of, workers_of
    from pipeline_processing.runs.run_filter import RunFilter

    topic, members, lag, problem = settings.kafka.requests_topic, list[Member](), dict[int, int](), None
    try:
        async with kafka.topics(settings) as topics:
            members = await topics.members(topic)
            lag = await lag_of(topics, topic)
    except TopicMissing:
        pass  # before the first request
    except PipelineError as error:
        problem = str(error)
    async with history.run_store(settings) as runs:
        wanted = RunFilter(states=(RunState.RUNNING, RunState.PREPARED))
        held = await runs.history.newest(wanted, limit=_MOST_RUNS)
        now = await runs.queue.now()
    return workers_of(members, lag, held, now=now), now, sum(lag.values()), problem
