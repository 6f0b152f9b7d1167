"""Messages become runs or dead letters, and their offsets are committed only then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline_processing.errors import AccessDenied, HistoryUnavailable, KafkaUnavailable, TopicMissing
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.runs.store import Incoming
from pipeline_processing.telemetry.health import SILENT_SECONDS
from tests.unit.in_memory import Call, lost_reply, refused
from tests.unit.served import DEAD_LETTERS, REQUESTS, Served
from tests.unit.virtual_clock import in_virtual_time

AWAY = refused(KafkaUnavailable("no route"))
HISTORY_AWAY = refused(HistoryUnavailable("no route"))


@in_virtual_time
async def test_a_request_becomes_a_queued_run_and_is_committed() -> None:
    """With where it came from, and the trace that it carries on."""
    served = Served()
    async with served.taking():
        trace = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
        record = served.ask(run_id="r", headers=(("traceparent", trace), ("tracestate", b"vendor=1")))
        await served.clock.sleep(1)

    run = served.service.record().run
    assert (run.topic, run.partition, run.offset) == (REQUESTS, record.partition, record.offset)
    assert (run.state, run.trace_id, run.tracestate) == ("queued", "ab" * 16, "vendor=1")
    assert run.span_id not in (None, "cd" * 8)
    assert await served.committed() == 1


@in_virtual_time
async def test_bad_messages_are_put_aside_and_stop_nobody() -> None:
    """Every reason there is, among good requests; the letters are the messages, untouched."""
    served = Served()
    async with served.taking():
        served.ask(run_id="before")
        bad = [
            served.ask(b"{"),
            served.ask(b'{"agency_id": 0}'),
            served.ask(b'{"agency_id": 7}', headers=(("ce_id", b"1"),)),
            served.ask(job="other"),
            served.ask(datasets=["gone"]),
            served.ask(run_id="before", agency_id=8),
            served.ask(b" " * 300_000),
        ]
        served.ask(run_id="after")
        await served.clock.sleep(1)

    assert set(await served.states()) == {"before", "after"}
    reasons = (
        "invalid_json",
        "invalid_request",
        "invalid_event",
        "unknown_job",
        "unknown_dataset",
        "conflicting_request",
        "too_large",
    )
    assert sorted(served.letters()) == sorted(zip(reasons, (record.value for record in bad), strict=True))
    for record in served.broker.records(DEAD_LETTERS):
        letter = DeadLetter.of(record)
        assert letter is not None
        (original,) = [each for each in bad if (each.partition, each.offset) == (letter.partition, letter.offset)]
        assert letter.original(timestamp_ms=original.timestamp_ms) == original
    assert await served.committed() == 9


@in_virtual_time
async def test_the_same_message_again_makes_no_second_run() -> None:
    """Five times by its run id, five times by its event."""
    served = Served()
    event = (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/billing"), ("ce_type", b"asked"))
    async with served.taking():
        for _ in range(5):
            served.ask(run_id="r")
            served.ask(headers=event)
        await served.clock.sleep(1)

    assert len(await served.states()) == 2
    assert served.letters() == []


@in_virtual_time
async def test_nothing_is_committed_while_the_history_is_away() -> None:
    """However long that takes; then every request is there, once."""
    served = Served()
    served.service.between.on_every("accept_all", HISTORY_AWAY)
    async with served.taking():
        served.ask(run_id="one")
        await served.clock.sleep(600)
        assert await served.committed() == 0
        assert served.history.problem == "no route"
        assert served.health.not_alive() == []

        served.service.between.on_every("accept_all", None)
        served.ask(run_id="two")
        await served.clock.sleep(5)
        assert served.history.problem is None

    assert set(await served.states()) == {"one", "two"}
    assert await served.committed() == 2


@in_virtual_time
async def test_a_lost_reply_of_the_history_is_harmless() -> None:
    """The same batch again gives the same runs."""
    served = Served()
    served.service.between.on_next("accept_all", lost_reply(HistoryUnavailable("no answer")))
    async with served.taking():
        served.ask(run_id="r")
        await served.clock.sleep(5)

    assert await served.states() == {"r": "queued"}
    assert (await served.committed(), served.letters()) == (1, [])


@in_virtual_time
async def test_a_dead_letter_is_stored_before_its_message_is_committed() -> None:
    """A broker that takes none holds up the commit."""
    served = Served()
    served.of_kafka.on_every("send", AWAY)
    async with served.taking():
        served.ask(b"{")
        await served.clock.sleep(120)
        assert await served.committed() == 0

        served.of_kafka.on_every("send", None)
        await served.clock.sleep(5)

    assert served.letters() == [("invalid_json", b"{")]
    assert await served.committed() == 1


@in_virtual_time
async def test_a_dead_letter_that_the_broker_refuses_for_its_size_says_where_the_rest_is() -> None:
    """Even then the others go on, and the message can be found."""
    served = Served()
    served.broker.max_message_bytes = 50_000
    async with served.taking():
        bad = served.ask(b"x" * 60_000)
        served.ask(b"{")
        served.ask(run_id="good")
        await served.clock.sleep(1)

    (cut,) = [DeadLetter.of(record) for record in served.broker.records(DEAD_LETTERS) if record.value is None]
    assert cut is not None
    assert (cut.reason, cut.topic, cut.partition, cut.offset) == ("invalid_json", REQUESTS, bad.partition, bad.offset)
    assert "left out" in cut.message
    assert await served.states() == {"good": "queued"}
    assert await served.committed() == 3


def without_keys(message: Outgoing) -> bool:
    """What a compacted topic refuses."""
    return message.topic == DEAD_LETTERS and message.key is None


@in_virtual_time
async def test_a_letter_that_kafka_refuses_for_good_is_kept_in_the_database() -> None:
    """With all that it says, and once, however often it comes again; the others go on."""
    served = Served()
    served.broker.refuses = lambda message: message.topic == DEAD_LETTERS and message.value == b"{"
    served.service.between.on_next("keep", lost_reply(HistoryUnavailable("no answer")))
    async with served.taking():
        bad = served.ask(b"{", key=None)
        served.ask(b"}")
        served.ask(run_id="good")
        await served.clock.sleep(5)
        served.broker.rebalance()
        await served.clock.sleep(5)

    assert await served.states() == {"good": "queued"}
    assert set(served.letters()) == {("invalid_json", b"}")}
    [kept] = [DeadLetter.of(record) async for record in served.kept.kept()]
    assert kept is not None
    assert kept.original(timestamp_ms=0) == bad
    assert await served.committed() == 3


@in_virtual_time
async def test_a_letter_that_is_too_large_even_without_its_value_is_kept_in_the_database() -> None:
    """In full."""
    served = Served()
    served.broker.max_message_bytes = 100
    async with served.taking():
        bad = served.ask(b"x" * 200)
        served.ask(run_id="good")
        await served.clock.sleep(5)

    [kept] = [DeadLetter.of(record) async for record in served.kept.kept()]
    assert kept is not None
    assert kept.original(timestamp_ms=0) == bad
    assert await served.states() == {"good": "queued"}


@in_virtual_time
async def test_letters_that_may_not_be_sent_are_kept_in_the_database() -> None:
    """A grant that was taken away stops no good request."""
    served = Served()
    served.of_kafka.on_every("send", refused(AccessDenied("to the topic dead-letters")))
    async with served.taking():
        served.ask(b"{")
        served.ask(run_id="good")
        await served.clock.sleep(5)

    assert len([record async for record in served.kept.kept()]) == 1
    assert await served.states() == {"good": "queued"}
    assert await served.committed() == 2


@in_virtual_time
async def test_a_refused_letter_waits_for_the_history() -> None:
    """As a request does: nothing is committed before it is kept."""
    served = Served()
    served.broker.refuses = lambda message: message.topic == DEAD_LETTERS
    served.service.between.on_every("keep", HISTORY_AWAY)
    async with served.taking():
        served.ask(b"{")
        await served.clock.sleep(60)
        assert (await served.committed(), served.history.problem) == (0, "no route")
        served.service.between.on_every("keep", None)
        await served.clock.sleep(5)

    assert await served.committed() == 1


@in_virtual_time
async def test_letters_always_have_a_key() -> None:
    """So that a compacted topic takes them."""
    served = Served()
    served.broker.refuses = without_keys
    async with served.taking():
        served.ask(b"{", key=None)
        await served.clock.sleep(1)

    assert served.letters() == [("invalid_json", b"{")]


@in_virtual_time
@pytest.mark.parametrize("topic", [REQUESTS, DEAD_LETTERS])
async def test_a_topic_that_is_deleted_is_waited_for(topic: str) -> None:
    """Where this service may create none: said once, shown by readiness; then it goes on, from the beginning."""
    served = Served(may_create=False)
    async with served.taking() as taking:
        served.ask(run_id="before")
        await served.clock.sleep(1)
        served.broker.delete(topic)
        if topic == DEAD_LETTERS:
            served.ask(b"{")
        await served.clock.sleep(120)
        assert not taking.done()
        assert topic in (served.kafka.problem or "")
        assert served.health.not_alive() == []

        served.broker.create(topic)
        served.ask(run_id="after")
        await served.clock.sleep(5)
        assert served.kafka.problem is None

    assert set(await served.states()) == {"before", "after"}
    assert served.letters() == ([("invalid_json", b"{")] if topic == DEAD_LETTERS else [])


@in_virtual_time
@pytest.mark.parametrize("topic", [REQUESTS, DEAD_LETTERS])
async def test_a_topic_that_is_deleted_is_created_where_that_is_allowed(topic: str) -> None:
    """As at the start."""
    served = Served()
    async with served.taking():
        await served.clock.sleep(1)
        served.broker.delete(topic)
        if topic == DEAD_LETTERS:
            served.ask(b"{")
        await served.clock.sleep(5)
        served.ask(run_id="after")
        await served.clock.sleep(5)

    assert set(await served.states()) == {"after"}
    assert served.broker.records(topic)


@in_virtual_time
async def test_a_topic_that_is_missing_at_the_start_is_an_error() -> None:
    """Where this service may create none: somebody has to look."""
    served = Served(may_create=False)
    served.broker.delete(REQUESTS)

    with pytest.raises(TopicMissing, match=REQUESTS):
        await served.intake.run(served.stop)


@in_virtual_time
async def test_a_burst_of_large_requests_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of a request takes many times its bytes. Small ones still go by hundreds."""
    served = Served()
    accept_all = served.service.runs.intake.accept_all
    batches: list[list[int]] = []

    async def noted(incoming: Sequence[Incoming]) -> Any:
        batches.append([len(each.request.model_dump_json(exclude_defaults=True)) for each in incoming])
        return await accept_all(incoming)

    monkeypatch.setattr(served.service.runs.intake, "accept_all", noted)
    for number in range(20):
        served.ask(run_id=f"large-{number}", requested_by="x" * 210_000)
    for number in range(200):
        served.ask(run_id=f"small-{number}")
    served.ask(b"x" * 3_000_000)
    async with served.taking():
        await served.clock.sleep(10)

    assert len(served.service.table.records) == 220
    assert (await served.committed(), len(served.letters())) == (221, 1)
    assert max(map(sum, batches)) <= 1024 * 1024
    assert max(map(len, batches)) >= 190


