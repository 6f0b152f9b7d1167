"""Webhooks get each completion event at least once, and neither delay Kafka nor each other."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from hmac import digest
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline_processing.errors import HistoryUnavailable
from pipeline_processing.http.signatures import message_id
from pipeline_processing.ports import Posted
from pipeline_processing.runs.deliveries import PATIENCE, Delivery
from tests.memory.receivers import HANGS, Received
from tests.unit.in_memory import incoming, lost_reply, refused
from tests.unit.served import WEBHOOK_KEY, Served
from tests.unit.virtual_clock import in_virtual_time

ALL = ("succeeded", "failed", "cancelled")
DAY = 24 * 60 * 60.0


async def serving(**webhooks: tuple[str, ...]) -> Served:
    """A service whose webhooks are configured."""
    served = Served(webhooks=webhooks or {"billing": ALL})
    await served.webhooks.configure()
    return served


async def cancelled(served: Served, *run_ids: str) -> None:
    """Finished runs with events for webhooks."""
    for run_id in run_ids:
        await served.service.runs.intake.accept(incoming(run_id))
        await served.service.runs.queue.cancel(run_id)


async def delivery(served: Served, run_id: str = "r") -> Delivery:
    (only,) = await served.service.runs.deliveries.of_run(run_id)
    return only


@in_virtual_time
async def test_an_event_is_posted_as_a_signed_cloud_event() -> None:
    """The body is the Kafka event's, byte for byte; the headers are those of CloudEvents and Standard Webhooks."""
    served = await serving()
    await cancelled(served, "r.1")
    async with served.notifying():
        await served.clock.sleep(30)
    async with served.announcing():
        pass

    (event,) = served.completions("r.1")
    (received,) = served.receivers.of("billing")
    assert received.body == event.value
    headers = dict(received.headers)
    timestamp = str(int(received.at.timestamp()))
    signed = f"{headers['webhook-id']}.{timestamp}.".encode() + received.body
    assert headers.pop("webhook-signature") == f"v1,{b64encode(digest(WEBHOOK_KEY, signed, sha256)).decode()}"
    assert headers.pop("webhook-timestamp") == timestamp
    assert headers.pop("webhook-id") == message_id("r.1:cancelled")
    assert headers == {
        name.replace("ce_", "ce-"): (value or b"").decode() for name, value in event.headers if name != "tracestate"
    }
    assert {"ce-id", "ce-type", "ce-source", "ce-specversion", "ce-time", "content-type", "traceparent"} == set(headers)
    assert (await delivery(served, "r.1")).state == "delivered"


@in_virtual_time
async def test_a_webhook_gets_only_the_states_that_it_wants() -> None:
    served = await serving(billing=("succeeded",), chat=("failed", "cancelled"))
    await cancelled(served, "r")
    async with served.running():
        served.ask(run_id="done")
        await served.clock.sleep(5)

    assert [received.headers["ce-id"] for received in served.receivers.of("billing")] == ["done:succeeded"]
    assert [received.headers["ce-id"] for received in served.receivers.of("chat")] == ["r:cancelled"]


@in_virtual_time
async def test_an_event_is_posted_as_soon_as_its_run_ends_or_within_seconds() -> None:
    """A run of this process wakes the webhooks; one that ended elsewhere is found."""
    served = await serving()
    async with served.running():
        await served.clock.sleep(10)
        await cancelled(served, "elsewhere")
        at = served.clock.now()
        await served.clock.sleep(2.1)
        assert len(served.receivers.received) == 1
        served.ask(run_id="here")
        await served.clock.sleep(10)

    here = await served.service.runs.history.get("here")
    assert here is not None
    assert here.finished_at is not None
    assert served.receivers.received[1].at - here.finished_at < timedelta(seconds=0.1)
    assert served.receivers.received[0].at - at <= timedelta(seconds=2)


@in_virtual_time
async def test_answers_of_500_for_a_day_are_survived() -> None:
    """Ever more rarely, but often enough: an outage is logged once, noted in the readiness, and then over."""
    served = await serving()
    served.receivers.answers("billing", status=500)
    await cancelled(served, "r")
    with capture_logs() as logs:
        async with served.notifying():
            await served.clock.sleep(DAY)
            assert served.health.notes == [
                "webhook 'billing' has accepted no event since 2026-01-18 12:00:00 UTC: webhook 'billing' answers 500."
            ]
            tries = len(served.receivers.received)
            assert 96 <= tries <= 210
            served.receivers.answers("billing", status=200)
            await served.clock.sleep(15 * 60)
            assert served.health.notes == []

    known = await delivery(served)
    assert (known.state, known.tries, known.last_status) == ("delivered", tries + 1, 200)
    assert len({(received.body, received.headers["webhook-id"]) for received in served.receivers.received}) == 1
    said = [line["event"] for line in logs if "webhook" in line["event"]]
    assert said == ["webhook 'billing' can't be used; retrying until it can", "webhook 'billing' is back"]


