"""Every finished run has one delivery for each webhook that wants its event, until it is delivered or given up."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pipeline_processing.runs.deliveries import FORGOTTEN, PATIENCE, Delivery, DeliveryState, DueDelivery, Tried
from pipeline_processing.runs.store import RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import accepted, finished, message, prepared

ALL = ("succeeded", "failed", "cancelled")
LEASE = timedelta(seconds=60)
SOON = timedelta(seconds=30)
UNREACHABLE = Tried(error="no answer", delay=SOON)


async def cancelled(runs: RunStore, run_id: str) -> None:
    await accepted(runs, run_id)
    await runs.queue.cancel(run_id)


async def claimed(runs: RunStore, webhook: str = "billing", *, limit: int = 10) -> list[DueDelivery]:
    return await runs.deliveries.claim(webhook, limit=limit, lease=LEASE)


async def delivery(runs: RunStore, run_id: str = "r") -> Delivery:
    (only,) = await runs.deliveries.of_run(run_id)
    return only


async def test_a_finished_run_has_a_delivery_for_each_webhook_that_wants_its_state(runs: RunStore) -> None:
    """With the event of the outbox, byte for byte."""
    await runs.deliveries.configure({"billing": ALL, "chat": ["failed"]})
    await cancelled(runs, "cancelled")
    await finished(runs, "failed")
    await runs.attempts.succeed(await prepared(runs, "succeeded"))

    wanted = {run_id: [d.webhook for d in await runs.deliveries.of_run(run_id)] for run_id in ALL}
    assert wanted == {"succeeded": ["billing"], "failed": ["billing", "chat"], "cancelled": ["billing"]}
    (due,) = await claimed(runs, "chat")
    sent = []

    async def send(events: object) -> None:
        sent.extend(events)  # type: ignore[call-overload]

    await runs.outbox.announce(send, limit=10)
    assert due.event in sent
    assert (due.event.run_id, due.webhook, due.tries) == ("failed", "chat", 1)


async def test_events_from_before_a_webhook_was_configured_are_not_delivered(runs: RunStore) -> None:
    """A new webhook doesn't get the whole history."""
    await cancelled(runs, "before")
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "after")

    assert [due.event.run_id for due in await claimed(runs)] == ["after"]
    assert await runs.deliveries.of_run("before") == []


async def test_a_repeated_request_for_a_finished_run_delivers_nothing_again(runs: RunStore) -> None:
    """One delivery for each event and webhook, however often Kafka gets the event."""
    await runs.deliveries.configure({"billing": ALL})
    await runs.intake.accept(message("r"))
    await runs.queue.cancel("r")
    await runs.intake.accept(message("r"))

    assert len(await claimed(runs)) == 1


async def test_a_claimed_delivery_is_due_again_when_its_lease_ends(backend: Backend) -> None:
    """A process that was killed between POST and record left it: it is sent again."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "r")
    assert await runs.deliveries.untried(["billing"])

    (first,) = await claimed(runs)
    assert await claimed(runs) == []
    assert not await runs.deliveries.untried(["billing"])
    await backend.age("r", 61)
    (second,) = await claimed(runs)

    assert (second.event, second.tries) == (first.event, 2)


async def test_each_process_claims_other_deliveries(runs: RunStore) -> None:
    """As many as asked for, those that are due for longest first."""
    await runs.deliveries.configure({"billing": ALL})
    for number in range(6):
        await cancelled(runs, f"r{number}")

    first = await claimed(runs, limit=2)
    assert [due.event.run_id for due in first] == ["r0", "r1"]
    shares = await asyncio.gather(*(claimed(runs, limit=2) for _ in range(3)))
    assert sorted(due.event.run_id for share in shares for due in share) == ["r2", "r3", "r4", "r5"]


async def test_an_accepted_event_is_delivered_for_good(backend: Backend) -> None:
    """Even if another process has claimed it meanwhile, whose failure then changes nothing."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "r")
    (slow,) = await claimed(runs)
    await backend.age("r", 61)
    (late,) = await claimed(runs)

    assert await runs.deliveries.record(slow, Tried(status=204)) is DeliveryState.DELIVERED
    assert await runs.deliveries.record(late, UNREACHABLE) is DeliveryState.DELIVERED
    known = await delivery(runs)
    assert (known.state, known.last_status, known.last_error, known.next_at) == ("delivered", 204, None, None)
    assert known.delivered_at is not None
    await backend.age("r", 999_999)
    assert await claimed(runs) == []


