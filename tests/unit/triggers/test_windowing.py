"""Entries are settled in order, also after a crash, a reassignment, or the loss of their changelog."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import telemetry_with
from pipeline_processing.triggers.windowing import COMPLETE, Reassigned
from pipeline_processing.triggers.windows import AgencyWindows, Pace, newer_state
from tests.unit.stepped_clock import SteppedClock
from tests.unit.triggers.triggered import ENTRIES, EVENTS, REQUESTS, Triggered, event


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def triggered(clock: SteppedClock) -> Triggered:
    return Triggered(clock)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The log's entries, however other tests have configured it."""
    with capture_logs() as entries:
        yield entries


async def test_a_quiet_window_becomes_a_request(triggered: Triggered, clock: SteppedClock) -> None:
    """Of several agencies, each once, with the trace of its own span."""
    await triggered.hold()
    triggered.write(event(0), event(1), event(2, agency_id=8))
    await triggered.take()
    clock.pass_(9)
    await triggered.close_due()
    assert await triggered.broker.ends(ENTRIES) == await triggered.broker.committed(ENTRIES)
    clock.pass_(1)
    await triggered.close_due()
    await triggered.close_due()
    await triggered.take()
    assert sorted(each["run_id"] for each in triggered.requests()) == ["run-7-0", "run-8-2"]
    (first, second) = triggered.broker.records(REQUESTS)
    assert first.header("ce_type") == b"agency.run.requested"
    assert first.header("traceparent") != second.header("traceparent")


async def test_a_process_that_died_before_it_stored_asks_again_for_the_same(
    triggered: Triggered, clock: SteppedClock
) -> None:
    """And not once more if it died after that."""
    await triggered.hold()
    triggered.write(event(0), event(1))
    await triggered.take()
    clock.pass_(10)
    await triggered.close_due()
    committed = await triggered.broker.committed(ENTRIES)
    triggered.table.reassigned = True
    with pytest.raises(Reassigned):
        await triggered.take()
    triggered.table.reassigned = False

    triggered.keeper = triggered.another()
    await triggered.hold()
    await triggered.take(commit=False)
    first, again = triggered.requests()
    assert first == again

    triggered.keeper = triggered.another()
    await triggered.hold()
    await triggered.take(since=committed)
    clock.pass_(60)
    await triggered.close_due()
    await triggered.take()
    assert len(triggered.requests()) == 2


async def test_entries_that_were_skipped_are_read(triggered: Triggered, clock: SteppedClock) -> None:
    """Faust may skip some around a rebalance, and may deliver some twice."""
    await triggered.hold()
    triggered.write(*(event(number) for number in range(5)))
    records = triggered.broker.records(ENTRIES)
    await triggered.keeper.take([records[1], records[3]], triggered.table, triggered.stop)
    await triggered.keeper.take(records, triggered.table, triggered.stop)
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert [each["run_id"] for each in triggered.requests()] == ["run-7-0"]


async def test_a_lost_changelog_loses_and_doubles_nothing(
    triggered: Triggered, clock: SteppedClock, logged: list[Any]
) -> None:
    """Windows are rebuilt from the log, and requests that were sent are not sent again."""
    await triggered.hold()
    triggered.write(event(0))
    await triggered.take()
    clock.pass_(10)
    await triggered.close_due()
    triggered.write(event(1), event(2))
    await triggered.take()
    triggered.table.changelog.clear()

    triggered.keeper = triggered.another()
    await triggered.hold()
    triggered.write(event(2), event(3))
    await triggered.take()
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert [each["run_id"] for each in triggered.requests()] == ["run-7-0", "run-7-1"]
    assert "rebuilt from the log" in str(logged)


async def test_a_changelog_that_was_recreated_counts_as_lost(triggered: Triggered, clock: SteppedClock) -> None:
    """Even if a process that still ran has stored some states since."""
    await triggered.hold()
    triggered.write(*(event(number, agency_id=number + 1) for number in range(10)))
    await triggered.take()
    triggered.table.changelog.clear()
    triggered.write(*(event(number, agency_id=number + 1) for number in range(10, 12)))
    await triggered.take()

    triggered.keeper = triggered.another()
    await triggered.hold()
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert len(triggered.requests()) == 12


