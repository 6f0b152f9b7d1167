"""Windows: when they close, what they ask for, and that nothing is lost or doubled whatever is delivered again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.model import JobRequest
from pipeline_processing.triggers.windows import (
    FIRST_TRACES,
    LAST_TRACES,
    AgencyWindows,
    Ask,
    Closing,
    Entry,
    Happened,
    Origin,
    Pace,
    apply,
    due,
    newer_state,
    read_entry,
    unread,
    write_entry,
)
from tests.properties import examples

START = datetime(2026, 1, 18, 10, tzinfo=UTC)
QUIET = Pace(quiet_for=10)


def event(offset: int, *, trigger: str = "t", pace: Pace | None = QUIET, **request: Any) -> Happened:
    """An event of agency 7 at this offset of an upstream partition."""
    return Happened(
        kind="event",
        trigger=trigger,
        request=JobRequest(agency_id=7, run_id=f"{trigger}-{offset}", **request),
        pace=pace,
        origin=Origin(topic="events", topic_id="a", partition=0, offset=offset),
        trace={"traceparent": f"00-{offset:032x}-00f067aa0ba902b7-01"},
        triggers_id="file",
    )


@dataclass
class Log:
    """A log of entries, the state that results, and what was asked for."""

    state: AgencyWindows = field(default_factory=lambda: AgencyWindows(agency_id=7))
    entries: list[tuple[Entry, datetime]] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    now: datetime = START
    read_up_to: datetime | None = None
    """None: everything is read."""

    def write(self, *entries: Entry) -> None:
        for entry in entries:
            self.entries.append((entry, self.now))
            self.state, ask = apply(self.state, entry, offset=len(self.entries) - 1, at=self.now)
            self.asks += [] if ask is None else [ask]

    def wait(self, seconds: float) -> None:
        """Let time pass, and close what is due each second."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now = min(end, self.now + timedelta(seconds=1))
            self.write(*due(self.state, self.now, read_up_to=lambda _: self.read_up_to or self.now))

    @property
    def run_ids(self) -> list[str | None]:
        return [ask.request.run_id for ask in self.asks]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_window_closes_once_no_event_has_come_for_a_while(log: Log) -> None:
    """Its request has the first event's run id, and counts them all."""
    log.write(event(0))
    log.wait(9)
    log.write(event(1))
    log.wait(9)
    assert log.asks == []
    log.wait(1)
    assert [(ask.request.run_id, ask.events) for ask in log.asks] == [("t-0", 2)]
    assert not log.state.is_open


def test_a_window_closes_at_the_latest_after_its_time(log: Log) -> None:
    """Even if events keep coming."""
    for number in range(30):
        log.write(event(number, pace=Pace(quiet_for=10, at_latest_after=20)))
        log.wait(1)
    assert [ask.events for ask in log.asks] == [20]


def test_the_next_window_waits_for_at_most_every(log: Log) -> None:
    """It counts from the last window's end; the first window doesn't wait."""
    pace = Pace(at_most_every=60)
    log.write(event(0, pace=pace))
    log.wait(1)
    log.write(event(1, pace=pace))
    log.wait(59)
    assert log.run_ids == ["t-0"]
    log.write(event(2, pace=pace))
    log.wait(1)
    assert [(ask.request.run_id, ask.events) for ask in log.asks] == [("t-0", 1), ("t-1", 2)]


def test_without_debounce_every_event_is_a_run(log: Log) -> None:
    """At once."""
    log.write(event(0, pace=None), event(1, pace=None))
    assert log.run_ids == ["t-0", "t-1"]


def test_a_window_asks_for_the_latest_params_since_the_earliest_event(log: Log) -> None:
    """Params of the last event, and the smallest `since`."""
    log.write(
        event(0, since=START, params={"region": "eu"}),
        event(1, since=START - timedelta(hours=1), params={"region": "us"}),
        event(2, since=START + timedelta(hours=1), params={"region": "asia"}),
    )
    log.wait(10)
    (ask,) = log.asks
    assert ask.request == JobRequest(
        agency_id=7, run_id="t-0", since=START - timedelta(hours=1), params={"region": "asia"}
    )


