"""Read every few seconds what is yet to be done, for the metrics."""

import asyncio

from pipeline_processing.aio.tasks import first_of
from pipeline_processing.errors import TransientError
from pipeline_processing.runs.store import Backlog, RunQueue
from pipeline_processing.telemetry.metrics import Metrics

_SECONDS = 10.0


class BacklogWatch:
    """Sets the gauges of unfinished runs and unsent events. They have no value while the history doesn't answer."""

    def __init__(self, queue: RunQueue, metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Set them until `stop` is set."""
        while not stop.is_set():
            try:
                self._set(await self._queue.backlog())
            except TransientError:  # the other parts log it
                for gauge in (
                    self._metrics.runs,
                    self._metrics.oldest_run,
                    self._metrics.unsent,
                    self._metrics.oldest_unsent,
                ):
                    gauge.forget()
            await first_of(stop, seconds=_SECONDS)

    def _set(self, backlog: Backlog) -> None:
        for state, runs in backlog.runs.items():
            self._metrics.runs.set(runs, state.value)
        for state, age in backlog.oldest.items():
            self._metrics.oldest_run.set(0 if age is None else age.total_seconds(), state.value)
        self._metrics.unsent.set(backlog.unsent)
        age = backlog.oldest_unsent
        self._metrics.oldest_unsent.set(0 if age is None else age.total_seconds())
