"""The small producer: what it sends, in which trace, and what it does while the brokers are away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from pipeline_processing.errors import AccessDenied, InvalidRequest, KafkaUnavailable
from pipeline_processing.messaging.memory.broker import MemoryBroker
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import JobRequest
from pipeline_processing.requests.job_messages import received
from pipeline_processing.requests.submission import BATCH, Sent, Submitter, ask_brokers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import IdsOnlyTracer, telemetry_with, trace_ids
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

TOPIC = "agency-jobs.requests"


def broker(**options: Any) -> MemoryBroker:
    return MemoryBroker(clock=VirtualClock(), topics=[TOPIC], **options)


def request(number: int, **fields: object) -> JobRequest:
    return JobRequest.model_validate({"agency_id": number, "run_id": f"run-{number}", **fields})


def submitter(kafka: MemoryBroker, tracer: Tracer | None = None) -> Submitter:
    return Submitter(events=kafka, topic=TOPIC, clock=VirtualClock(), tracer=tracer or IdsOnlyTracer())


async def sent_by(sender: Submitter, *requests: JobRequest) -> list[Sent]:
    return [each async for batch in sender.send(requests) for each in batch]


@in_virtual_time
async def test_what_is_sent_is_what_intake_reads() -> None:
    """The request arrives whole, under its run id, keyed by its agency."""
    kafka = broker()
    asked = request(7, params={"reason": "audit"}, deadline="2026-01-18T13:00:00Z", priority=3)

    (sent,) = await sent_by(submitter(kafka), asked)

    (record,) = kafka.records(TOPIC)
    assert record.key == b"7"
    assert received(record).request == asked == sent.request
    assert received(record).run_id == sent.run_id == "run-7"


@in_virtual_time
async def test_each_request_has_a_trace_of_its_own_which_its_message_carries() -> None:
    """One span per request, whose ids are those of the message's traceparent."""
    kafka, exporter = broker(), InMemorySpanExporter()
    telemetry = telemetry_with([exporter], {}, mask=Mask())

    sent = await sent_by(submitter(kafka, telemetry.tracer), request(1), request(2))

    telemetry.shutdown()
    spans = {str((span.attributes or {})["run_id"]): span for span in exporter.get_finished_spans()}
    assert [spans[f"run-{n}"].name for n in (1, 2)] == ["submit", "submit"]
    records = {received(record).run_id: record for record in kafka.records(TOPIC)}
    for each in sent:
        context = spans[each.run_id].context
        assert context is not None
        assert each.traceparent.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
        assert records[each.run_id].header("traceparent") == each.traceparent.encode()
    assert len({each.traceparent[:35] for each in sent}) == 2


@in_virtual_time
async def test_without_telemetry_messages_have_ids_all_the_same() -> None:
    """A run's trace begins where it was asked for, whether or not anybody collects spans."""
    kafka = broker()
    tracer = IdsOnlyTracer()
    (sent,) = await sent_by(submitter(kafka, tracer), request(1))

    (record,) = kafka.records(TOPIC)
    trace_id, _ = trace_ids(tracer.start_span("accept request", received(record).parent))
    assert trace_id == sent.traceparent[3:35]


@in_virtual_time
async def test_many_requests_go_in_batches_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told as sent so far is sent, however the rest ends."""
    kafka = broker()

    async def refused(messages: Sequence[Outgoing]) -> None:
        raise AccessDenied("no")

    sending = submitter(kafka).send([request(n) for n in range(1, BATCH + 3)])

    told = await anext(sending)
    monkeypatch.setattr(kafka, "send", refused)
    with pytest.raises(AccessDenied):
        await anext(sending)

    assert [each.run_id for each in told] == [f"run-{n}" for n in range(1, BATCH + 1)]
    assert {received(record).run_id for record in kafka.records(TOPIC)} == {each.run_id for each in told}


@in_virtual_time
async def test_an_answer_that_never_came_is_waited_for() -> None:
    """The same message is sent again: it is then there twice, and makes one run."""
    kafka = broker()
    kafka.lost_replies = 2

    (sent,) = await sent_by(submitter(kafka), request(1))

    traces = [record.header("traceparent") for record in kafka.records(TOPIC)]
    assert traces == [sent.traceparent.encode()] * 3


@in_virtual_time
async def test_a_long_outage_is_an_error_after_some_seconds() -> None:
    """Somebody sits in front of it."""
    kafka = broker()
    kafka.outage = True

    with pytest.raises(KafkaUnavailable):
        await sent_by(submitter(kafka), request(1))

    assert 3 <= VirtualClock().monotonic() <= 10


@in_virtual_time
async def test_a_refused_size_is_a_fault_of_the_request() -> None:
    """A person can mend it, so it isn't told as a bug."""
    kafka = broker(max_message_bytes=500)

    with pytest.raises(InvalidRequest, match="500"):
        await sent_by(submitter(kafka), request(1, params={"reason": "x" * 500}), request(2))

    assert [received(record).run_id for record in kafka.records(TOPIC)] == ["run-2"]


@in_virtual_time
async def test_brokers_are_asked_until_they_answer() -> None:
    """An outage of some seconds goes unnoticed."""
    kafka = broker()
    kafka.outage = True
    asking = asyncio.create_task(ask_brokers(kafka.ensure, clock=VirtualClock()))
    await asyncio.sleep(2)
    kafka.outage = False

    await asking
    assert VirtualClock().monotonic() < 4
