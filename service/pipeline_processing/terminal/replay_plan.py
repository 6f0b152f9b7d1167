"""Renders a replay plan, for `replay` and the demo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline_processing.terminal.render import counted, moment
from pipeline_processing.terminal.tables import Column, Table

if TYPE_CHECKING:
    from pipeline_processing.requests.replay import ReplayPlan, Step

PLAN_TABLE: Table[Step] = {
    Column("RUN ID"): lambda step: step.run_id,
    Column("AGENCY", right=True): lambda step: str(step.agency_id),
    Column("STATE"): lambda step: step.state or "unknown",
    Column("REQUESTED (UTC)"): lambda step: moment(step.requested_at),
    Column("WHAT HAPPENS", long=True): lambda step: step.outcome,
}


def plan_summary(plan: ReplayPlan) -> Iterator[str]:
    """Yield the plan's totals, and the counts of messages that aren't in it."""
    if plan.to_send:
        yield f"{counted(plan.to_send, 'request')} to send, {plan.left_out:,} left out."
    elif plan.left_out:
        yield f"Nothing to do: {counted(plan.left_out, 'request')} left out."
    else:
        yield "Nothing to do: no such requests."
    if plan.repeated:
        yield f"{counted(plan.repeated, 'message')} for a run that is listed already: only the first counts."
    if plan.unreadable:
        yield (
            f"{counted(plan.unreadable, 'message')} that can't be read as requests: "
            "`pipeline-processing dead-letters` lists and resends those."
        )
