"""
Deliveries of completion events to webhooks: the port, and what goes in and comes out.

A delivery is stored in the transaction that finishes the run, for each webhook that wants the run's final state. So
none is lost, and a webhook gets no events from before it was configured.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from pydantic import AwareDatetime

from pipeline_processing.model import Count, Message, RunId
from pipeline_processing.runs.completions import OutboxEvent

PATIENCE = timedelta(days=3)
"""How long a delivery is retried after its first try, and how long an unconfigured webhook is remembered."""
FORGOTTEN = "no process has had this webhook in its settings for 3 days"


class DeliveryState(StrEnum):
    """`pending` until the webhook's server accepts the event, or the service gives up (`failed`)."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(Message):
    """One event on its way to one webhook."""

    event_id: str
    run_id: RunId
    webhook: str
    state: DeliveryState
    tries: Count
    next_at: AwareDatetime | None
    """When the next try is due; None once the delivery is settled."""
    last_status: int | None
    """The HTTP status of the last answer; None without an answer."""
    last_error: str | None
    delivered_at: AwareDatetime | None


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A claimed delivery. `tries` counts the claims, including this one."""

    webhook: str
    event: OutboxEvent
    tries: int


@dataclass(frozen=True, slots=True)
class Tried:
    """
    The result of one try: delivered if `error` is None; otherwise the next try is due after `delay`.

    Without a delay, the service gives up.
    """

    status: int | None = None
    error: str | None = None
    delay: timedelta | None = None


class RunDeliveries(Protocol):
    """The deliveries of all runs. Any method may raise HistoryUnavailable."""

    async def configure(self, webhooks: Mapping[str, Collection[str]]) -> None:
        """
        Store deliveries to these webhooks (name → final states) for all runs that finish from now on.

        Call it again every few minutes: a webhook that no process has named for PATIENCE is forgotten, and its pending
        deliveries fail.
        """

    async def claim(self, webhook: str, *, limit: int, lease: timedelta) -> list[DueDelivery]:
        """Claim up to `limit` due deliveries, longest due first. They are due again when the lease has ended."""

    async def record(self, delivery: DueDelivery, tried: Tried) -> DeliveryState:
        """
        Record the result of a try, and return the delivery's new state.

        A delivery whose first try was more than PATIENCE ago fails instead of being tried again. A failed try changes
        nothing if the delivery has been claimed again since.
        """

    async def untried(self, webhooks: Collection[str]) -> bool:
        """Return whether a delivery to one of these webhooks is pending and was never tried."""

    async def of_run(self, run_id: str) -> Sequence[Delivery]:
        """Return the deliveries of a run's event, by webhook."""

    async def redeliver(self, *, run_id: str | None = None, webhook: str | None = None) -> int:
        """
        Make the settled deliveries of a run, or all failed ones, due again, as if never tried. Return their number.

        `webhook` limits them to one webhook. Deliveries to a forgotten webhook stay as they are.
        """
