"""Replay past requests in two steps: make a plan without side effects, then carry it out."""

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.clock import Clock
from pipeline_processing.messaging.port import Events, Outgoing, Topics
from pipeline_processing.model import JobRequest, Run
from pipeline_processing.requests.job_messages import request_message
from pipeline_processing.requests.replay_sources import Candidate, Selection, requests_in_history, requests_in_topic
from pipeline_processing.requests.spool import Spool
from pipeline_processing.requests.submission import Submitter, ask_brokers
from pipeline_processing.runs.store import RunHistory

_LONGEST_RUN_ID = 128


@dataclass(frozen=True, slots=True)
class Step:
    """The plan for one past request: request a new run, send the same message again, or do nothing."""

    run_id: str
    agency_id: AgencyId
    state: str | None
    """None if the run isn't in the history."""
    requested_at: datetime | None
    outcome: str
    """Description for people."""
    new_run_id: str | None = None
    request: bytes | None = None
    """The new request to send, as JSON. It gets its own trace."""
    message: Outgoing | None = None
    """The message to send unchanged."""

    @property
    def sends(self) -> bool:
        """Whether this step sends a message."""
        return self.request is not None or self.message is not None


class ReplayPlan:
    """The steps, in the order of the requests, and counts of messages without a step."""

    def __init__(self, steps: Spool[Step]) -> None:
        self._steps = steps
        self.to_send = 0
        """Number of steps that send a message."""
        self.left_out = 0
        """Number of steps that don't."""
        self.unreadable = 0
        """Number of invalid messages, which became dead letters."""
        self.repeated = 0
        """Number of messages that request the same run as another."""

    def add(self, steps: Sequence[Step]) -> None:
        """Append steps."""
        sending = sum(step.sends for step in steps)
        self.to_send += sending
        self.left_out += len(steps) - sending
        self._steps.add(steps)

    def pages(self) -> Iterator[list[Step]]:
        """Iterate over the steps, page by page."""
        return self._steps.pages()


# -- planning ------------------------------------------------------------------------------------


@asynccontextmanager
async def planned(
    selection: Selection, *, runs: RunHistory, topics: Topics, topic: str, same_run: bool
) -> AsyncIterator[ReplayPlan]:
    """
    Make the plan for the selected requests. It is valid inside the block. Sends nothing.

    With `same_run`, the plan sends the same messages again. Otherwise it requests new runs with ids derived from the
    old ones, so that carrying it out twice makes no second set of runs. Raises PlaceUnknown or RunUnknown.
    """
    if selection.reads_topic:
        pages = requests_in_topic(selection, topics=topics, topic=topic, same_run=same_run)
    else:
        pages = requests_in_history(selection, runs=runs)
    with Spool(Candidate) as candidates, Spool(Step) as steps:
        plan = ReplayPlan(steps)
        run_ids: set[str] = set()
        async with aclosing(pages):
            async for page in pages:
                readable = [each for each in page if each is not None]
                first = list(_not_seen(readable, run_ids))
                plan.unreadable += len(page) - len(readable)
                plan.repeated += len(readable) - len(first)
                candidates.add(first)
        # Plan only when all run ids are known: a replay may come before its original, from another partition.
        for found in candidates.pages(backwards=not selection.reads_topic):
            known = await runs.get_all([each.run_id for each in found])
            if same_run:
                plan.add([_same_run(each, known.get(each.run_id), topic=topic) for each in found])
            else:
                new_ids = await _new_run_ids([each.run_id for each in found], runs)
                plan.add([_new_run(each, known.get(each.run_id), new_ids[each.run_id], run_ids) for each in found])
        yield plan


def _not_seen(page: Iterable[Candidate], run_ids: set[str]) -> Iterator[Candidate]:
    for each in page:
        if each.run_id not in run_ids:
            run_ids.add(each.run_id)
            yield each


