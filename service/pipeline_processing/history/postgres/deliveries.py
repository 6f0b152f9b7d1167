"""Deliveries of completion events to webhooks, on Postgres. The SQL is in `deliveries.sql`."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.outbox import event_of
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.deliveries import (
    FORGOTTEN,
    PATIENCE,
    Delivery,
    DeliveryState,
    DueDelivery,
    Tried,
)

QUERIES = load_queries(__package__, "deliveries.sql")

_COLUMNS = tuple(Delivery.model_fields)


class PostgresDeliveries(PostgresPort):
    """`RunDeliveries` on Postgres."""

    async def configure(self, webhooks: Mapping[str, Collection[str]]) -> None:
        for name, states in sorted(webhooks.items()):
            await self._database.execute(QUERIES["configure_webhook"], name=name, states=sorted(states))
        await self._database.execute(QUERIES["forget_webhooks"], patience=PATIENCE, error=FORGOTTEN)

    async def claim(self, webhook: str, *, limit: int, lease: timedelta) -> list[DueDelivery]:
        rows = await self._database.rows(QUERIES["claim_deliveries"], webhook=webhook, limit=limit, lease=lease)
        return [DueDelivery(webhook, event_of(row), tries=row["tries"]) for row in rows]

    async def record(self, delivery: DueDelivery, tried: Tried) -> DeliveryState:
        which = {"event_id": delivery.event.event_id, "webhook": delivery.webhook}
        state = await self._database.value(
            QUERIES["record_delivery"],
            **which,
            tries=delivery.tries,
            status=tried.status,
            error=tried.error,
            delay=tried.delay,
            patience=PATIENCE,
        )
        state = state or await self._database.value(QUERIES["delivery_state"], **which)
        return DeliveryState(state or DeliveryState.FAILED)  # without a row, the run was pruned meanwhile

    async def untried(self, webhooks: Collection[str]) -> bool:
        return bool(await self._database.value(QUERIES["untried_deliveries"], webhooks=list(webhooks)))

    async def of_run(self, run_id: str) -> Sequence[Delivery]:
        rows = await self._database.rows(QUERIES["deliveries_of_run"], run_id=run_id)
        return [Delivery(**{column: row[column] for column in _COLUMNS}) for row in rows]

    async def redeliver(self, *, run_id: str | None = None, webhook: str | None = None) -> int:
        return len(await self._database.rows(QUERIES["redeliver"], run_id=run_id, webhook=webhook))
