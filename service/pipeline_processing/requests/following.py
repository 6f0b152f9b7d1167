"""Follow sent requests: report the progress and outcome of their runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import RUN_CANCELLED_EXIT_CODE, KafkaUnavailable, RequestError
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.requests.submission import Sent, ask_brokers
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.settings.settings import KafkaSettings

log = get_logger(__name__)

_PAUSE_SECONDS = 1.0
_ME = "following"

M = TypeVar("M", bound=BaseModel)

Outcome = RunCompletion | DeadLetter
"""The end of a request: a finished run, or a dead letter."""


def exit_code_of(outcome: Outcome) -> int:
    """Return the exit code that `run` would have for this outcome."""
    if isinstance(outcome, DeadLetter):
        return RequestError.exit_code
    if outcome.error is not None:
        return outcome.error.exit_code
    return RUN_CANCELLED_EXIT_CODE if outcome.state == "cancelled" else 0


class Follower:
    """
    Waits for the outcomes of requests that are sent after `begin`.

    It tracks the next offset of each partition itself, so that it misses nothing during an outage of the brokers or
    between sending and following.
    """

    def __init__(self, *, topics: Topics, names: KafkaSettings, clock: Clock) -> None:
        """`names` provides the topics' names."""
        self._topics = topics
        self._ends = (names.completions_topic, names.dead_letters_topic)
        self._dead_letters = names.dead_letters_topic
        self._progress = names.progress_topic
        self._clock = clock
        self._kafka = Server("Kafka", clock=clock)
        self._next: dict[str, dict[int, int]] = {}
        """Topic → partition → next offset to read."""

    async def begin(self) -> None:
        """Record the topics' end offsets. Call this before sending."""
        for topic in self._ends:
            self._next[topic] = dict(await ask_brokers(partial(self._topics.ends, topic), clock=self._clock))

    async def follow(
        self,
        sent: Sequence[Sent],
        *,
        on_progress: Callable[[RunProgress], None],
        on_outcome: Callable[[str, Outcome], None],
    ) -> None:
        """
        Wait until every request has its outcome, and pass each with its run id to `on_outcome`.

        Reconnects after an outage of the brokers. Raises AccessDenied and other errors that waiting can't fix.
        """
        awaited = _Awaited(sent)
        while awaited.runs:
            try:
                async with self._topics.following([*self._ends, self._progress]) as live:
                    # Read these after subscribing, so that there is no gap before the live records.
                    missed = [
                        record
                        for topic in self._ends
                        async for record in self._topics.read(topic, start=self._next[topic])
                    ]
                    for record in missed:
                        self._take(record, awaited, on_progress, on_outcome)
                    self._kafka.back(by=_ME)
                    if not awaited.runs:
                        return
                    async for record in live:
                        self._take(record, awaited, on_progress, on_outcome)
                        if not awaited.runs:
                            return
            except KafkaUnavailable as error:
                self._kafka.away(error, by=_ME)
                await self._clock.sleep(_PAUSE_SECONDS)

    def _take(
        self,
        record: Record,
        awaited: "_Awaited",
        on_progress: Callable[[RunProgress], None],
        on_outcome: Callable[[str, Outcome], None],
    ) -> None:
        if record.topic == self._progress:
            progress = _read(RunProgress, record)
            if progress is not None and progress.run_id in awaited.runs:
                on_progress(progress)
            return
        self._next[record.topic][record.partition] = record.offset + 1
        outcome: Outcome | None
        if record.topic == self._dead_letters:
            outcome = DeadLetter.of(record)
            run_id = awaited.refused(record)
        else:
            outcome = completion = _read(RunCompletion, record)
            run_id = None if completion is None else awaited.finished(completion)
        if outcome is not None and run_id is not None:
            del awaited.runs[run_id]
            on_outcome(run_id, outcome)


class _Awaited:
    """The requests without an outcome. Matches events and dead letters to them."""

    def __init__(self, sent: Sequence[Sent]) -> None:
        self.runs = {each.run_id: each.request for each in sent}
        self._messages = {each.traceparent.encode(): each.run_id for each in sent}

    def finished(self, completion: RunCompletion) -> str | None:
        """
        Return the run id of the request that this completion belongs to, if any.

        If the run id was already used for a different request, that run may finish now. The completion then belongs to
        the other request, and ours becomes a dead letter.
        """
        request = self.runs.get(completion.run_id)
        same = request is not None and (request.agency_id, request.dry_run, request.replay_of) == (
            completion.agency_id,
            completion.dry_run,
            completion.replay_of,
        )
        return completion.run_id if same else None

    def refused(self, record: Record) -> str | None:
        """
        Return the run id of the request in this dead letter, if it is one of ours.

        Compares traces, because another sender's request may have the same run id.
        """
        run_id = self._messages.get(record.header("traceparent") or b"")
        return run_id if run_id in self.runs else None


def _read(model: type[M], record: Record) -> M | None:
    """Parse a record, or return None if it isn't valid. Ignores unknown keys, which later versions may add."""
    try:
        return model.model_validate_json(record.value or b"", extra="ignore")
    except ValidationError:
        log.debug("skipping an invalid record", topic=record.topic, partition=record.partition, offset=record.offset)
        return None
