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


AS_JSON = "as json"
"""Tells OutputOption, in the context's `meta`, that `--json` is given."""


def _json(context: typer.Context, given: bool) -> None:
    context.meta[AS_JSON] = given


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
    as_json: Annotated[
        bool, typer.Option("--json", callback=_json, is_eager=True, help="The same as -o json.")
    ] = False,
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
    """Return the program, with the options that every command has, and `--json` for those with `-o`."""
    template = typer.Typer(add_completion=False)
    template.command()(_options)
    as_json, *options = typer.main.get_command(template).params
    for option in (as_json, *options):
        option.expose_value = False  # their callbacks do the work, so that no command has to pass them on
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    groups, commands = [program], []
    for group in groups:
        group.no_args_is_help = not group.invoke_without_command
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                groups.append(command)
            else:
                commands.append(command)
                command.no_args_is_help = name in _NEED_ARGUMENTS or any(each.required for each in command.params)
    for each in (*groups, *commands):
        has_forms = any("-o" in param.opts for param in each.params)
        each.params += [as_json, *options] if has_forms else options
    return program
