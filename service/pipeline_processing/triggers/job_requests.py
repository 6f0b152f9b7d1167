"""Requests made of closed windows and of ticks. Equal windows make equal requests, so a repeat makes no second run."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline_processing.agency_keys import AgencyId, number_of
from pipeline_processing.model import JobRequest, ParamValue
from pipeline_processing.triggers.config import EventTrigger, ScheduleTrigger, Trigger
from pipeline_processing.triggers.matching import Occurrence

OLDEST_SINCE = timedelta(days=30)
"""
A window with an older event asks for no `since`: the dataset then starts where it does without one. A later `since`
could leave out rows of that event.
"""

_DIGITS = 20
_PROPAGATOR = TraceContextTextMapPropagator()


def request_of_event(trigger: EventTrigger, event: Occurrence, *, window: str, now: datetime) -> JobRequest:
    """
    Return the request of a window that holds this event only.

    `window` tells it from the other windows of its trigger and agency, for good.
    """
    with_since = trigger.since == "event_time" and now - event.time <= OLDEST_SINCE
    return _request(
        trigger,
        agency_id=event.agency_id,
        run_id=run_id_of_window(trigger.name, event.agency_id, window),
        params=event.params,
        since=event.time if with_since else None,
    )


def requests_of_tick(trigger: ScheduleTrigger, tick: datetime, *, agencies: Iterable[AgencyId]) -> list[JobRequest]:
    """Return the requests of a tick, one for each agency."""
    return [
        _request(
            trigger,
            agency_id=agency_id,
            run_id=f"{_begin(trigger.name, agency_id)}{tick:%Y%m%dT%H%M%SZ}",
            params=trigger.params,
            since=None,
        )
        for agency_id in agencies
    ]


def run_id_of_window(name: str, agency_id: AgencyId, window: str | None) -> str:
    """Derive a run id from a trigger's name, an agency and a window. For people, None is a window to come."""
    which = "…" if window is None else hashlib.sha256(window.encode()).hexdigest()[:_DIGITS]
    return f"{_begin(name, agency_id)}{which}"


def _begin(name: str, agency_id: AgencyId) -> str:
    """Return how the run ids of a trigger and agency begin. Run ids have no room for every key, nor its characters."""
    agency = str(agency_id)
    if number_of(agency) < 0:
        agency = "key" + hashlib.sha256(agency.encode()).hexdigest()[:_DIGITS]
    return f"trigger-{name}-{agency}-"


def links(traces: Iterable[Mapping[str, str]]) -> list[Link]:
    """Return links to the spans that sent the events, for the span of a request. Leaves out invalid ones."""
    contexts = [
        trace.get_current_span(_PROPAGATOR.extract(dict(carrier), Context())).get_span_context() for carrier in traces
    ]
    by_span = {(context.trace_id, context.span_id): context for context in contexts if context.is_valid}
    return [Link(context) for context in by_span.values()]


def _request(
    trigger: Trigger, *, agency_id: AgencyId, run_id: str, params: Mapping[str, ParamValue], since: datetime | None
) -> JobRequest:
    return JobRequest(
        agency_id=agency_id,
        run_id=run_id,
        datasets=trigger.datasets,
        format=trigger.format,
        params=dict(params),
        since=since,
        labels=dict(trigger.labels),
        priority=trigger.priority,
        requested_by=trigger.requester,
    )
