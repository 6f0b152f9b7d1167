"""Deliveries of completion events to webhooks, in memory."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from pipeline_processing.history.memory.table import ConfiguredWebhook, DeliveryRecord, MemoryPort
from pipeline_processing.runs.deliveries import (
    FORGOTTEN,
    PATIENCE,
    Delivery,
    DeliveryState,
    DueDelivery,
    Tried,
)


class MemoryDeliveries(MemoryPort):
    """`RunDeliveries` in memory."""

    async def configure(self, webhooks: Mapping[str, Collection[str]]) -> None:
        known, now = self._table.webhooks, self._table.clock.now()
        for name, states in webhooks.items():
            known[name] = ConfiguredWebhook(frozenset(states), now)
        for name in [name for name, webhook in known.items() if webhook.configured_at < now - PATIENCE]:
            del known[name]
            for record in self._pending(name):
                record.change(state=DeliveryState.FAILED, next_at=None, last_error=FORGOTTEN)

    async def claim(self, webhook: str, *, limit: int, lease: timedelta) -> list[DueDelivery]:
        now = self._table.clock.now()
        due = [(next_at, r) for r in self._pending(webhook) if (next_at := r.delivery.next_at or now) <= now]
        taken = [record for _, record in sorted(due, key=lambda each: each[0])[:limit]]
        for record in taken:
            record.change(tries=record.delivery.tries + 1, next_at=now + lease)
            record.first_tried_at = record.first_tried_at or now
        return [DueDelivery(webhook, record.event, tries=record.delivery.tries) for record in taken]

    async def record(self, delivery: DueDelivery, tried: Tried) -> DeliveryState:
        record, now = self._table.deliveries[delivery.event.event_id, delivery.webhook], self._table.clock.now()
        known = record.delivery
        outdated = tried.error is not None and known.tries != delivery.tries
        if known.state is not DeliveryState.PENDING or outdated:
            return known.state
        result = {"last_status": tried.status, "last_error": tried.error, "next_at": None}
        if tried.error is None:
            record.change(state=DeliveryState.DELIVERED, delivered_at=now, **result)
        elif tried.delay is None or (record.first_tried_at or now) < now - PATIENCE:
            record.change(state=DeliveryState.FAILED, **result)
        else:
            record.change(**result | {"next_at": now + tried.delay})
        return record.delivery.state

    async def untried(self, webhooks: Collection[str]) -> bool:
        return any(record.delivery.tries == 0 for name in webhooks for record in self._pending(name))

    async def of_run(self, run_id: str) -> Sequence[Delivery]:
        found = [each.delivery for each in self._table.deliveries.values() if each.delivery.run_id == run_id]
        return sorted(found, key=lambda delivery: delivery.webhook)

    async def redeliver(self, *, run_id: str | None = None, webhook: str | None = None) -> int:
        chosen = [
            record
            for record in self._table.deliveries.values()
            if (record.delivery.state is DeliveryState.FAILED if run_id is None else record.delivery.run_id == run_id)
            and record.delivery.state is not DeliveryState.PENDING
            and webhook in (None, record.delivery.webhook)
            and record.delivery.webhook in self._table.webhooks
        ]
        for record in chosen:
            now = self._table.clock.now()
            record.change(state=DeliveryState.PENDING, next_at=now, tries=0, delivered_at=None)
            record.first_tried_at = None
        return len(chosen)

    def _pending(self, webhook: str) -> list[DeliveryRecord]:
        records = self._table.deliveries.values()
        return [r for r in records if r.delivery.webhook == webhook and r.delivery.state is DeliveryState.PENDING]