@in_virtual_time
async def test_told_to_stop_in_an_outage_it_commits_nothing() -> None:
    """Stopping isn't held up by a server that is away, and what isn't settled comes again."""
    served = Served()
    served.service.between.on_every("accept_all", HISTORY_AWAY)
    async with served.taking():
        served.ask(run_id="r")
        await served.clock.sleep(10)
        stopped_at = served.clock.monotonic()

    assert served.clock.monotonic() - stopped_at < 2
    assert await served.committed() == 0


@in_virtual_time
async def test_kafka_away_is_said_once_and_nothing_is_lost() -> None:
    """At the start and in the middle."""
    served = Served()
    served.broker.outage = True
    async with served.taking():
        served.ask(run_id="one")
        await served.clock.sleep(60)
        assert served.kafka.problem is not None
        assert served.health.not_alive() == []
        served.broker.outage = False
        await served.clock.sleep(5)
        assert set(await served.states()) == {"one"}
        assert served.kafka.problem is None

        served.broker.outage = True
        served.ask(run_id="two")
        await served.clock.sleep(60)
        served.broker.outage = False
        await served.clock.sleep(5)

    assert set(await served.states()) == {"one", "two"}
    assert await served.committed() == 2


@in_virtual_time
async def test_a_rebalance_in_the_middle_of_a_batch_makes_no_second_run() -> None:
    """What was accepted and couldn't be committed any more is given again, and changes nothing."""
    served = Served()

    async def taken_away(call: Call) -> Any:
        answer = await call()
        served.broker.rebalance()
        return answer

    served.service.between.on_next("accept_all", taken_away)
    async with served.taking():
        served.ask(run_id="r")
        await served.clock.sleep(2)

    assert await served.states() == {"r": "queued"}
    assert served.service.between.log.count("accept_all") == 2
    assert await served.committed() == 1