def test_a_window_with_an_event_without_since_asks_for_none(log: Log) -> None:
    """It is older than any `since`."""
    log.write(event(0, since=START), event(1), event(2, since=START))
    log.wait(10)
    assert log.asks[0].request.since is None


def test_an_event_that_is_delivered_again_changes_nothing(log: Log) -> None:
    """Not even after its window has closed."""
    log.write(event(0), event(1), event(0), event(1))
    log.wait(10)
    log.write(event(1))
    log.wait(20)
    assert [ask.events for ask in log.asks] == [2]


def test_events_of_a_recreated_topic_count(log: Log) -> None:
    """Although their offsets begin anew."""
    log.write(event(5))
    again = event(0)
    log.write(again.model_copy(update={"origin": again.origin.model_copy(update={"topic_id": "b"})}))
    log.wait(10)
    assert [ask.events for ask in log.asks] == [2]


def test_triggers_have_windows_of_their_own(log: Log) -> None:
    """One event may open several."""
    log.write(event(0), event(0, trigger="other"))
    log.wait(10)
    assert log.run_ids == ["t-0", "other-0"]


def test_a_second_closing_leaves_the_next_window_open(log: Log) -> None:
    """Two processes may write one for the same window."""
    log.write(event(0))
    closing = Closing(kind="close", trigger="t", agency_id=7, window="t-0", through=0)
    log.write(closing, event(1), closing)
    assert log.run_ids == ["t-0"]
    assert log.state.is_open


def test_a_window_waits_until_its_topic_has_been_read(log: Log) -> None:
    """A pause of the readers isn't a pause of the events."""
    log.read_up_to = START
    log.write(event(0, pace=Pace(quiet_for=10, at_latest_after=60)))
    log.wait(30)
    assert log.asks == []
    assert unread(log.state, log.now, read_up_to=lambda _: START) == {"events"}
    log.read_up_to = START + timedelta(seconds=11)
    log.wait(1)
    assert log.run_ids == ["t-0"]


def test_a_window_waits_no_longer_than_at_latest_after(log: Log) -> None:
    """Even if its topic can't be read."""
    log.read_up_to = START
    log.write(event(0, pace=Pace(quiet_for=10, at_latest_after=60)))
    log.wait(60)
    assert log.run_ids == ["t-0"]


def test_links_are_bounded(log: Log) -> None:
    """The first event and the last ones."""
    log.write(*(event(number) for number in range(100)))
    log.wait(10)
    (ask,) = log.asks
    assert ask.events == 100
    assert len(ask.traces) == FIRST_TRACES + LAST_TRACES
    assert ask.traces[0] == event(0).trace
    assert ask.traces[-1] == event(99).trace


def test_what_remains_of_a_window_whose_entries_are_gone_is_dropped(log: Log) -> None:
    """When windows are rebuilt from a log whose beginning retention has removed."""
    log.write(event(0), event(1))
    closing = Closing(kind="close", trigger="t", agency_id=7, window="t-0", through=1)
    rebuilt, _ = apply(AgencyWindows(agency_id=7), event(1), offset=1, at=START)
    rebuilt, ask = apply(rebuilt, closing, offset=2, at=START)
    assert (rebuilt.is_open, ask) == (False, None)


def test_an_open_window_survives_a_recreated_log(log: Log) -> None:
    """Entries of the new log count, and close it."""
    log.write(event(0))
    state, _ = apply(log.state.for_another_log(1), event(1), offset=0, at=START)
    (closing,) = due(state, START + timedelta(hours=1), read_up_to=lambda _: START + timedelta(hours=1))
    _, ask = apply(state, closing, offset=1, at=START)
    assert ask is not None
    assert ask.events == 2


def test_the_state_that_has_applied_more_is_newer(log: Log) -> None:
    """Whichever was stored last."""
    log.write(event(0))
    older = log.state.write()
    log.write(event(1))
    newer = log.state.write()
    assert newer_state(None, older) == older
    assert newer_state(older, newer) == newer_state(newer, older) == newer


def test_a_state_of_a_recreated_log_is_newer(log: Log) -> None:
    """Although offsets begin anew: until compaction, both are in the changelog."""
    log.write(*(event(number) for number in range(5)))
    older = log.state.write()
    newer = log.state.for_another_log(1).write()
    assert newer_state(older, newer) == newer_state(newer, older) == newer


