"""pydantic's validation errors as lines of a message."""

from pydantic import ValidationError

_MOST_FAULTS = 100
_LONGEST_NAME = 80


def faults_of(error: ValidationError) -> list[str]:
    """One line per fault: where it is, what is wrong. Never the input itself: it may hold a secret."""
    faults = error.errors(include_url=False, include_input=False)
    # pydantic reports a list as too short if its items are at fault: that adds nothing.
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    lines = [_line(f["loc"], f["msg"]) for f in faults if not (f["type"] == "too_short" and f["loc"] in around)]
    return lines if len(lines) <= _MOST_FAULTS else [*lines[:_MOST_FAULTS], f"and {len(lines) - _MOST_FAULTS:,} more"]


def shown(name: str) -> str:
    """A key, shortened for a message: senders choose its length."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _line(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(shown(str(part)) for part in location)
    what = "unknown key" if message == "Extra inputs are not permitted" else message.removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
