"""
The command line: parses arguments, and maps how a command ended to an exit code.

Each command has its own file and defers its imports until it is called, so that `--help` is quick.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline_processing.cli import config, dead_letters, triggers, webhooks
from pipeline_processing.cli.board import board
from pipeline_processing.cli.cancel import cancel
from pipeline_processing.cli.context import current_mask, new_mask
from pipeline_processing.cli.demo import demo
from pipeline_processing.cli.gc import gc
from pipeline_processing.cli.history import history
from pipeline_processing.cli.migrate import migrate
from pipeline_processing.cli.replay import replay
from pipeline_processing.cli.run import run
from pipeline_processing.cli.schemas import schemas
from pipeline_processing.cli.serve import serve
from pipeline_processing.cli.submit import submit
from pipeline_processing.cli.uncaught import uncaught_errors_masked
from pipeline_processing.errors import PipelineError
from pipeline_processing.signals import Terminated, raise_interrupted, raise_terminated
from pipeline_processing.terminal.exit_codes import BUG, FAILED, INTERRUPTED, READER_GONE, SUCCESS, TERMINATED, USAGE

PROGRAM = "pipeline-processing"

app = typer.Typer(
    name=PROGRAM,
    help="Exports one agency's data on request: Postgres → steps → S3.",
    # Plain help and tracebacks: rich doubles the startup time, and its tracebacks print locals, which may be secrets.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (run, serve, submit, replay, history, cancel, board, gc, migrate, schemas, demo):
    app.command()(command)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(config.app, name="config")
app.add_typer(triggers.app, name="triggers")
app.add_typer(webhooks.app, name="webhooks")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the process's arguments, and return the exit code."""
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
        result = app(arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
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
