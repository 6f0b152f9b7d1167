"""Send the latest progress of each run to Kafka, at most once a second. Events may be lost."""

import asyncio

from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import first_of
from pipeline_processing.errors import PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Events, Outgoing
from pipeline_processing.runs.completions import RunProgress, cloud_event_headers

log = get_logger(__name__)

PROGRESS_TYPE = "agency.run.progress"
_SECONDS = 1.0
"""Minimum interval between two events of a run."""


class ProgressEvents:
    """Keeps the latest progress of each run, and sends it once a second has passed since the run's last event."""

    def __init__(self, *, events: Events, topic: str, clock: Clock) -> None:
        self._events = events
        self._topic = topic
        self._clock = clock
        self._latest: dict[str, RunProgress] = {}
        self._sent_at: dict[str, float] = {}
        self._woken = asyncio.Event()

    def tell(self, progress: RunProgress) -> None:
        """Set the run's latest progress. This is called for every batch, so it must be cheap."""
        self._latest[progress.run_id] = progress
        if progress.run_id not in self._sent_at:
            self._woken.set()  # send the first event at once, so that short runs have one, too

    def forget(self, run_id: str) -> None:
        """Drop unsent progress of a run whose attempt has ended."""
        self._latest.pop(run_id, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Send progress until `stop` is set."""
        while not stop.is_set():
            self._woken.clear()
            due = self._due()
            if due:
                try:
                    await self._events.send([self._message(progress) for progress in due])
                except PipelineError as error:
                    log.debug("progress could not be sent", error=str(error))
            # Without runs there is nothing to wait for but the first progress of one.
            busy = self._latest or self._sent_at
            await first_of(stop, self._woken, seconds=_SECONDS / 4 if busy else None)

    def _due(self) -> list[RunProgress]:
        now = self._clock.monotonic()
        # Drop entries after a second, so that a retried run starts fresh.
        self._sent_at = {run_id: at for run_id, at in self._sent_at.items() if now - at < _SECONDS}
        due = [progress for run_id, progress in self._latest.items() if run_id not in self._sent_at]
        for progress in due:
            del self._latest[progress.run_id]
            self._sent_at[progress.run_id] = now
        return due

    def _message(self, progress: RunProgress) -> Outgoing:
        event_id = f"{progress.run_id}:{progress.attempt}:{progress.at.isoformat()}"
        headers = cloud_event_headers(event_id, type_=PROGRESS_TYPE, at=progress.at)
        return Outgoing(
            topic=self._topic,
            key=str(progress.agency_id).encode(),
            value=progress.model_dump_json().encode(),
            headers=tuple((name, text.encode()) for name, text in headers.items()),
        )