@in_virtual_time
async def test_reading_that_died_without_a_word_is_noticed_and_begun_anew() -> None:
    """No record comes although there are some: not alive, until it moves again."""
    served = Served()

    async def nothing(call: Call) -> list[Any]:
        await served.clock.sleep(0.3)
        return []

    async with served.taking():
        await served.clock.sleep(1)
        served.of_kafka.on_every("poll", nothing)
        await served.clock.sleep(1)
        served.ask(run_id="r")
        await served.clock.sleep(50)
        assert served.health.not_alive() == []
        await served.clock.sleep(30)
        assert served.health.not_alive() == ["intake: the consumer gets no records although there are 1"]

        served.of_kafka.on_every("poll", None)
        await served.clock.sleep(90)
        assert served.health.not_alive() == []

    assert await served.states() == {"r": "queued"}


@in_virtual_time
async def test_a_pause_of_the_process_is_not_taken_for_death() -> None:
    """After a minute's pause there are records which nobody could have read yet."""
    served = Served()

    async def paused(call: Call) -> list[Any]:
        await served.clock.sleep(120)
        served.ask(run_id="r")
        return []

    async with served.taking():
        await served.clock.sleep(1)
        served.of_kafka.on_next("poll", paused)
        await served.clock.sleep(130)
        assert served.health.not_alive() == []

    assert await served.states() == {"r": "queued"}
    assert served.of_kafka.log.count("lag") >= 1


