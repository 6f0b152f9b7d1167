"""What every command has: options for its logs and notes, and help if it can't do anything without arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.core import TyperGroup

from pipeline_processing.cli.context import override_logs
from pipeline_processing.terminal.notes import set_quiet

_NEED_ARGUMENTS = ("cancel", "replay", "redeliver")
"""Commands of which each option may be left out, but not all."""


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _quiet(given: bool) -> None:
    if given:
        set_quiet(True)


def _log_format(given: LogFormat | None) -> None:
    if given is not None:
        override_logs(json=given is LogFormat.JSON)


def _log_level(given: LogLevel | None) -> None:
    if given is not None:
        override_logs(level=given.value)


def _options(
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_quiet, help="Show no notes and no progress, and log only errors."),
    ] = False,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            "--log-format",
            metavar="F",
            callback=_log_format,
            help="Log as text or json; by default text at a terminal, else json.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            "--log-level",
            metavar="L",
            callback=_log_level,
            help="Log from this level on: debug, info, warning or error.",
        ),
    ] = None,
) -> None:
    pass


def complete(app: typer.Typer) -> TyperGroup:
    """Return the program, with the options that every command has."""
    template = typer.Typer(add_completion=False)
    template.command()(_options)
    options = typer.main.get_command(template).params
    for option in options:
        option.expose_value = False  # their callbacks do the work, so that no command has to pass them on
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    groups = [program]
    for group in groups:
        group.params += options
        group.no_args_is_help = not group.invoke_without_command
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                groups.append(command)
                continue
            command.params += options
            command.no_args_is_help = name in _NEED_ARGUMENTS or any(each.required for each in command.params)
    return program