@in_virtual_time
async def test_after_three_days_the_service_gives_up() -> None:
    """The log and the history say so; sending it again is a person's decision."""
    served = await serving()
    served.receivers.answers("billing", status=500)
    with capture_logs() as logs:
        async with served.notifying():
            await cancelled(served, "r")
            await served.clock.sleep(3 * DAY + 1800)
            known = await delivery(served)
            assert (known.state, known.last_error) == ("failed", "webhook 'billing' answers 500.")
            tries = len(served.receivers.received)
            served.receivers.answers("billing", status=200)
            await served.clock.sleep(3600)
            assert len(served.receivers.received) == tries
            await served.service.runs.deliveries.redeliver()
            await served.clock.sleep(60)

    assert (await delivery(served)).state == "delivered"
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["webhook"], line["run_id"], line["tries"]) == ("billing", "r", tries)


@in_virtual_time
async def test_410_ends_a_delivery_at_once() -> None:
    """The receiver wants it no more."""
    served = await serving()
    served.receivers.answers("billing", status=410)
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(3600)

    assert len(served.receivers.received) == 1
    assert (await delivery(served)).state == "failed"


@pytest.mark.parametrize("status", [429, 503])
@in_virtual_time
async def test_retry_after_holds_all_events_back(status: int) -> None:
    """Those to this webhook, also new ones."""
    served = await serving(billing=ALL, chat=ALL)
    served.receivers.answers("billing", status=status, retry_after=600)
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(10)
        await cancelled(served, "new")
        served.webhooks.wake()
        await served.clock.sleep(580)
        assert len(served.receivers.of("billing")) == 1
        assert len(served.receivers.of("chat")) == 2
        served.receivers.answers("billing", status=200)
        await served.clock.sleep(30)
        assert len(served.receivers.of("billing")) == 3


@in_virtual_time
async def test_a_retry_after_of_a_year_is_not_waited_for() -> None:
    """An hour at most."""
    served = await serving()
    served.receivers.answers("billing", status=429, retry_after=365 * DAY)
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(3700)

    assert len(served.receivers.received) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, "answers 302. Redirects aren't followed: set PIPELINE_WEBHOOKS__BILLING__URL to the target."),
        (401, "answers 401: it refuses access. Check PIPELINE_WEBHOOKS__BILLING__URL, and its key."),
        (404, "answers 404."),
    ],
)
@in_virtual_time
async def test_any_other_answer_is_retried_and_says_what_to_do(status: int, error: str) -> None:
    """A person may correct the receiver meanwhile."""
    served = await serving()
    served.receivers.answers("billing", status=status)
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(60)
        known = await delivery(served)
        assert (known.state, known.last_error) == ("pending", f"webhook 'billing' {error}")
        served.receivers.answers("billing", status=200)
        await served.clock.sleep(900)

    assert (await delivery(served)).state == "delivered"


@in_virtual_time
async def test_a_webhook_that_hangs_delays_no_other_and_no_kafka_event() -> None:
    """Each has its own requests, of which few are open at once."""
    served = await serving(billing=ALL, chat=ALL)
    served.receivers.handlers["billing"] = lambda received: HANGS
    runs = [f"r{number}" for number in range(100)]
    await cancelled(served, *runs)
    async with served.running():
        await served.clock.sleep(9)
        assert len(served.receivers.of("chat")) == 100
        assert all(len(served.completions(run_id)) == 1 for run_id in runs)
        assert len(served.receivers.of("billing")) == 8
        del served.receivers.handlers["billing"]
        await served.clock.sleep(60)

    assert len({received.headers["ce-id"] for received in served.receivers.of("billing")}) == 100


@in_virtual_time
async def test_an_event_that_is_always_refused_delays_no_other() -> None:
    """Its retries become rare, and the others go out meanwhile."""
    served = await serving()

    def picky(received: Received) -> Posted:
        return Posted(500 if received.headers["ce-id"].startswith("bad") else 200)

    served.receivers.handlers["billing"] = picky
    await cancelled(served, "bad")
    async with served.notifying():
        for number in range(20):
            await cancelled(served, f"r{number}")
            await served.clock.sleep(65)
            assert (await delivery(served, f"r{number}")).state == "delivered"

    assert (await delivery(served, "bad")).state == "pending"


