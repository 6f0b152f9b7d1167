"""Durations in configs: `250ms`, `90s`, `15m`, `1h`."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h|d)$"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: Any) -> Any:
    """`"1h"` → timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(_PATTERN, value):
        raise ValueError(f"{value!r} isn't a duration: write a number and a unit, such as 250ms, 90s, 15m, 1h or 2d")
    unit = re.sub(r"[\d.]", "", value)
    try:
        return timedelta(seconds=float(value.removesuffix(unit)) * _UNITS[unit])
    except OverflowError:
        raise ValueError(f"{value} is longer than a duration can be") from None


def format_duration(value: timedelta) -> str:
    """timedelta → `"3600s"`."""
    seconds = f"{value.total_seconds():f}"
    return f"{seconds.rstrip('0').rstrip('.')}s"


def duration_in_words(value: timedelta) -> str:
    """timedelta → the shortest text that `parse_duration` reads: `"1h"`, `"90s"`, `"250ms"`."""
    milliseconds = round(value / timedelta(milliseconds=1))
    units = {name: round(seconds * 1000) for name, seconds in _UNITS.items()}
    unit = max((name for name in units if milliseconds % units[name] == 0), key=units.__getitem__)
    return f"{milliseconds // units[unit]}{unit}"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["90s", "1h"]}),
]
