"""Ticks of schedules."""

from collections.abc import Iterator
from datetime import UTC, datetime

from cronsim import CronSim

from pipeline_processing.triggers.config import Schedule


def ticks(schedule: Schedule, *, after: datetime) -> Iterator[datetime]:
    """
    Yield the ticks after a moment, in UTC and in order.

    In the night when clocks go forward, a tick in the hour that doesn't exist comes at its end. When they go back, a
    tick at a certain hour comes once; one of every hour, such as `*/15 * * * *`, comes in both hours.
    """
    last = after
    for local in CronSim(schedule.cron, after.astimezone(schedule.zone)):
        tick = local.astimezone(UTC)
        # CronSim counts in local time, and may go back to the first of two equal hours, or give the end of the missing
        # hour several times.
        if tick > last:
            last = tick
            yield tick


def due_tick(schedule: Schedule, *, after: datetime | None, now: datetime) -> datetime | None:
    """
    Return the newest tick after `after` and up to `now`, unless it is older than `catch_up`; None if there is none.

    `after` is None for a process that has just started: it makes up for the newest tick that `catch_up` allows.
    """
    oldest = now - schedule.catch_up
    newest = None
    for tick in ticks(schedule, after=oldest if after is None else max(after, oldest)):
        if tick > now:
            break
        newest = tick
    return newest
