"""Waits for the runs of requests that were sent, and tells how far they are."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import RUN_CANCELLED_EXIT_CODE, KafkaUnavailable, RequestError
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.model import RunCompletion, RunProgress
from pipeline_processing.requests.submission import Sent, ask_brokers

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0
_ME = "following"

M = TypeVar("M", bound=BaseModel)

Outcome = RunCompletion | DeadLetter
"""How a request ended: as a finished run, or refused."""


def exit_code_of(outcome: Outcome) -> int:
    """As the `run` command's would have been."""
    if isinstance(outcome, DeadLetter):
        return RequestError.exit_code
    if outcome.error is not None:
        return outcome.error.exit_code
    return RUN_CANCELLED_EXIT_CODE if outcome.state == "cancelled" else 0


class Follower:
    """
    Sees what becomes of the requests that are sent after `begin`.

    It remembers how far it has read, rather than rely on one subscription: nothing is missed while the brokers are
    away, nor between the sending and the first look.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        completions_topic: str,
        dead_letters_topic: str,
        progress_topic: str,
        clock: Clock,
    ) -> None:
        self._topics = topics
        self._completions = completions_topic
        self._dead_letters = dead_letters_topic
        self._progress = progress_topic
        self._clock = clock
        self._kafka = Server("Kafka", clock=clock)
        self._next: dict[str, dict[int, int]] = {}
        """Topic → partition → the offset to read next."""

    async def begin(self) -> None:
        """Whatever is announced from here on counts. Call it before sending."""
        for topic in (self._completions, self._dead_letters):
            self._next[topic] = dict(await ask_brokers(partial(self._topics.ends, topic), clock=self._clock))

    async def follow(
        self,
        sent: Sequence[Sent],
        *,
        on_progress: Callable[[RunProgress], None],
        on_outcome: Callable[[str, Outcome], None],
    ) -> None:
        """
        Return when every one of these has come to its end, which `on_outcome` is told, with the run id.

        Goes on by itself when the brokers were away. Raises AccessDenied, and what else no waiting mends.
        """
        awaited = _Awaited(sent)
        while awaited.runs:
            try:
                async with self._topics.following([self._completions, self._dead_letters, self._progress]) as live:
                    # Only now, so that there is no gap between the two.
                    for topic in (self._completions, self._dead_letters):
                        missed = [record async for record in self._topics.read(topic, start=self._next[topic])]
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
    """The requests that have not come to their end, and which announcement is about which of them."""

    def __init__(self, sent: Sequence[Sent]) -> None:
        self.runs = {each.run_id: each.request for each in sent}
        self._messages = {each.traceparent.encode(): each.run_id for each in sent}

    def finished(self, completion: RunCompletion) -> str | None:
        """
        The run id of the request whose run this is.

        Where the id was used before, for another request, that one's run may finish just now. Ours is a dead letter
        then, and this isn't its completion.
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
        The run id of the request that this dead letter holds.

        Known by its trace, not its run id: somebody else may have used that for something else, and got a dead letter.
        """
        run_id = self._messages.get(record.header("traceparent") or b"")
        return run_id if run_id in self.runs else None


def _read(model: type[M], record: Record) -> M | None:
    """None for what isn't one. Keys that a later version of the service has added are left out."""
    try:
        return model.model_validate_json(record.value or b"", extra="ignore")
    except ValidationError:
        log.debug("not understood", topic=record.topic, partition=record.partition, offset=record.offset)
        return None
