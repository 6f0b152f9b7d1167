"""Ticks of schedules: the nights when clocks change, and which missed tick is made up for."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.triggers.config import Schedule
from pipeline_processing.triggers.schedule import due_tick, ticks
from tests.properties import examples

SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)
"""Europe/Zurich: 02:00 → 03:00 at 01:00 UTC, and 03:00 → 02:00 at 01:00 UTC."""


def schedule(cron: str, **changes: Any) -> Schedule:
    return Schedule.model_validate({"cron": cron, "time_zone": "Europe/Zurich", "agencies": [1], **changes})


def between(each: Schedule, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda tick: tick <= end, ticks(each, after=start)))


@pytest.mark.parametrize(
    ("cron", "day", "utc"),
    [
        ("0 3 * * *", SPRING, ["01:00"]),
        ("30 2 * * *", SPRING, ["01:00"]),
        ("0,30 2 * * *", SPRING, ["01:00"]),
        ("30 2,3 * * *", SPRING, ["01:00", "01:30"]),
        ("30 1 * * *", SPRING, ["00:30"]),
        ("30 */6 * * *", SPRING, ["04:30", "10:30", "16:30"]),
        ("0 3 * * *", AUTUMN, ["02:00"]),
        ("30 2 * * *", AUTUMN, ["00:30"]),
        ("30 1 * * *", AUTUMN, []),
    ],
)
def test_a_clock_change_neither_loses_nor_doubles_a_tick(cron: str, day: datetime, utc: list[str]) -> None:
    """A time that doesn't exist comes at the end of the missing hour; one that comes twice, the first time."""
    assert [f"{tick:%H:%M}" for tick in between(schedule(cron), day, day + timedelta(hours=20))] == utc


def test_every_quarter_of_an_hour_comes_in_both_equal_hours() -> None:
    """Such a schedule means time that passes."""
    found = between(schedule("*/15 * * * *"), AUTUMN, AUTUMN + timedelta(hours=3))
    assert [later - earlier for earlier, later in pairwise(found)] == [timedelta(minutes=15)] * 11


def test_a_year_has_one_tick_a_day() -> None:
    """At the same local time, whatever the season."""
    each = schedule("0 3 * * *")
    found = between(each, datetime(2025, 12, 31, 12, tzinfo=UTC), datetime(2026, 12, 31, 12, tzinfo=UTC))
    assert len(found) == 365
    assert {f"{tick.astimezone(each.zone):%H:%M}" for tick in found} == {"03:00"}


CRONS = ["0 3 * * *", "30 2 * * *", "0,30 2,3 * * *", "*/20 * * * *", "15 */2 * * *", "0 0 1 * *", "30 2 * * SUN"]


@examples(200)
@given(
    st.sampled_from(CRONS),
    st.sampled_from([SPRING, AUTUMN]),
    st.lists(st.integers(-3 * 24 * 60, 3 * 24 * 60), min_size=3, max_size=3).map(sorted),
)
def test_ticks_dont_depend_on_where_counting_starts(cron: str, around: datetime, minutes: list[int]) -> None:
    """Those of two periods that meet are those of both together."""
    start, middle, end = (around + timedelta(minutes=each) for each in minutes)
    each = schedule(cron)
    assert between(each, start, middle) + between(each, middle, end) == between(each, start, end)


def test_of_missed_ticks_only_the_newest_is_due() -> None:
    """And it only for as long as `catch_up` says."""
    each = schedule("0 * * * *", time_zone="UTC", catch_up="90m")
    noon = datetime(2026, 1, 18, 12, tzinfo=UTC)
    minute = timedelta(minutes=1)
    assert due_tick(each, after=None, now=noon) == noon
    assert due_tick(each, after=None, now=noon + 59 * minute) == noon
    assert due_tick(each, after=noon - 5 * 60 * minute, now=noon + minute) == noon
    assert due_tick(each, after=noon, now=noon + 59 * minute) is None
    assert due_tick(each, after=noon, now=noon + 60 * minute) == noon + 60 * minute
    daily = schedule("0 3 * * *", time_zone="UTC", catch_up="1h")
    assert due_tick(daily, after=None, now=noon) is None


def test_a_rare_tick_is_found_at_once() -> None:
    """A leap day, years ahead."""
    (leap,) = islice(ticks(schedule("0 0 29 2 *", time_zone="UTC"), after=datetime(2026, 1, 1, tzinfo=UTC)), 1)
    assert leap == datetime(2028, 2, 29, tzinfo=UTC)
