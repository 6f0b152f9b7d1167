"""
POST completion events to webhooks, with retries until their servers accept them.

Every event is delivered at least once: a process that is killed before it has recorded a delivery leaves it to another
one, which sends the same event again. The webhooks don't wait for each other, nor Kafka for them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pipeline_processing.aio.asking import Backoff, Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.aio.tasks import first_of
from pipeline_processing.errors import PipelineError, TransientError, UpstreamUnavailable
from pipeline_processing.http.signatures import signature_headers
from pipeline_processing.log import get_logger
from pipeline_processing.ports import Posted, Poster
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.deliveries import DeliveryState, DueDelivery, RunDeliveries, Tried
from pipeline_processing.telemetry.health import Health
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics

log = get_logger(__name__)

_AT_ONCE = 8
"""Requests at once to one webhook, per process."""
_LEASE = timedelta(seconds=60)
"""Longer than a request (10 s) and its record take."""
_RECORD_SECONDS = 30.0
_POLL_SECONDS = 2.0
"""Longest delay of events of runs that finished elsewhere (`run`, `cancel`, another process)."""
_CONFIGURE_SECONDS = 600.0
_LAST_SECONDS = 5.0
_NOTED_AFTER = timedelta(seconds=60)
_LONGEST_RETRY_AFTER = 3600.0
_GONE = 410
"""The receiver's way to unsubscribe."""
_OF_A_DELIVERY = Backoff(5.0, 900.0)
_OF_A_WEBHOOK = Backoff(1.0, 60.0)
"""Pauses while a webhook accepts nothing, so that a long backlog doesn't flood it."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of the events of runs that end in one of `states`."""

    name: str
    url: str = field(repr=False)
    key: bytes = field(repr=False)
    states: tuple[str, ...]