@in_virtual_time
async def test_a_backlog_does_not_flood_a_webhook_that_is_away() -> None:
    """It is asked at most once a minute, with few events, and gets all of them when it is back."""
    served = await serving()
    served.receivers.answers("billing", status=502)
    await cancelled(served, *(f"r{number}" for number in range(1000)))
    async with served.notifying():
        await served.clock.sleep(3600)
        assert len(served.receivers.received) < 8 * 150
        served.receivers.answers("billing", status=200)
        await served.clock.sleep(20 * 60)

    accepted = {received.headers["ce-id"] for received in served.receivers.received}
    assert len(accepted) == 1000
    assert not await served.service.runs.deliveries.untried(["billing"])


@in_virtual_time
async def test_what_could_not_be_recorded_is_sent_again_with_the_same_id() -> None:
    """As after a process was killed between POST and record."""
    served = await serving()
    away = refused(HistoryUnavailable("gone"))
    served.service.between.on_every("record", away)
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(45)
        served.service.between.on_every("record", None)
        await served.clock.sleep(60)

    first, second = served.receivers.received
    assert (first.body, first.headers["webhook-id"], first.headers["ce-id"]) == (
        second.body,
        second.headers["webhook-id"],
        second.headers["ce-id"],
    )
    assert (await delivery(served)).state == "delivered"


@in_virtual_time
async def test_a_lost_reply_to_the_record_sends_nothing_again() -> None:
    """The record is repeated, and finds that it was stored."""
    served = await serving()
    served.service.between.on_next("record", lost_reply(HistoryUnavailable("no reply")))
    await cancelled(served, "r")
    async with served.notifying():
        await served.clock.sleep(600)

    assert len(served.receivers.received) == 1


@in_virtual_time
async def test_an_outage_of_the_history_delays_events_and_is_the_histories() -> None:
    """Whoever reads the log looks at the right server."""
    served = await serving()
    await cancelled(served, "r")
    served.service.between.on_every("claim", refused(HistoryUnavailable("gone")))
    async with served.notifying():
        await served.clock.sleep(60)
        assert served.history.problem == "gone"
        served.service.between.on_every("claim", None)
        await served.clock.sleep(5)
        assert served.history.problem is None

    assert len(served.receivers.received) == 1


@in_virtual_time
async def test_told_to_stop_it_sends_what_is_due_and_takes_seconds_at_most() -> None:
    """The events of the last runs go out as well; a webhook that hangs doesn't hold it up."""
    served = await serving(billing=ALL, chat=ALL)
    served.receivers.handlers["billing"] = lambda received: HANGS
    async with served.notifying():
        await served.clock.sleep(60)
        await cancelled(served, *(f"r{number}" for number in range(20)))
        at = served.clock.monotonic()

    assert len(served.receivers.of("chat")) == 20
    assert served.clock.monotonic() - at <= 5.1


@in_virtual_time
async def test_once_sends_each_event_once_and_does_not_wait_for_a_webhook_that_fails() -> None:
    """What failed stays in the history, for the next `serve`."""
    served = Served(webhooks={"billing": ALL, "chat": ALL})
    served.receivers.answers("billing", status=500)
    served.receivers.takes_seconds = 1.0
    for number in range(20):
        served.ask(run_id=f"r{number}")

    await served.whole.run(served.stop, served.hurry, once=True)

    assert served.clock.monotonic() < 60
    assert len(served.receivers.of("chat")) == 20
    states = [[each.state for each in await served.service.runs.deliveries.of_run(f"r{n}")] for n in range(20)]
    assert states == [["pending", "delivered"]] * 20


@in_virtual_time
async def test_a_long_running_service_keeps_its_webhooks_configured() -> None:
    """They are forgotten only when no process has them any more. An outage of the history changes nothing."""
    served = await serving()
    served.service.between.on_next("configure", refused(HistoryUnavailable("gone")))
    async with served.notifying():
        await served.clock.sleep(1300)

    assert served.clock.now() - served.service.table.webhooks["billing"].configured_at < timedelta(minutes=10)


@in_virtual_time
async def test_a_service_without_webhooks_forgets_those_of_earlier_settings() -> None:
    """Otherwise deliveries would be stored for ever, which nobody sends."""
    served = Served()
    await served.service.runs.deliveries.configure({"removed": ALL})
    await served.clock.sleep(PATIENCE.total_seconds())
    async with served.notifying():
        await served.clock.sleep(700)

    await cancelled(served, "r")
    assert await served.service.runs.deliveries.of_run("r") == []


@in_virtual_time
async def test_a_tracestate_that_no_header_can_have_is_left_out() -> None:
    """It must not stop the event."""
    served = await serving()
    request: Any = incoming("r")
    object.__setattr__(request, "tracestate", "vendor=\u00e9\n")
    await served.service.runs.intake.accept(request)
    await served.service.runs.queue.cancel("r")
    async with served.notifying():
        await served.clock.sleep(5)

    (received,) = served.receivers.received
    assert "tracestate" not in received.headers
