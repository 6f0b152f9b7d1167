"""Sends requests to Kafka, as users of the service do, and follows their runs."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from opentelemetry.trace import Tracer

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.app import kafka
from pipeline_processing.demo.evidence import StoryUntrue
from pipeline_processing.messaging.port import Events, Outgoing, Topics
from pipeline_processing.model import JobRequest
from pipeline_processing.requests.following import Follower, Outcome
from pipeline_processing.requests.replay import ReplayPlan, carry_out, planned
from pipeline_processing.requests.replay_sources import Selection
from pipeline_processing.requests.submission import Sent, Submitter
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.store import RunHistory
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal.progress import shown_progress
from pipeline_processing.terminal.render import number


class Requests:
    """Sends requests, and follows their runs with live progress on stderr."""

    def __init__(self, *, settings: Settings, topics: Topics, events: Events, tracer: Tracer) -> None:
        self._clock = SystemClock()
        self._topics = topics
        self._events = events
        self._topic = settings.kafka.requests_topic
        self._submitter = Submitter(events=events, topic=self._topic, clock=self._clock, tracer=tracer)
        self._follower = Follower(topics=topics, names=settings.kafka, clock=self._clock)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, *, topics: Topics, tracer: Tracer) -> AsyncIterator[Self]:
        """Open a sender that can follow every run that is announced from now on."""
        async with kafka.events(settings) as events:
            opened = cls(settings=settings, topics=topics, events=events, tracer=tracer)
            await opened._follower.begin()
            yield opened

    async def submit(self, requests: Sequence[JobRequest]) -> list[Sent]:
        """Send requests as `submit` does."""
        return [sent async for batch in self._submitter.send(requests) for sent in batch]

    async def send_bare(self, value: str, *, key: int, times: int = 1) -> str:
        """Send a value as any Kafka client can, with its trace as the only header. Returns that header."""
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        message = Outgoing(
            topic=self._topic,
            key=str(key).encode(),
            value=value.encode(),
            headers=(("traceparent", traceparent.encode()),),
        )
        await self._events.send([message] * times)
        return traceparent

    async def send_event(self, value: str, *, topic: str, headers: Mapping[str, str]) -> None:
        """Send an event of an upstream service."""
        encoded = tuple((name, text.encode()) for name, text in headers.items())
        await self._events.send([Outgoing(topic=topic, key=None, value=value.encode(), headers=encoded)])

    def planned_replays(self, runs: RunHistory) -> AbstractAsyncContextManager[ReplayPlan]:
        """Open the plan of `replay --failed`."""
        return planned(Selection(failed=True), runs=runs, topics=self._topics, topic=self._topic, same_run=False)

    async def replay(self, plan: ReplayPlan) -> list[Sent]:
        """Send the requests of a plan of new runs, as `replay --execute` does."""
        await carry_out(
            plan,
            submitter=self._submitter,
            events=self._events,
            clock=self._clock,
            on_sent=lambda _: None,
        )
        asked = [step.request for page in plan.pages() for step in page if step.request is not None]
        return [_sent(JobRequest.model_validate_json(request)) for request in asked]

    async def followed(self, sent: Sequence[Sent]) -> dict[str, RunCompletion]:
        """Follow the runs to their end. Returns completions by run id. Raises StoryUntrue for a refused request."""
        completions: dict[str, RunCompletion] = {}
        with shown_progress() as shown:

            def ended(run_id: str, outcome: Outcome) -> None:
                if not isinstance(outcome, RunCompletion):
                    raise StoryUntrue(f"the request for {run_id} was refused ({outcome.reason}: {outcome.message})")
                completions[run_id] = outcome
                rows = f", {number(outcome.rows_written)} rows" if outcome.state == "succeeded" else ""
                shown.ended(run_id, f"{run_id}: {outcome.state}{rows}")

            await self._follower.follow(sent, on_progress=shown, on_outcome=ended)
        return completions


def _sent(request: JobRequest) -> Sent:
    assert request.run_id is not None  # a plan names every run
    # The trace is unknown, but only needed to identify a refused message, and this one won't be refused.
    return Sent(request=request, run_id=request.run_id, traceparent=request.run_id)
