"""What has finished is announced until the broker has stored it, always with the same id and bytes."""

from __future__ import annotations

from pipeline_processing.errors import HistoryUnavailable, KafkaUnavailable
from tests.unit.in_memory import Call, incoming, lost_reply, refused
from tests.unit.recorded import Recorded
from tests.unit.served import COMPLETIONS, Served
from tests.unit.virtual_clock import in_virtual_time


async def cancelled(served: Served, run_id: str) -> None:
    """A finished run with an event to be sent."""
    await served.service.runs.intake.accept(incoming(run_id))
    await served.service.runs.queue.cancel(run_id)


@in_virtual_time
async def test_an_event_is_sent_once_with_its_headers() -> None:
    """As a CloudEvent, keyed by its agency."""
    served = Served()
    await cancelled(served, "r")
    async with served.announcing():
        await served.clock.sleep(30)

    (event,) = served.completions("r")
    assert (event.key, event.header("ce_type"), event.header("ce_id")) == (
        b"7",
        b"agency.run.cancelled",
        b"r:cancelled",
    )


@in_virtual_time
async def test_events_of_other_processes_are_sent_within_seconds() -> None:
    """Such as those of `run` and `cancel`, which tell nobody."""
    served = Served()
    async with served.announcing():
        await served.clock.sleep(10)
        await cancelled(served, "r")
        await served.clock.sleep(1.1)
        assert len(served.completions("r")) == 1


@in_virtual_time
async def test_more_events_than_fit_into_one_batch_go_out_at_once() -> None:
    """A backlog isn't sent at the pace of polling."""
    served = Served()
    for number in range(1000):
        await cancelled(served, f"r{number}")
    async with served.announcing():
        await served.clock.sleep(0.5)
        assert len(served.broker.records("completions")) == 1000


@in_virtual_time
async def test_a_lost_ack_sends_the_same_again() -> None:
    """Twice, with one id and one content."""
    served = Served()
    await cancelled(served, "r")
    served.of_kafka.on_next("send", lost_reply(KafkaUnavailable("no ack")))
    async with served.announcing():
        await served.clock.sleep(5)

    first, second = served.completions("r")
    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)


@in_virtual_time
async def test_each_try_to_send_an_event_is_a_span_of_its_runs_trace() -> None:
    """The one that fails says why."""
    recorded = Recorded()
    served = Served(tracer=recorded.tracer)
    await cancelled(served, "r")
    served.of_kafka.on_next("send", refused(KafkaUnavailable("away")))
    with recorded:
        async with served.announcing():
            await served.clock.sleep(5)

    (event,) = served.completions("r")
    failed, sent = recorded.spans
    assert (failed.status.description, sent.status.is_unset) == ("kafka_unavailable", True)
    for span in recorded.spans:
        assert span.context is not None
        assert f"-{span.context.trace_id:032x}-".encode() in (event.header("traceparent") or b"")
        assert (span.attributes or {})["messaging.message.id"] == "r:cancelled"


@in_virtual_time
async def test_an_outage_of_kafka_delays_events_and_loses_none() -> None:
    """It is said, and over when an event went out."""
    served = Served()
    served.broker.outage = True
    await cancelled(served, "r")
    async with served.announcing():
        await served.clock.sleep(300)
        assert served.kafka.problem is not None
        assert served.health.not_alive() == []
        served.broker.outage = False
        await served.clock.sleep(2)
        assert served.kafka.problem is None

    assert len(served.completions("r")) == 1


@in_virtual_time
async def test_an_event_that_kafka_refuses_waits_until_its_topic_is_mended() -> None:
    """It stops no other and ends nothing: that is said, and the rest is not sent again every second."""
    served = Served()
    served.broker.refuses = lambda message: message.topic == COMPLETIONS and b"refused" in (message.value or b"")
    await cancelled(served, "refused")
    await cancelled(served, "r")
    async with served.announcing() as announcing:
        await served.clock.sleep(100)
        assert not announcing.done()
        assert "refuses a message" in (served.kafka.problem or "")
        assert served.health.not_alive() == []
        assert 1 <= len(served.completions("r")) <= 5
        served.broker.refuses = lambda message: False
        await served.clock.sleep(40)
        assert served.kafka.problem is None

    assert len(served.completions("refused")) == 1


@in_virtual_time
async def test_an_outage_of_the_history_is_the_histories() -> None:
    """Whoever reads the log looks at the right server."""
    served = Served()
    served.service.between.on_every("announce", refused(HistoryUnavailable("gone")))
    async with served.announcing():
        await served.clock.sleep(5)
        assert (served.history.problem, served.kafka.problem) == ("gone", None)
        served.service.between.on_every("announce", None)
        await served.clock.sleep(2)
        assert served.history.problem is None


@in_virtual_time
async def test_told_to_stop_it_sends_what_there_is() -> None:
    """The events of the last runs go out as well; an outage doesn't hold it up."""
    served = Served()
    async with served.announcing():
        await served.clock.sleep(5.5)
        await cancelled(served, "r")
    assert len(served.completions("r")) == 1

    away = Served()
    away.broker.outage = True
    await cancelled(away, "r")
    async with away.announcing():
        pass
    assert away.completions("r") == []


@in_virtual_time
async def test_a_complaint_is_not_for_ever_when_another_process_sent_the_events() -> None:
    """Nothing to send says nothing for a while, and then it is forgiven."""
    served = Served()
    served.broker.outage = True
    await cancelled(served, "r")
    async with served.announcing():
        await served.clock.sleep(2)
        served.service.between.on_every("announce", nothing_left)
        served.broker.outage = False
        await served.clock.sleep(30)
        assert served.kafka.problem is not None
        await served.clock.sleep(60)
        assert served.kafka.problem is None


async def nothing_left(call: Call) -> int:
    return 0