def test_what_a_later_version_writes_can_be_read(log: Log) -> None:
    """A request may have new keys. Those with default values aren't written."""
    log.write(event(0, params={"region": "eu"}))
    _, entry = write_entry(event(0))
    for written in (log.state.write(), entry):
        assert b"dry_run" not in written
        assert b'"agency_id":7,"run_id"' in written
    later = log.state.write().replace(b'"run_id"', b'"later":{"x":1},"run_id"')
    assert AgencyWindows.read(later) == log.state
    assert read_entry(entry.replace(b'"run_id"', b'"later":1,"run_id"')) == event(0)


def test_a_state_of_a_later_version_can_be_read() -> None:
    """Keys that it has in addition are ignored; another version isn't guessed at."""
    assert AgencyWindows.read(b'{"version": 1, "agency_id": 7, "later": true}').agency_id == 7
    with pytest.raises(ValueError, match="version"):
        AgencyWindows.read(b'{"version": 2, "agency_id": 7}')


# -- properties ----------------------------------------------------------------------------------

_PACES = st.sampled_from(
    [None, QUIET, Pace(quiet_for=10, at_latest_after=15), Pace(at_most_every=20), Pace(quiet_for=5, at_most_every=20)]
)
_STEPS = st.lists(st.tuples(st.sampled_from(["event", "wait", "repeat"]), st.integers(0, 12)), max_size=60)


def _played(pace: Pace | None, steps: Sequence[tuple[str, int]]) -> tuple[Log, int]:
    """Play the steps. Return the log, and how many events happened."""
    log, happened = Log(), 0
    for what, number in steps:
        if what == "wait":
            log.wait(number)
        elif what == "event":
            log.write(event(happened, pace=pace, since=START + timedelta(seconds=number)))
            happened += 1
        elif happened:
            # A reader begins again at an earlier offset.
            log.write(*(event(each, pace=pace) for each in range(max(0, happened - number), happened)))
    return log, happened


@given(pace=_PACES, steps=_STEPS)
@examples(300)
def test_each_event_counts_once(pace: Pace | None, steps: Sequence[tuple[str, int]]) -> None:
    """In one run, or in a window that is still open; no two windows have the same run id."""
    log, happened = _played(pace, steps)
    windows = [each.window for each in log.state.triggers.values() if each.window is not None]
    assert sum(ask.events for ask in log.asks) + sum(window.events for window in windows) == happened
    assert len(set(log.run_ids)) == len(log.run_ids)


@given(pace=_PACES, steps=_STEPS, data=st.data())
@examples(300)
def test_a_process_that_begins_again_asks_for_the_same(
    pace: Pace | None, steps: Sequence[tuple[str, int]], data: st.DataObject
) -> None:
    """From any stored state, and any entry before its end, the same entries make the same requests and end state."""
    log, _ = _played(pace, steps)
    stored_at = data.draw(st.integers(0, len(log.entries)))
    begins_at = data.draw(st.integers(0, stored_at))
    state = AgencyWindows(agency_id=7)
    asks: list[Ask] = []
    for offset, (entry, at) in enumerate(log.entries[:stored_at]):
        state, ask = apply(state, read_entry(write_entry(entry)[1]), offset=offset, at=at)
        asks += [] if ask is None else [ask]
    state = AgencyWindows.read(state.write())
    for offset, (entry, at) in list(enumerate(log.entries))[begins_at:]:
        state, ask = apply(state, entry, offset=offset, at=at)
        asks += [] if ask is None else [ask]
    assert asks == log.asks
    assert state == log.state


@given(steps=_STEPS)
@examples(200)
def test_windows_keep_their_distance(steps: Sequence[tuple[str, int]]) -> None:
    """With `at_most_every`, two windows never close closer together."""
    log, _ = _played(Pace(quiet_for=5, at_most_every=20), steps)
    closed_at = [at for entry, at in log.entries if isinstance(entry, Closing)]
    assert all(later - earlier >= timedelta(seconds=20) for earlier, later in pairwise(closed_at))