async def test_an_unreadable_state_counts_as_lost(triggered: Triggered, clock: SteppedClock, logged: list[Any]) -> None:
    """It alone is rebuilt from the log. What was wrong is logged, without the values."""
    await triggered.hold()
    triggered.write(event(0), event(1, agency_id=8), event(2), event(3, agency_id=8))
    await triggered.take()
    for states in triggered.table.changelog.values():
        if b"7" in states:
            states[b"7"] = b'{"version": 1, "agency_id": ["secret"]}'
        if b"8" in states:  # another number of events than in the log
            states[b"8"] = states[b"8"].replace(b'"events":2', b'"events":3')
    triggered.keeper = triggered.another()
    await triggered.hold()
    assert "agency_id: Input should be a valid integer" in str(logged)
    assert "secret" not in str(logged)
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert sorted(entry["events"] for entry in logged if entry["event"] == "requesting a run") == [2, 3]


async def test_open_windows_survive_a_recreated_log(triggered: Triggered, clock: SteppedClock) -> None:
    """Their events were stored in the changelog."""
    await triggered.hold()
    triggered.write(event(0), event(1))
    await triggered.take()
    triggered.broker.delete(ENTRIES)
    triggered.broker.create(ENTRIES)

    triggered.keeper = triggered.another()
    await triggered.hold()
    triggered.write(event(2))
    await triggered.take()
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert [each["run_id"] for each in triggered.requests()] == ["run-7-0"]


async def test_a_closed_window_stays_closed_after_the_log_was_recreated(
    triggered: Triggered, clock: SteppedClock
) -> None:
    """Its state has a lower offset than that of the old log, which compaction has yet to remove."""
    await triggered.hold()
    triggered.write(*(event(number) for number in range(5)))
    await triggered.take()
    before = triggered.table.states()
    triggered.broker.delete(ENTRIES)
    triggered.broker.create(ENTRIES)
    for _ in range(2):
        triggered.keeper = triggered.another()
        await triggered.hold()
        clock.pass_(10)
        await triggered.close_due()
        await triggered.take()
        for partition, states in triggered.table.changelog.items():
            for key, state in states.items():
                states[key] = newer_state(before[partition].get(key), state)
    assert len(triggered.requests()) == 1
    assert not any(AgencyWindows.read(each).is_open for each in _states(triggered))


async def test_a_new_agency_begins_in_the_logs_epoch(triggered: Triggered) -> None:
    """Else the next process would count its entries again."""
    await triggered.hold()
    triggered.write(event(0))
    await triggered.take()
    triggered.broker.delete(ENTRIES)
    triggered.broker.create(ENTRIES)
    for number in range(1, 4):
        triggered.keeper = triggered.another()
        await triggered.hold()
        triggered.write(event(number), *(event(number, agency_id=other) for other in range(8, 20)))
        await triggered.take()
    states = [AgencyWindows.read(state) for state in _states(triggered)]
    of_7 = next(state for state in states if state.agency_id == 7)
    others = {state.epoch for state in states if state.agency_id != 7}
    assert of_7.epoch == 1
    assert others <= {0, 1}
    windows = [each.window.events for state in states for each in state.triggers.values() if each.window is not None]
    assert sorted(windows) == [3] * 12 + [4]


async def test_an_unreadable_entry_is_put_aside(triggered: Triggered) -> None:
    """It stops no others. The reason, which is logged, holds none of its values."""
    await triggered.hold()
    bad = b'{"kind": "event", "trigger": {"name": "secret"}}'
    triggered.broker.put(Outgoing(topic=ENTRIES, key=b"7", value=bad))
    triggered.write(event(0, pace=None))
    await triggered.take()
    ((record, error),) = triggered.letters.put
    assert record.value == bad
    assert "event.trigger: Input should be a valid string" in str(error)
    assert "secret" not in str(error)
    assert len(triggered.requests()) == 1


async def test_an_entry_whose_timestamp_is_invalid_is_put_aside(triggered: Triggered) -> None:
    """This service doesn't write such an entry."""
    await triggered.hold()
    triggered.write(event(0, pace=None))
    (record,) = triggered.broker.records(ENTRIES)
    await triggered.keeper.take([replace(record, timestamp_ms=2**60)], triggered.table, triggered.stop)
    assert len(triggered.letters.put) == 1
    assert triggered.requests() == []