async def test_a_failed_try_is_repeated_after_its_delay(backend: Backend) -> None:
    """The history tells the last status and error."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "r")
    (due,) = await claimed(runs)

    assert (
        await runs.deliveries.record(due, Tried(status=500, error="answers 500", delay=SOON)) is DeliveryState.PENDING
    )
    known = await delivery(runs)
    assert (known.state, known.tries, known.last_status, known.last_error) == ("pending", 1, 500, "answers 500")
    assert known.next_at is not None
    assert known.next_at - backend.now() == pytest.approx(SOON, abs=timedelta(seconds=10))
    await backend.age("r", 31)
    assert [due.tries for due in await claimed(runs)] == [2]


async def test_the_failure_of_a_try_that_was_overtaken_changes_nothing(backend: Backend) -> None:
    """The process with the newer claim decides when the next try is."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "r")
    (slow,) = await claimed(runs)
    await backend.age("r", 61)
    await claimed(runs)
    before = await backend.everything()

    assert await runs.deliveries.record(slow, Tried(error="late")) is DeliveryState.PENDING
    assert await backend.everything() == before


async def test_the_service_gives_up_at_once_or_when_its_patience_ends(backend: Backend) -> None:
    """Patience counts from the first try, so that an outage of this service costs no delivery."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL})
    await cancelled(runs, "gone")
    await cancelled(runs, "r")
    gone, due = await claimed(runs)

    assert await runs.deliveries.record(gone, Tried(status=410, error="gone")) is DeliveryState.FAILED
    await runs.deliveries.record(due, UNREACHABLE)
    await backend.age("r", PATIENCE.total_seconds() - 60)
    (due,) = await claimed(runs)
    assert await runs.deliveries.record(due, UNREACHABLE) is DeliveryState.PENDING
    await backend.age("r", 120)
    (due,) = await claimed(runs)
    assert await runs.deliveries.record(due, UNREACHABLE) is DeliveryState.FAILED
    assert (await delivery(runs)).next_at is None


async def test_a_webhook_that_nobody_configures_any_more_is_forgotten(backend: Backend) -> None:
    """Its pending deliveries fail, and later runs have none."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL, "chat": ALL})
    await cancelled(runs, "r")
    await backend.age("r", PATIENCE.total_seconds() + 60)
    await runs.deliveries.configure({"chat": ["cancelled"]})
    await cancelled(runs, "later")

    billing, chat = await runs.deliveries.of_run("r")
    assert (billing.state, billing.last_error, chat.state) == ("failed", FORGOTTEN, "pending")
    assert [each.webhook for each in await runs.deliveries.of_run("later")] == ["chat"]
    assert await runs.deliveries.redeliver(webhook="billing") == 0


async def test_settled_deliveries_can_be_sent_again(backend: Backend) -> None:
    """All failed ones, or those of a run, of one webhook or of all; as if they had never been tried."""
    runs = backend.runs
    await runs.deliveries.configure({"billing": ALL, "chat": ALL})
    for run_id in ("ok", "failed"):
        await cancelled(runs, run_id)
        for webhook in ("billing", "chat"):
            (due,) = await claimed(runs, webhook)
            await runs.deliveries.record(
                due, Tried(status=410, error="gone") if run_id == "failed" else Tried(status=200)
            )

    assert await runs.deliveries.redeliver(webhook="chat") == 1
    assert await runs.deliveries.redeliver() == 1
    assert await runs.deliveries.redeliver() == 0
    assert await runs.deliveries.redeliver(run_id="ok", webhook="chat") == 1
    assert await runs.deliveries.redeliver(run_id="ok") == 1
    assert await runs.deliveries.redeliver(run_id="unknown") == 0
    again = [*await claimed(runs), *await claimed(runs, "chat")]
    assert sorted((due.event.run_id, due.webhook, due.tries) for due in again) == [
        ("failed", "billing", 1),
        ("failed", "chat", 1),
        ("ok", "billing", 1),
        ("ok", "chat", 1),
    ]
