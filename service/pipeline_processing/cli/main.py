"""
The command line: parses arguments, and maps how a command ended to an exit code.

Each command has its own file, imported when it is called, and defers its own imports, so that all start quickly.
"""

import atexit
import errno
import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperGroup

from pipeline_processing.cli.common import complete
from pipeline_processing.cli.context import current_mask, new_mask
from pipeline_processing.cli.uncaught import uncaught_errors_masked
from pipeline_processing.errors import PipelineError
from pipeline_processing.signals import Terminated, raise_interrupted, raise_terminated
from pipeline_processing.terminal.exit_codes import BUG, FAILED, INTERRUPTED, READER_GONE, SUCCESS, TERMINATED, USAGE

PROGRAM = "pipeline-processing"

COMMANDS = (
    "init", "run", "preview", "serve", "submit", "follow", "queue", "workers", "replay", "history", "cancel", "board",
    "gc", "migrate", "topics", "doctor", "schemas", "demo", "dead-letters", "config", "triggers", "webhooks",
)  # fmt: skip
"""In the order of `--help`. Each is in a module of its name: a function of that name, or `app` with subcommands."""


def program(first: str = "") -> TyperGroup:
    """Return the program: with the command `first` only, if there is one, because each takes time to set up."""
    app = typer.Typer(
        name=PROGRAM,
        help="Exports one agency's data on request: Postgres → steps → S3.",
        # Plain help and tracebacks: rich doubles the startup time, and its tracebacks print locals, which may be
        # secrets.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in (first,) if first in COMMANDS else COMMANDS:
        module = import_module(f"pipeline_processing.cli.{name.replace('-', '_')}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name))
    return complete(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pipeline_processing.app.version import version_lines

        typer.echo("\n".join(version_lines(PROGRAM, os.environ)))
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show the version, that of the history's schema, and the reader of Postgres, and exit.",
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the process's arguments, and return the exit code."""
    # To find its plugins, pydantic would read the metadata of all installed packages, a tenth of the time to start. An
    # empty variable lets it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imports make no garbage worth a tenth of the time to start. The event loop turns its collection on again. At the
    # end, Python would look for some among all modules, which takes longer still.
    gc.disable()
    atexit.register(gc.freeze)
    # Let SIGTERM unwind the stack. Without a handler, process 1 of a container would ignore it.
    before = signal.signal(signal.SIGTERM, raise_terminated)
    # Keep SIGINT ignored where it is, as in a background job.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, raise_interrupted)
    try:
        with uncaught_errors_masked(new_mask()):
            code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = READER_GONE
    finally:
        gc.enable()
        signal.signal(signal.SIGTERM, before)
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if code == READER_GONE:
        # Otherwise Python reports the error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # In standalone mode, typer would exit with its own codes.
        given = sys.argv[1:] if arguments is None else arguments
        result = program(*(given or _words_to_complete())[:1])(given, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        if error.format_message().startswith("Usage: "):  # nothing was wrong but that there were no arguments
            typer.echo(error.format_message(), err=True)
            return USAGE
        _say(f"{error.format_message()}\nSee `{PROGRAM} --help`, or `--help` after a command.")
        return USAGE
    except typer.Abort:
        return INTERRUPTED
    except PipelineError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except SystemExit as error:
        # typer's own handling of a closed stdout ends like this. A failed write anywhere else is a bug.
        cause = error.__context__
        if isinstance(cause, OSError) and cause.errno == errno.EPIPE:
            return READER_GONE
        if not isinstance(error.code, str):
            raise
        _say(error.code)
        return FAILED
    except Exception as error:
        return _bug(error)
    # What a command returned, or the code of typer.Exit.
    return result if isinstance(result, int) else SUCCESS


def _words_to_complete() -> list[str]:
    """Return the words that a shell asks to complete: one command loads faster than all."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


def _bug(error: Exception) -> int:
    if (known := _pipeline_error(error)) is not None:
        _say(str(known))
        return known.exit_code
    import traceback

    _say(f"{type(error).__name__}: {error}. This is a bug: please report it with the lines below.")
    sys.stderr.write(current_mask().text("".join(traceback.format_exception(error))))
    return BUG


def _pipeline_error(error: BaseException) -> PipelineError | None:
    """Return the error, or the first one of a TaskGroup; None if any of them is a bug."""
    if isinstance(error, BaseExceptionGroup):
        known = [_pipeline_error(each) for each in error.exceptions]
        return known[0] if all(known) else None
    return error if isinstance(error, PipelineError) else None


def _say(message: str) -> None:
    typer.echo(f"Error: {current_mask().text(message)}", err=True)


if __name__ == "__main__":
    sys.exit(main())