async def test_a_window_stays_open_while_events_are_unread(triggered: Triggered, clock: SteppedClock) -> None:
    """Those in the topic, and those in the log."""
    await triggered.hold()
    triggered.write(event(0))
    await triggered.take()
    unread = triggered.broker.put(Outgoing(topic=EVENTS, key=None, value=b"{}"))
    assert triggered.keeper.overdue_seconds() == 0
    clock.pass_(30)
    await triggered.close_due()
    assert len(triggered.broker.records(ENTRIES)) == 1
    assert triggered.keeper.overdue_seconds() > 0

    triggered.write(event(1))
    triggered.broker.committed_by_member(EVENTS, {unread.partition: 1})
    await triggered.close_due()
    assert len(triggered.broker.records(ENTRIES)) == 2

    await triggered.take()
    clock.pass_(10)
    await triggered.close_due()
    await triggered.close_due()
    await triggered.take()
    assert [each["run_id"] for each in triggered.requests()] == ["run-7-0"]


async def test_a_window_of_a_recreated_topic_closes(triggered: Triggered, clock: SteppedClock) -> None:
    """Nobody ever reads up to the old topic's end."""
    await triggered.hold()
    triggered.write(event(0))
    await triggered.take()
    for _ in range(20):
        triggered.broker.put(Outgoing(topic=EVENTS, key=b"x", value=b"{}"))
    clock.pass_(11)
    await triggered.close_due()
    triggered.broker.delete(EVENTS)
    triggered.broker.create(EVENTS)
    record = triggered.broker.put(Outgoing(topic=EVENTS, key=b"x", value=b"{}"))
    triggered.broker.committed_by_member(EVENTS, {record.partition: 1})
    await triggered.close_due()
    await triggered.take()
    assert len(triggered.requests()) == 1


async def test_a_window_of_a_deleted_topic_closes(triggered: Triggered, clock: SteppedClock) -> None:
    """There is nothing more to read."""
    await triggered.hold()
    triggered.write(event(0))
    await triggered.take()
    triggered.broker.delete(EVENTS)
    clock.pass_(10)
    await triggered.close_due()
    await triggered.take()
    assert len(triggered.requests()) == 1


async def test_another_triggers_file_is_reported(triggered: Triggered, clock: SteppedClock, logged: list[Any]) -> None:
    """In the log and the readiness, with both identities, until the other process is gone for a while."""
    await triggered.hold()
    triggered.write(event(0, file="theirs"), event(1, file="theirs"))
    await triggered.take()
    (note,) = triggered.health.notes
    assert "theirs" in note
    assert "mine" in note
    assert str(logged).count("another triggers file") == 1
    clock.pass_(601)
    await triggered.close_due()
    assert triggered.health.notes == []


async def test_a_requests_span_links_to_its_events(clock: SteppedClock) -> None:
    """The request carries that span's trace."""
    exporter = InMemorySpanExporter()
    telemetry = telemetry_with([exporter], {}, mask=Mask())
    triggered = Triggered(clock, tracer=telemetry.tracer)
    await triggered.hold()
    trace = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    triggered.write(event(0, pace=None).model_copy(update={"trace": trace}))
    await triggered.take()
    telemetry.shutdown()
    (span,) = exporter.get_finished_spans()
    (link,) = span.links
    assert f"{link.context.trace_id:032x}" == "ab" * 16
    (request,) = triggered.broker.records(REQUESTS)
    assert f"{span.context.trace_id:032x}".encode() in (request.header("traceparent") or b"")
    assert dict(span.attributes or {}) == {"trigger": "t", "run_id": "run-7-0", "agency_id": 7, "events": 1}


async def test_at_most_every_waits_for_nobody(triggered: Triggered, clock: SteppedClock) -> None:
    """A trigger without `quiet_for` doesn't ask whether its events are read."""
    await triggered.hold()
    triggered.broker.put(Outgoing(topic=EVENTS, key=None, value=b"{}"))
    triggered.write(event(0, pace=Pace(at_most_every=60)))
    await triggered.take()
    await triggered.close_due()
    await triggered.take()
    assert len(triggered.requests()) == 1


def _states(triggered: Triggered) -> Iterator[bytes]:
    for states in triggered.table.states().values():
        yield from (state for key, state in states.items() if key != COMPLETE)
