"""
Notes of commands: what they say on stderr beside their data, which `--quiet` leaves out.

Like the mask of a command, whether it is quiet belongs to the command that runs.
"""

from __future__ import annotations

from contextvars import ContextVar

import typer

from pipeline_processing.terminal import tables
from pipeline_processing.terminal.render import counted

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def set_quiet(quiet: bool) -> None:
    """Set whether the running command is quiet."""
    _quiet.set(quiet)


def is_quiet() -> bool:
    """Whether the running command shows neither notes nor progress."""
    return _quiet.get()


def note(text: str) -> None:
    """Print on stderr what nobody needs in order to use the data."""
    if not is_quiet():
        typer.echo(text, err=True)


def note_length(shown: int, noun: str, *, more: bool) -> None:
    """Say below a list on a terminal how long it is, and always if it isn't the whole list."""
    if more:
        note(f"The newest {counted(shown, noun)}. There are more: narrow the list, or raise --limit.")
    elif tables.on_terminal():
        note(f"{counted(shown, noun)}.")