@in_virtual_time
async def test_a_poll_that_hangs_is_not_alive() -> None:
    """The loop doesn't come round any more."""
    served = Served()
    hangs = asyncio.Event()

    async def never(call: Call) -> list[Any]:
        await hangs.wait()
        return []

    async with served.taking():
        await served.clock.sleep(1)
        served.of_kafka.on_next("poll", never)
        await served.clock.sleep(SILENT_SECONDS + 5)
        (problem,) = served.health.not_alive()
        assert problem.startswith("intake has been silent for ")
        hangs.set()
        await served.clock.sleep(1)
        assert served.health.not_alive() == []


@in_virtual_time
async def test_a_stop_ends_the_wait_for_requests() -> None:
    """However long a poll waits."""
    served = Served()

    async def never(call: Call) -> list[Any]:
        await asyncio.Event().wait()
        return []

    async with served.taking():
        await served.clock.sleep(1)
        served.of_kafka.on_next("poll", never)
        await served.clock.sleep(60)
        stopped_at = served.clock.monotonic()

    assert served.clock.monotonic() - stopped_at < 0.1


@in_virtual_time
async def test_requests_are_taken_while_the_brokers_are_asked_for_the_lag() -> None:
    """They answer a consumer's questions only after the fetch before them."""
    served = Served()
    answers = asyncio.Event()

    async def late(call: Call) -> int:
        await answers.wait()
        return 0

    async with served.taking():
        served.of_kafka.on_next("lag", late)
        await served.clock.sleep(15)
        assert served.of_kafka.log.count("lag") == 1
        served.ask(run_id="r")
        await served.clock.sleep(1)
        assert await served.states() == {"r": "queued"}
        answers.set()


@in_virtual_time
async def test_records_without_headers_or_key_are_as_good() -> None:
    """Bare JSON by any client."""
    served = Served()
    async with served.taking():
        record = served.ask(key=None)
        await served.clock.sleep(1)

    expected = f"{record.topic}-{record.partition}-{record.offset}-{record.timestamp_ms}"
    assert await served.states() == {expected: "queued"}
    assert replace(record, headers=()) == record
