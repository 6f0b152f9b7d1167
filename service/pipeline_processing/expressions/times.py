"""
Dates and timestamps as text, as Postgres prints them in UTC (`2026-01-18 10:00:00.5+00`, `0044-03-15 BC`).

Text is used as the value because it covers all of Postgres's years and infinities, and is unique for each value.
"""

import re
from datetime import date, time
from decimal import Decimal

from pipeline_processing.expressions.types import RowFault

_DAY = 86_400_000_000
"""In microseconds."""
_LAST_YEAR = {"date": 5_874_897, "timestamp": 294_276}
_FIELDS = ("year", "month", "day", "hour", "minute", "second")
_MAX_OFFSET = 15 * 3600 + 59 * 60 + 59

_INPUT = re.compile(
    r"""
    [ \t\n\v\f\r]*
    (?: (?P<infinity> [+-]?infinity )
      | (?P<year>[0-9]{4,7}) - (?P<month>[0-9]{1,2}) - (?P<day>[0-9]{1,2})
        (?: (?:[ ]*T[ ]* | [ ]+) (?P<hour>[0-9]{1,2}) : (?P<minute>[0-9]{1,2})
            (?: : (?P<second>[0-9]{1,2}) (?: \. (?P<fraction>[0-9]*) )? )?
            (?: [ ]* (?: Z | UTC
                | (?P<sign>[+-]) (?P<hours>[0-9]{1,2})
                  (?: :(?P<minutes>[0-9]{2}) (?: :(?P<seconds>[0-9]{2}) )? | (?P<minutes2>[0-9]{2}) )? ) )? )?
        (?: [ ]* (?P<era>BC|AD) )?
    )
    [ \t\n\v\f\r]*
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


# -- text → value --------------------------------------------------------------------------------


def date_of(text: str) -> str:
    """ISO text → date. A time in it is ignored, as in Postgres. Raises RowFault."""
    read = _read(text, "date")
    return read if isinstance(read, str) else _date_text(read[0], "date")


def timestamp_of(text: str) -> str:
    """ISO text → timestamp. A time zone in it is ignored, as in Postgres. Raises RowFault."""
    read = _read(text, "timestamp")
    return read if isinstance(read, str) else _moment_text(read[0], read[1], "")


def timestamptz_of(text: str) -> str:
    """ISO text → timestamptz, in UTC if the text has no zone. Raises RowFault."""
    read = _read(text, "timestamptz")
    return read if isinstance(read, str) else _moment_text(read[0], read[1] - read[2], "+00")


def _read(text: str, what: str) -> tuple[int, int, int] | str:
    """Return days, microseconds since midnight, and the zone's offset in microseconds; or the text of an infinity."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise RowFault(f"the text isn't a {what} in ISO form")
    if infinity := match["infinity"]:
        return "-infinity" if infinity[0] == "-" else "infinity"
    year, month, day, hour, minute, second = (int(match[name] or 0) for name in _FIELDS)
    try:
        days = _days(1 - year if (match["era"] or "").upper() == "BC" else year, month, day)
        time(hour, minute, second)
        if not year:
            raise ValueError
    except ValueError:
        raise RowFault(f"the text isn't a {what}: there is no such day or time of day") from None
    fraction = round(float("0." + (match["fraction"] or "0")) * 1_000_000)  # as a double, like Postgres
    return days, ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction, _offset(match) * 1_000_000


def _offset(match: re.Match[str]) -> int:
    given = (match["hours"], match["minutes"] or match["minutes2"], match["seconds"])
    hours, minutes, seconds = (int(digits or 0) for digits in given)
    offset = (hours * 60 + minutes) * 60 + seconds
    if minutes > 59 or seconds > 59 or offset > _MAX_OFFSET:
        raise RowFault("the text has an unknown time zone")
    return -offset if match["sign"] == "-" else offset


# -- the calendar --------------------------------------------------------------------------------

_CYCLE, _CYCLE_DAYS = 400, 146_097
"""The calendar repeats after this many years, so Python's dates can represent any year."""
_START = date(_CYCLE, 1, 1).toordinal()


def _days(year: int, month: int, day: int) -> int:
    """Return the days since the start of the year 0 (1 BC). Raises ValueError if there is no such day."""
    cycles, year = divmod(year, _CYCLE)
    return cycles * _CYCLE_DAYS + date(_CYCLE + year, month, day).toordinal() - _START


_FIRST_DAY = _days(-4713, 11, 24)
"""The first day of Postgres's calendar."""


def _date_text(days: int, what: str) -> str:
    cycles, of_cycle = divmod(days, _CYCLE_DAYS)
    moment = date.fromordinal(_START + of_cycle)
    year, rest = moment.year + (cycles - 1) * _CYCLE, f"-{moment.month:02d}-{moment.day:02d}"
    if days < _FIRST_DAY or year > _LAST_YEAR[what]:
        raise RowFault(f"the {what} is out of range")
    return f"{year:04d}{rest}" if year > 0 else f"{1 - year:04d}{rest} BC"


def _moment_text(days: int, microseconds: int, zone: str) -> str:
    more, microseconds = divmod(microseconds, _DAY)
    day = _date_text(days + more, "timestamp")
    seconds, fraction = divmod(microseconds, 1_000_000)
    clock = f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if fraction:
        clock += f".{fraction:06d}".rstrip("0")
    return _with_time(day, clock + zone)


# -- conversions ---------------------------------------------------------------------------------


def timestamp_of_date(day: str) -> str:
    """Convert to midnight. Raises RowFault."""
    if day.endswith("infinity"):
        return day
    if len(day) > 10 and not day.endswith("BC") and int(day[: day.index("-")]) > _LAST_YEAR["timestamp"]:
        raise RowFault("the date is out of range for a timestamp")
    return midnight(day)


def midnight(day: str) -> str:
    """Return the start of a day to compare with timestamps, even if it is out of their range."""
    return day if day.endswith("infinity") else _with_time(day, " 00:00:00")


def timestamptz_of_timestamp(moment: str) -> str:
    """Convert a timestamp as UTC."""
    return moment if moment.endswith("infinity") else _with_time(moment, "+00")


def timestamptz_of_date(day: str) -> str:
    """Convert to midnight in UTC. Raises RowFault."""
    return timestamptz_of_timestamp(timestamp_of_date(day))


def date_of_timestamp(moment: str) -> str:
    """Return the day of a timestamp, a timestamptz (in UTC) or a date."""
    day = moment.partition(" ")[0]
    return f"{day} BC" if moment.endswith("BC") else day


def timestamp_of_timestamptz(moment: str) -> str:
    """Convert to the timestamp in UTC."""
    return moment.replace("+00", "", 1)


def _with_time(day: str, clock: str) -> str:
    return f"{day[:-3]}{clock} BC" if day.endswith("BC") else day + clock


def extracted(field: str, moment: str) -> Decimal | None:
    """Return EXTRACT(field FROM moment) for year, month or day."""
    if moment.endswith("infinity"):
        return Decimal(moment) if field == "year" else None
    day = date_of_timestamp(moment)
    year, month, of_month = day.removesuffix(" BC").split("-")
    if field == "year":
        return -Decimal(year) if day.endswith("BC") else Decimal(year)
    return Decimal(int(month if field == "month" else of_month))