def _new_run(candidate: Candidate, run: Run | None, new_run_id: str, planned_ids: Collection[str]) -> Step:
    if (obstacle := _obstacle(candidate, run)) is not None:
        return _step(candidate, run, f"nothing: {obstacle}")
    if run is not None and not run.state.finished:
        return _step(candidate, run, "nothing: it hasn't finished")
    if candidate.replay_of in planned_ids and candidate.replay_of != candidate.run_id:
        return _step(candidate, run, f"nothing: it is a replay of {candidate.replay_of}, which is in this plan")
    # Prefer the run's stored request: another message with its run id became a dead letter. The request's deadline and
    # `not_before` don't apply to the replay.
    change = {"run_id": new_run_id, "replay_of": candidate.run_id, "deadline": None, "not_before": None}
    request = (_request(candidate) if run is None else run.request).model_copy(update=change)
    value = request.model_dump_json(exclude_defaults=True).encode()
    return _step(candidate, run, f"new run {new_run_id}", new_run_id=new_run_id, request=value)


def _same_run(candidate: Candidate, run: Run | None, *, topic: str) -> Step:
    if (obstacle := _obstacle(candidate, run)) is not None:
        return _step(candidate, run, f"nothing: {obstacle}")
    if run is None:
        return _step(candidate, run, "a new run", message=candidate.message)
    if candidate.request is not None and _request(candidate).digest() != run.request.digest():
        return _step(candidate, run, "nothing: its run id was used before, for another request")
    if not run.state.finished:
        return _step(candidate, run, "nothing: it is accepted")
    return _step(candidate, run, "sends its event again", message=candidate.message or _message_of(run, topic=topic))


def _obstacle(candidate: Candidate, run: Run | None) -> str | None:
    if run is not None:
        return None
    if candidate.request is None:
        return "it was just removed from the history"
    return "it is still waiting in the topic" if candidate.waiting else None


def _step(candidate: Candidate, run: Run | None, outcome: str, **sends: Any) -> Step:
    return Step(
        run_id=candidate.run_id,
        agency_id=candidate.agency_id,
        state=None if run is None else str(run.state),
        requested_at=candidate.requested_at,
        outcome=outcome,
        **sends,
    )


def _request(candidate: Candidate) -> JobRequest:
    assert candidate.request is not None
    return JobRequest.model_validate_json(candidate.request)


def _message_of(run: Run, *, topic: str) -> Outgoing:
    """Rebuild the message of a run's request, with its run id and trace."""
    trace = {}
    if run.trace_id is not None and run.span_id is not None:
        trace["traceparent"] = f"00-{run.trace_id}-{run.span_id}-01"
        if run.tracestate is not None:
            trace["tracestate"] = run.tracestate
    request = run.request.model_copy(update={"run_id": run.run_id})
    return request_message(request, topic=topic, now=run.queued_at, trace_headers=trace)


# -- the ids of new runs -------------------------------------------------------------------------


async def _new_run_ids(run_ids: Sequence[str], runs: RunHistory) -> dict[str, str]:
    """Return the id of the next replay, by run id."""
    replays = await runs.replays(run_ids)
    numbers = {run_id: replays.get(run_id, 0) + 1 for run_id in run_ids}
    new_ids: dict[str, str] = {}
    while numbers:
        new_ids |= {run_id: replay_id(run_id, number) for run_id, number in numbers.items()}
        # An id may be taken: a user may have chosen it, or replays may have been pruned.
        taken = await runs.get_all([new_ids[run_id] for run_id in numbers])
        numbers = {run_id: number + 1 for run_id, number in numbers.items() if new_ids[run_id] in taken}
    return new_ids


def replay_id(run_id: str, number: int) -> str:
    """Return `r.r1` for the run `r` and number 1. If that is too long, a hash replaces the end of the old id."""
    suffix = f".r{number}"
    if len(run_id) + len(suffix) <= _LONGEST_RUN_ID:
        return run_id + suffix
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:32]
    return f"{run_id[: _LONGEST_RUN_ID - len(digest) - 1 - len(suffix)]}.{digest}{suffix}"


# -- carrying it out -----------------------------------------------------------------------------


async def carry_out(
    plan: ReplayPlan, *, submitter: Submitter, events: Events, clock: Clock, on_sent: Callable[[int], None]
) -> None:
    """Send the plan's messages in order. `on_sent` gets the number of stored messages of each batch."""
    for page in plan.pages():
        requests = [JobRequest.model_validate_json(step.request) for step in page if step.request is not None]
        async for sent in submitter.send(requests):
            on_sent(len(sent))
        messages = [step.message for step in page if step.message is not None]
        if messages:
            await ask_brokers(partial(events.send, messages), clock=clock)
            on_sent(len(messages))