class WebhookSender:
    """Delivers events to one webhook."""

    def __init__(
        self,
        webhook: Webhook,
        *,
        deliveries: RunDeliveries,
        poster: Poster,
        clock: Clock,
        history: Server,
        health: Health,
        mask: Mask,
        metrics: Metrics | None = None,
    ) -> None:
        self.webhook = webhook
        self.woken = asyncio.Event()
        self.failing = False
        """Whether its server accepted none of the last events."""
        self._name = f"webhook {webhook.name!r}"
        self._setting = f"PIPELINE_WEBHOOKS__{webhook.name.upper()}__URL"
        self._deliveries = deliveries
        self._poster = poster
        self._clock = clock
        self._history = history
        self._health = health
        self._mask = mask
        self._tries = (metrics or Metrics()).deliveries
        for result in ("delivered", "retrying", "failed"):
            self._tries.add(0, webhook.name, result)
        self._server = Server(self._name, clock=clock)
        self._failures = 0
        self._failing_since = clock.now()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver events until `stop` is set, then those that are due."""
        while not stop.is_set():
            self.woken.clear()
            pause = await self._send_some()
            if pause is None:
                await first_of(stop, self.woken, seconds=_POLL_SECONDS)
            else:
                await first_of(stop, seconds=pause)  # a new event doesn't shorten it
        while not self.failing and await self._send_some() == 0:
            pass

    async def _send_some(self) -> float | None:
        """Send some due events. Return the seconds to pause, or None to wait for the next event."""
        try:
            due = await self._deliveries.claim(self.webhook.name, limit=_AT_ONCE, lease=_LEASE)
        except TransientError as error:
            self._history.away(error, by=self)
            return _POLL_SECONDS
        self._history.back(by=self)
        if not due:
            return _OF_A_WEBHOOK.seconds(self._failures) if self.failing else None
        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(self._deliver(each)) for each in due]
        refusals = [refusal for task in sending if (refusal := task.result()) is not None]
        if len(refusals) == len(due):
            self._fails(refusals[-1])
        else:
            self._works()
        backoff = _OF_A_WEBHOOK.seconds(self._failures) if self.failing else 0.0
        return max(backoff, *map(_retry_after, refusals), 0.0)

    async def _deliver(self, due: DueDelivery) -> TransientError | None:
        """Send one event, and record the result. Return the error if it wasn't accepted."""
        status, refusal = None, None
        try:
            answer = await self._poster.post(
                self.webhook.url, due.event.value, headers=self._headers(due.event), shown_as=self._name
            )
            status, refusal = answer.status, self._refusal(answer)
        except TransientError as error:
            refusal = error
        except PipelineError as error:
            refusal = UpstreamUnavailable(str(error))
        if refusal is None:
            self._tries.add(1, self.webhook.name, "delivered")
            await self._record(due, Tried(status=status))
            return None
        message = self._mask.text(str(refusal))
        delay = timedelta(seconds=max(_OF_A_DELIVERY.seconds(due.tries), _retry_after(refusal)))
        state = await self._record(due, Tried(status, message, None if status == _GONE else delay))
        self._tries.add(1, self.webhook.name, "failed" if state is DeliveryState.FAILED else "retrying")
        if state is DeliveryState.FAILED:
            log.error(
                "a completion event couldn't be delivered to a webhook; giving up",
                webhook=self.webhook.name,
                run_id=due.event.run_id,
                tries=due.tries,
                error=message,
            )
        return refusal

    async def _record(self, due: DueDelivery, tried: Tried) -> DeliveryState | None:
        """Record the result of a try. Return the new state, or None if the history is away for too long."""
        try:
            return await self._history.ask(
                lambda: self._deliveries.record(due, tried), by=object(), within=_RECORD_SECONDS
            )
        except TransientError:
            return None  # the event is sent again when the lease has ended

    def _refusal(self, answer: Posted) -> TransientError | None:
        """Return the error for any answer but 2xx."""
        said = f"{self._name} answers {answer.status}"
        match answer.status:
            case status if 200 <= status < 300:
                return None
            case status if 300 <= status < 400:
                return UpstreamUnavailable(f"{said}. Redirects aren't followed: set {self._setting} to the target.")
            case 401 | 403:
                return UpstreamUnavailable(f"{said}: it refuses access. Check {self._setting}, and its key.")
            case status if status == _GONE:
                return UpstreamUnavailable(f"{said}: it wants no more events. Remove {self._setting}.")
            case _:
                return UpstreamUnavailable(f"{said}.", retry_after=answer.retry_after)

    def _headers(self, event: OutboxEvent) -> Mapping[str, str]:
        """Return an event's headers by the HTTP binding of CloudEvents, and the signature."""
        # Other values than the tracestate are printable ASCII, without the characters that the binding encodes.
        headers = {
            name.replace("ce_", "ce-", 1): value
            for name, value in event.headers.items()
            if value.isascii() and value.isprintable()
        }
        return {
            **headers,
            **signature_headers(event.event_id, event.value, key=self.webhook.key, at=self._clock.now()),
        }

    def _works(self) -> None:
        self.failing, self._failures = False, 0
        self._server.back(by=self)
        self._health.note(self._name, None)

    def _fails(self, error: TransientError) -> None:
        now = self._clock.now()
        if not self.failing:
            self.failing, self._failing_since = True, now
        self._failures += 1
        self._server.away(error, by=self)
        if now - self._failing_since >= _NOTED_AFTER:
            since = f"{self._failing_since:%Y-%m-%d %H:%M:%S} UTC"
            self._health.note(self._name, f"{self._name} has accepted no event since {since}: {error}")


class Webhooks:
    """Delivers events to all webhooks of this process. Several processes share the work."""

    def __init__(self, senders: Sequence[WebhookSender], *, deliveries: RunDeliveries) -> None:
        self._senders = senders
        self._deliveries = deliveries

    def wake(self) -> None:
        """Check for due deliveries at once."""
        for sender in self._senders:
            sender.woken.set()

    async def configure(self) -> None:
        """
        Have deliveries stored for all runs that finish from now on. Raises HistoryUnavailable.

        Without any webhooks, this still forgets those of earlier settings.
        """
        await self._deliveries.configure({each.webhook.name: each.webhook.states for each in self._senders})

    async def done_for_now(self) -> bool:
        """Return whether each event was sent once to each webhook, except to those that accept nothing now."""
        return not await self._deliveries.untried([each.webhook.name for each in self._senders if not each.failing])

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver events until `stop` is set, then for a few seconds at most."""
        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(sender.run(stop)) for sender in self._senders]
            group.create_task(self._stay_configured(stop))
            await stop.wait()
            if sending:
                _, late = await asyncio.wait(sending, timeout=_LAST_SECONDS)
                for task in late:
                    task.cancel()  # what wasn't recorded is sent again

    async def _stay_configured(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(stop, seconds=_CONFIGURE_SECONDS)
            try:
                await self.configure()
            except TransientError as error:
                log.debug("can't store which webhooks are configured", error=str(error))


def _retry_after(error: TransientError) -> float:
    return min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER)
