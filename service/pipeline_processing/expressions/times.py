"""
Dates and timestamps as text, the way Postgres prints them in UTC (`2026-01-18 10:00:00.5+00`, `0044-03-15 BC`).

That text is their value here: it reaches all of Postgres's years and its infinities, and there is one for each value.
"""

import re
from datetime import UTC, date, datetime
from decimal import Decimal

from pipeline_processing.expressions.refusals import RowFault
from pipeline_processing.rows import values

_DAY = 86_400_000_000
"""Microseconds."""
_FIRST_DAY = -2_440_588
"""Of Postgres's calendar, 4714-11-24 BC, in days since 1970."""
_LAST_YEAR = {"date": 5_874_897, "timestamp": 294_276}
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
    """ISO text → date; a time that stands there too means nothing, as in Postgres. Raises RowFault."""
    read = _read(text, "date")
    return read if isinstance(read, str) else _date_text(read[0], "date")


def timestamp_of(text: str) -> str:
    """ISO text → timestamp; a zone that stands there means nothing, as in Postgres. Raises RowFault."""
    read = _read(text, "timestamp")
    return read if isinstance(read, str) else _moment_text(read[0], read[1], "")


def timestamptz_of(text: str) -> str:
    """ISO text → timestamptz; without a zone it is in UTC. Raises RowFault."""
    read = _read(text, "timestamptz")
    return read if isinstance(read, str) else _moment_text(read[0], read[1] - read[2], "+00")


def _read(text: str, what: str) -> tuple[int, int, int] | str:
    """Days since 1970, microseconds since midnight, and of the zone's offset; or an infinity."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise RowFault(f"the text isn't a {what} in ISO form")
    if infinity := match["infinity"]:
        return "-infinity" if infinity[0] == "-" else "infinity"
    year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    if year == 0 or not 1 <= month <= 12:
        raise RowFault(f"the text isn't a {what}: there is no such day")
    days = _days(1 - year if _is_bc(match["era"]) else year, month, day)
    if _civil(days)[1:] != (month, day):
        raise RowFault(f"the text isn't a {what}: there is no such day")
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        raise RowFault(f"the text isn't a {what}: there is no such time of day")
    fraction = round(float("0." + (match["fraction"] or "0")) * 1_000_000)  # in doubles, as Postgres does
    offset = _offset(match)
    return days, ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction, offset * 1_000_000


def _offset(match: re.Match[str]) -> int:
    hours, minutes, seconds = (
        int(digits or 0) for digits in (match["hours"], match["minutes"] or match["minutes2"], match["seconds"])
    )
    offset = (hours * 60 + minutes) * 60 + seconds
    if minutes > 59 or seconds > 59 or offset > _MAX_OFFSET:
        raise RowFault("the text has a time zone that there isn't")
    return -offset if match["sign"] == "-" else offset


def _is_bc(era: str | None) -> bool:
    return era is not None and era.upper() == "BC"


# -- the calendar --------------------------------------------------------------------------------


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 of a day in the Gregorian calendar; 1 BC is the year 0. After H. Hinnant, days_from_civil."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month, day. After H. Hinnant, civil_from_days."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = (shifted + 2) % 12 + 1
    return year + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def _date_text(days: int, what: str) -> str:
    year, month, day = _civil(days)
    if days < _FIRST_DAY or year > _LAST_YEAR[what]:
        raise RowFault(f"the {what} is out of range")
    return f"{year:04d}-{month:02d}-{day:02d}" if year > 0 else f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def _moment_text(days: int, microseconds: int, zone: str) -> str:
    more, microseconds = divmod(microseconds, _DAY)
    day = _date_text(days + more, "timestamp")
    seconds, fraction = divmod(microseconds, 1_000_000)
    time = f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if fraction:
        time += f".{fraction:06d}".rstrip("0")
    return _with_time(day, time + zone)


# -- one to the other ----------------------------------------------------------------------------


def timestamp_of_date(day: str) -> str:
    """At midnight. Raises RowFault."""
    if day.endswith("infinity"):
        return day
    if len(day) > 10 and not day.endswith("BC") and int(day[: day.index("-")]) > _LAST_YEAR["timestamp"]:
        raise RowFault("the date is out of range for a timestamp")
    return midnight(day)


def midnight(day: str) -> str:
    """The start of a day, out of range or not: to compare with timestamps."""
    return day if day.endswith("infinity") else _with_time(day, " 00:00:00")


def timestamptz_of_timestamp(moment: str) -> str:
    """Taken as UTC."""
    return moment if moment.endswith("infinity") else _with_time(moment, "+00")


def timestamptz_of_date(day: str) -> str:
    """At midnight in UTC. Raises RowFault."""
    return timestamptz_of_timestamp(timestamp_of_date(day))


def date_of_timestamp(moment: str) -> str:
    """The day, in UTC where there is a zone; of a date itself."""
    day = moment.partition(" ")[0]
    return f"{day} BC" if moment.endswith("BC") else day


def timestamp_of_timestamptz(moment: str) -> str:
    """In UTC."""
    return moment.replace("+00", "", 1)


def _with_time(day: str, time: str) -> str:
    return f"{day[:-3]}{time} BC" if day.endswith("BC") else day + time


def extracted(field: str, moment: str) -> Decimal | None:
    """EXTRACT of year, month or day."""
    if moment.endswith("infinity"):
        return Decimal(moment) if field == "year" else None
    day = date_of_timestamp(moment)
    year, month, of_month = day.removesuffix(" BC").split("-")
    if field == "year":
        return -Decimal(year) if day.endswith("BC") else Decimal(year)
    return Decimal(int(month if field == "month" else of_month))


# -- Python's own --------------------------------------------------------------------------------


def text_of_datetime(moment: datetime) -> str:
    """A timestamp, or with a zone a timestamptz. Raises RowFault."""
    if moment.tzinfo is None:
        return values.time_text(moment, " ")
    try:
        return values.time_text(moment.astimezone(UTC).replace(tzinfo=None), " ") + "+00"
    except OverflowError:
        raise RowFault("a time is outside the years 1 to 9999 in UTC") from None


def natural(text: str) -> date | datetime | str:
    """As Python has it; the text where Python's years don't reach."""
    try:
        return date.fromisoformat(text) if ":" not in text else datetime.fromisoformat(text)
    except ValueError:
        return text
