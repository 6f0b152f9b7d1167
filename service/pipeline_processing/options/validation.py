"""Formats pydantic's validation errors of JSON for messages. For those of configs in YAML, see `config_file.py`."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_MOST_FAULTS = 100
_LONGEST_NAME = 80


def faults_of(error: ValidationError) -> list[str]:
    """Return one line per fault: location and message, without the input, which may contain a secret."""
    faults = without_redundant(error.errors(include_url=False, include_input=False))
    lines = [_line(fault["loc"], fault["msg"]) for fault in faults]
    return lines if len(lines) <= _MOST_FAULTS else [*lines[:_MOST_FAULTS], f"and {len(lines) - _MOST_FAULTS:,} more"]


def without_redundant(faults: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that lists are too short whose items are invalid, which pydantic reports as well."""
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    return [fault for fault in faults if not (fault["type"] == "too_short" and fault["loc"] in around)]


def shown(name: str) -> str:
    """Shorten and escape a key for a message, because senders choose its length and its characters."""
    name = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _line(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(shown(str(part)) for part in location)
    what = "unknown key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
