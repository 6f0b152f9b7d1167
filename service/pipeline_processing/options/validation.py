"""Formats pydantic's validation errors for messages."""

from pydantic import ValidationError

_MOST_FAULTS = 100
_LONGEST_NAME = 80


def faults_of(error: ValidationError) -> list[str]:
    """Return one line per fault: location and message, without the input, which may contain a secret."""
    faults = error.errors(include_url=False, include_input=False)
    # Pydantic also reports a list with invalid items as too short, which is redundant.
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    lines = [_line(f["loc"], f["msg"]) for f in faults if not (f["type"] == "too_short" and f["loc"] in around)]
    return lines if len(lines) <= _MOST_FAULTS else [*lines[:_MOST_FAULTS], f"and {len(lines) - _MOST_FAULTS:,} more"]


def shown(name: str) -> str:
    """Shorten a key for a message, because senders choose its length."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _line(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(shown(str(part)) for part in location)
    what = "unknown key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
