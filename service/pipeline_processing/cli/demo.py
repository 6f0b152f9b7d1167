"""`demo`: the main job end to end, on servers of its own."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pipeline_processing.cli.context import current_mask
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS, UNAVAILABLE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Leave servers and service up until Ctrl-C, and print how another shell reaches them."
        ),
    ] = False,
) -> int:
    """
    Show the service at work: starts servers of its own, loads sample data, sends requests, mends and replays a failure.

    Needs no server and no settings, and leaves nothing behind. Takes about twenty seconds.
    """
    from pipeline_processing.demo.page import Page

    page = Page()
    page.title("pipeline-processing: from a request on Kafka to an agency's data in S3")
    page.say("Everything below happens now, on this machine, and leaves nothing behind.")

    # Only now, since it takes a moment.
    from pipeline_processing.demo.errors import StoryUntrue
    from pipeline_processing.demo.tell import tell
    from pipeline_processing.embedded.process import EmbeddedServerError
    from pipeline_processing.telemetry.tracing import configure_telemetry

    environ = dict(os.environ)
    _forget_the_users_servers()
    _configure_logs()
    try:
        with configure_telemetry(environ, mask=current_mask()) as telemetry:
            tell(page=page, tracer=telemetry.tracer, mask=current_mask(), keep=keep, environ=environ)
    except EmbeddedServerError as error:
        typer.echo(f"Error: {error}", err=True)
        return UNAVAILABLE
    except StoryUntrue as error:
        typer.echo(f"Error: {error}", err=True)
        return FAILED
    return SUCCESS


def _forget_the_users_servers() -> None:
    """What drivers read from the environment by themselves is meant for other servers than the demo's."""
    from pipeline_processing.demo.tell import without_proxy

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        del os.environ[name]


def _configure_logs() -> None:
    from pipeline_processing.telemetry.logs import configure_logs

    configure_logs(json=not sys.stderr.isatty(), level="warning", mask=current_mask())
